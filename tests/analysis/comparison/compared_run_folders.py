"""Made-up runs to compare: an analysis with labels, a dictionary, settings, findings and behaviors."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from analysis.discovery.findings_file import Discovery
from analysis.tables.columns import ANSWERS
from analysis.tables.parquet import write_parquet
from crosscoder.config.load import dump_config
from crosscoder.dictionary.storage import load_crosscoder, read_record, save_crosscoder
from crosscoder.run.folder import RunFolder
from tests.dictionaries import small_crosscoder
from tests.training.in_memory import run_config

from ..discovery_records import discovered
from ..report_runs import controlled, shifted
from ..run_folder import make_run_folder

N_LATENTS = 60


def make_run(
    path: Path,
    *,
    seed: int = 0,
    pair: dict[str, Any] | None = None,
    weights: int | None = None,
    **settings: Any,
) -> RunFolder:
    """Write a run with an analysis, controls and a dictionary.

    Args:
        seed: Of the analysis and of the settings.
        pair: Changes to both models' entries in the manifest.
        weights: Seed of the dictionary; default: `seed`.
    """
    folder = make_run_folder(path, n_latents=N_LATENTS, seed=seed)
    controlled(folder)
    folder.config.write_text(dump_config(run_config(path, seed=seed, n_latents=N_LATENTS, **settings)))
    manifest = json.loads(folder.manifest.read_text())
    for side in ("reference", "intervened"):
        manifest["pair"][side] |= pair or {}
    folder.manifest.write_text(json.dumps(manifest))
    crosscoder = small_crosscoder("batch_topk", "two", N_LATENTS, seed if weights is None else weights)
    save_crosscoder(crosscoder, folder.crosscoder, {"reads": "paired", "pair": manifest["pair"]})
    return folder


def make_bare_run(path: Path) -> RunFolder:
    """Write a run that has nothing but settings, as after an error in its first stage."""
    path.mkdir()
    folder = RunFolder(path)
    folder.config.write_text(dump_config(run_config(path)))
    return folder


def with_results(folder: RunFolder, found: Discovery | None = None) -> RunFolder:
    """Add findings and a behavior."""
    discovered(folder, found)
    shifted(folder, "refusal")
    return folder


def with_answers(folder: RunFolder, reference: list[str], intervened: list[str]) -> None:
    """Add the answers that the search sampled."""
    rows = [
        {"subject": subject, "prompt": f"prompt {at}", "answer": text, "finished": True, "token_ids": [1]}
        for subject, texts in (("reference", reference), ("intervened", intervened))
        for at, text in enumerate(texts)
    ]
    folder.discovery.mkdir(exist_ok=True)
    write_parquet(folder.discovery / "answers.parquet", pa.Table.from_pylist(rows, schema=ANSWERS.schema()))


def edit_summary(folder: RunFolder, **changes: Any) -> None:
    """Replace entries of summary.json."""
    summary = json.loads(folder.summary.read_text())
    folder.summary.write_text(json.dumps(summary | changes))


def withheld(folder: RunFolder) -> RunFolder:
    """Let the run miss a condition, so that its report labels nothing."""
    checks = json.loads(folder.summary.read_text())["checks"]
    checks[0] |= {"passed": False, "found": 0.46875}
    edit_summary(folder, checks=checks)
    return folder


def rotated(folder: RunFolder, source: RunFolder, angle_cosine: float, latents: slice) -> None:
    """Write the dictionary of `source` with some latents turned, in each model, to have this cosine with what they were."""
    crosscoder = load_crosscoder(source.crosscoder)
    d_models = crosscoder.config.d_models
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for rows in crosscoder.W_dec.split(list(d_models), dim=1):
            old = rows[latents].clone()
            noise = torch.randn(old.shape, generator=generator)
            unit = torch.nn.functional.normalize(old, dim=1)
            aside = torch.nn.functional.normalize(noise - (noise * unit).sum(1, keepdim=True) * unit, dim=1)
            turned = angle_cosine * unit + (1 - angle_cosine**2) ** 0.5 * aside
            rows[latents] = turned * old.norm(dim=1, keepdim=True)
    save_crosscoder(crosscoder, folder.crosscoder, read_record(source.crosscoder)["provenance"])
