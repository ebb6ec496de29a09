"""The planted benchmark: trains, analyzes and scores every case, and writes tables of the results.

OUTPUT/cases/NAME/result.json   the scores of a case; a case that has one is not run again
OUTPUT/cases/NAME/run           its run folder; the arrays next to it are deleted after scoring
OUTPUT/results.parquet          one row per case
OUTPUT/results.md               methods by k, one table per regime

The tables include every case in OUTPUT, so several commands can contribute to one benchmark.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tqdm import tqdm

from crosscoder.config import RunConfig
from crosscoder.errors import ConfigError, CrosscoderError
from crosscoder.planted.planted_pair import PlantedPair
from crosscoder.planted.regimes import REGIMES
from crosscoder.run.folder import RunFolder
from crosscoder.runtime.files import make_folder, read_json, write_atomic
from crosscoder.runtime.processes import run_in_processes

from .cases import METHODS, N_TOKENS, SWEPT, Case, case_config, result_settings, sweep_config
from .results import agreement, flat, markdown

logger = logging.getLogger(__name__)

Run = Callable[[RunConfig], RunFolder]
"""Trains and analyzes a run, and returns its folder. Several workers need a module-level function."""

Choose = Callable[[RunConfig, Sequence[int]], int]
"""Sweeps over several k and returns the best."""

Score = Callable[[RunFolder, PlantedPair], Mapping[str, Any]]
"""Returns the scores of a finished run as plain JSON values."""


def evaluate_planted(
    cases: Sequence[Case],
    run: Run,
    score: Score,
    output: Path,
    *,
    choose: Choose | None = None,
    overrides: Sequence[str] = (),
    workers: int = 1,
    n_tokens: int = N_TOKENS,
) -> list[dict[str, Any]]:
    """Run the cases without a result, in `workers` parallel processes with one thread each, and write the tables.

    Cases whose k is chosen by a sweep need `choose`.

    A case whose settings do not fit its pair, or whose training diverges, is recorded with its error message, and the others continue. After
    an interrupt, the same call resumes and keeps finished cases.

    Returns:
        The results in the order of the cases.

    Raises:
        ConfigError: A result in `output` was made with other settings: of one of these cases, or of a case in the same row of a table.
        FormatError: A result is damaged.
        ResourceError: A worker died, for example of too little memory.
    """
    make_folder(output, "OUTPUT")
    places = {case: output / "cases" / case.name for case in cases}
    results = {
        case: found
        for case, place in places.items()
        if (found := _stored_result(case, place, overrides, n_tokens)) is not None
    }
    jobs = [
        (case, place, run, score, choose, tuple(overrides), n_tokens)
        for case, place in places.items()
        if case not in results
    ]
    with tqdm(total=len(places), initial=len(results), desc="evaluate planted", unit="case") as bar:
        for case, result in _run_jobs(jobs, workers):
            results[case] = result
            bar.update()
            logger.info("%s: %s", case.name, result.get("failed") or f"{result['seconds']:.0f} s")
    write_results(output)
    return [results[case] for case in places]


def write_results(output: Path) -> None:
    """Write results.parquet and results.md from every case with a result.

    Raises:
        ConfigError: Cases in the same row of a table were made with different settings.
        FormatError: A result is damaged.
    """
    results = [_read(path) for path in (output / "cases").glob("*/result.json")]
    results.sort(key=lambda result: _table_order(result["case"]))
    _require_one_recipe_a_row(results, output)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(_same_keys([flat(result) for result in results])), sink)
    write_atomic(output / "results.parquet", sink.getvalue().to_pybytes())
    write_atomic(output / "results.md", markdown(results, agreement(results)))


def run_case(
    case: Case,
    folder: Path,
    run: Run,
    score: Score,
    choose: Choose | None,
    overrides: Sequence[str],
    n_tokens: int,
) -> dict[str, Any]:
    """Run one case: sample its tokens, train, score, and write result.json."""
    began = time.monotonic()
    pair = case.pair
    config = case_config(case, pair, folder, overrides)
    result: dict[str, Any] = result_settings(case, config, n_tokens)
    try:
        _write_arrays(pair, folder, result["n_tokens"])
        if case.sweeps:
            assert choose is not None, "a case with a sweep needs `choose`"
            result["k"] = choose(sweep_config(config, folder), SWEPT)
            result["sweep_seconds"] = round(time.monotonic() - began, 2)
            config = case_config(case, pair, folder, overrides, result["k"])
        trained = run(config)
        if case.k == "default":
            result["k"] = getattr(trained.read_config().crosscoder.sparsity, "k", None)
        result["seconds"] = round(time.monotonic() - began, 2)
        result["scores"] = dict(score(trained, pair))
    except CrosscoderError as error:
        result["failed"] = str(error)
    for name in ("reference", "intervened", "documents"):
        (folder / f"{name}.npy").unlink(missing_ok=True)
    write_atomic(folder / "result.json", json.dumps(result, indent=2) + "\n")
    return result


def _write_arrays(pair: PlantedPair, folder: Path, n_tokens: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    sides = pair.sample(n_tokens, seed=1).split(pair.d_models, dim=1)
    for name, values in zip(("reference", "intervened"), sides, strict=True):
        np.save(folder / f"{name}.npy", values.numpy())
    np.save(folder / "documents.npy", np.arange(n_tokens, dtype=np.int64) // pair.document_tokens)


def _stored_result(
    case: Case, folder: Path, overrides: Sequence[str], n_tokens: int
) -> dict[str, Any] | None:
    """Return the stored result of a case, or None. Raises ConfigError if it was made with other settings."""
    path = folder / "result.json"
    if not path.is_file():
        return None
    result = _read(path)
    expected = result_settings(case, case_config(case, case.pair, folder, overrides), n_tokens)
    if {key: result.get(key) for key in expected} != expected:
        raise ConfigError(
            f"{path}: made with other settings than these; choose another output, or remove {folder}"
        )
    return result


def _read(path: Path) -> dict[str, Any]:
    return read_json(path, "remove it to run the case again")


def _table_order(case: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the sort key of a case in the tables."""
    order = (list(REGIMES).index(case["regime"]), list(METHODS).index(case["method"]))
    return *order, case["k"], case["seed"], case["restart"]


