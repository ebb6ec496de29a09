"""A folder for a model hub: the dictionary as `load_crosscoder` reads it, a model card, and the tables of the analysis.

FOLDER/README.md            the model card: what was compared, how good the dictionary is, labels, conditions, limits
FOLDER/config.json, model.safetensors     the dictionary; local paths in its provenance are cut to their last part
FOLDER/features.parquet     one row per latent, without the columns that quote the texts of the run
FOLDER/report/, page/       report and page, and FOLDER/features.parquet is whole: only with examples, because all of them quote texts
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from crosscoder.dictionary.dialects.hub import is_hub_id
from crosscoder.dictionary.storage import read_record
from crosscoder.errors import ConfigError, FormatError, first_line
from crosscoder.run.folder import RunFolder
from crosscoder.runtime.files import write_atomic

from ..report.content import build_report
from ..report.render import PAGES, markdown_environment
from ..tables.analysis_files import AnalysisResults, load_results

CARD, PAGE = "README.md", "page/index.html"

_TEMPLATES = Path(__file__).parent / "templates"
_TEXT_COLUMNS = frozenset({"label", "candidate", "reason"})
"""Columns of text that quote no text of the run."""


def write_hub_folder(
    folder: RunFolder, place: Path, with_examples: bool = False, repo: str | None = None
) -> None:
    """Write the folder anew, so that nothing of a former one is left in it.

    Args:
        with_examples: Also write what quotes the texts of the run, which may be private.
        repo: Id of the repository, for the model card.

    Raises:
        FormatError: The analysis is missing or damaged, or report or page are missing with `with_examples`.
    """
    results = load_results(folder)
    shared = {}
    if with_examples:
        names = "report.json", *(f"{page}.{form}" for page in PAGES for form in ("md", "html"))
        shared = {f"report/{name}": folder.report / name for name in names}
        shared[PAGE] = folder.browser / "index.html"
        for path in shared.values():
            if not path.is_file():
                raise FormatError(f"{path}: missing; run `crosscoder {_verb_of(path)} {folder.path}`")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    record = read_record(folder.crosscoder)
    record["provenance"] = _without_paths(record["provenance"])
    shutil.copyfile(folder.crosscoder / "model.safetensors", place / "model.safetensors")
    write_atomic(place / "config.json", json.dumps(record, indent=2) + "\n")
    table = pq.read_table(folder.features)
    pq.write_table(table if with_examples else without_texts(table), place / "features.parquet")
    for name, path in shared.items():
        (place / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(path, place / name)
    write_atomic(place / CARD, _card(folder, results, record, with_examples, repo))


def files_of(place: Path) -> list[tuple[str, int]]:
    """Return the name and the size in bytes of every file of a folder."""
    paths = sorted(path for path in place.rglob("*") if path.is_file())
    return [(path.relative_to(place).as_posix(), path.stat().st_size) for path in paths]


def upload(place: Path, repo: str, private: bool) -> str:
    """Upload the folder, and return the address of the repository.

    Raises:
        ConfigError: The hub refuses it or cannot be reached, or nobody is logged in.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    api = HfApi()
    try:
        address = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=place, commit_message="Upload of crosscoder push")
    except LocalTokenNotFoundError:
        raise ConfigError(f"REPO: {repo}: nobody is logged in at the hub; run `hf auth login`") from None
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ConfigError(
            f"REPO: {repo} cannot be written ({first_line(error)}); check its name, your login and the connection"
        ) from error
    return str(address)


def without_texts(table: pa.Table) -> pa.Table:
    """Return a table without the columns that quote the texts of the run."""
    kept = [
        field.name for field in table.schema if not _holds_text(field.type) or field.name in _TEXT_COLUMNS
    ]
    return table.select(kept)


def _holds_text(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _holds_text(kind.value_type)
    if pa.types.is_dictionary(kind):
        return _holds_text(kind.value_type)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_nested(kind)


def _without_paths(value: Any) -> Any:
    """Return a record in which every absolute path is cut to its last part: where files lay on this machine concerns nobody."""
    if isinstance(value, dict):
        return {name: _without_paths(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_without_paths(entry) for entry in value]
    if isinstance(value, str) and (Path(value).is_absolute() or value.startswith(("~", "./", "../"))):
        return Path(value).name
    return value


def _card(
    folder: RunFolder, results: AnalysisResults, record: dict[str, Any], with_examples: bool, repo: str | None
) -> str:
    report = build_report(results, folder)
    sides = [side for side in (record["provenance"].get("pair") or {}).values() if isinstance(side, dict)]
    named = [side.get("adapter") or side["model"] for side in sides if side.get("model")]
    checkpoints = dict.fromkeys(str(side["model"]) for side in sides if side.get("model"))
    return (
        markdown_environment(_TEMPLATES)
        .get_template("model_card.md.j2")
        .render(
            report=report,
            dictionary=record["crosscoder"],
            base_models=[json.dumps(name) for name in checkpoints if is_hub_id(name)],
            compared=named,
            hookpoints=dict.fromkeys(str(side["hookpoint"]) for side in sides if side.get("hookpoint")),
            with_examples=with_examples,
            repo=repo or "REPOSITORY",
        )
    )


def _verb_of(path: Path) -> str:
    return "browse" if path.parent.name == "browser" else "report"