def _require_one_recipe_a_row(results: list[dict[str, Any]], output: Path) -> None:
    """Raise ConfigError if the cases of one row have different settings. The seed, and a k from a sweep or the truth, may differ."""
    recipes: dict[tuple[str, ...], tuple[str, dict[str, Any]]] = {}
    for result in results:
        case = Case(**result["case"])
        if "pair_seed" not in result:
            raise ConfigError(
                f"{output}: {case.name} was made by an earlier version, whose pairs were not independent; choose another output, or "
                f"remove {output / 'cases' / case.name}"
            )
        settings = {**result["settings"], "seed": None, "n_tokens": result["n_tokens"]}
        settings["crosscoder"] = {**settings["crosscoder"], "sparsity": None}
        name, first = recipes.setdefault((case.regime, case.method, case.k), (case.name, settings))
        if settings != first:
            raise ConfigError(
                f"{output}: {name} and {case.name} were made with different settings, but belong to one row of the tables; "
                "choose another output, or remove one of them"
            )


Job = tuple[Case, Path, Run, Score, Choose | None, tuple[str, ...], int]


def _run_jobs(jobs: list[Job], workers: int) -> Iterator[tuple[Case, dict[str, Any]]]:
    """Yield results as they finish."""
    if workers == 1 or len(jobs) < 2:
        threads = torch.get_num_threads()
        try:
            for job in jobs:
                yield job[0], run_case(*job)
        finally:
            torch.set_num_threads(threads)
        return
    for number, result in run_in_processes(run_case, jobs, workers):
        yield jobs[number][0], result


def _same_keys(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows that all have every column, in order of first appearance."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in names} for row in rows]
