"""The verbs that bring dictionaries in from other tools and out to them."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import ValidationError

from ..config.dictionary_source import DictionarySource
from ..errors import ConfigError
from ..run.folder import RunFolder
from ..runtime.files import make_folder
from .arguments import Overrides, Target, print_result, reading
from .packages import module


def _help(name: str) -> str:
    return DictionarySource.model_fields[name].description or ""


def import_dictionary(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help=_help("source"))],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="folder for our dictionary files")],
    dialect: Annotated[str, typer.Option("--from", help=_help("dialect"))] = "auto",
    revision: Annotated[str | None, typer.Option(help=_help("revision"))] = None,
    subfolder: Annotated[str | None, typer.Option(help=_help("subfolder"))] = None,
    models: Annotated[
        str | None, typer.Option(help="names of the models in the file's order, e.g. reference,intervened")
    ] = None,
    reads: Annotated[str | None, typer.Option(help=_help("reads"))] = None,
    direction: Annotated[str | None, typer.Option(help=_help("direction"))] = None,
    normalization: Annotated[str | None, typer.Option(help=_help("normalization"))] = None,
    threshold: Annotated[float | None, typer.Option(min=0, help=_help("threshold"))] = None,
    uncalibrated: Annotated[bool, typer.Option("--uncalibrated", help=_help("uncalibrated"))] = False,
    activation: Annotated[str | None, typer.Option(help=_help("activation"))] = None,
    code_normalization: Annotated[str | None, typer.Option(help=_help("code_normalization"))] = None,
) -> None:
    """Read a dictionary that another tool trained, and write it as ours."""
    wanted = {
        "source": source,
        "dialect": dialect,
        "revision": revision,
        "subfolder": subfolder,
        "models": None if models is None else tuple(name.strip() for name in models.split(",")),
        "reads": reads,
        "direction": direction,
        "normalization": normalization,
        "threshold": threshold,
        "uncalibrated": uncalibrated,
        "activation": activation,
        "code_normalization": code_normalization,
    }
    if out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"OUT: {str(out)!r} is not empty; name a new folder")
    imported = module("crosscoder.dictionary.dialects.import_dictionary").import_dictionary(_checked(wanted))
    make_folder(out, "OUT")
    module("crosscoder.dictionary.storage").save_crosscoder(imported.crosscoder, out, imported.provenance)
    print_result("dictionary", out)
    for name, text in imported.summary():
        print_result(name, text)


def _checked(values: dict[str, object]) -> DictionarySource:
    try:
        return DictionarySource.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0]).replace("_", "-")
        raise ConfigError(f"--{option}: {first['input']!r} is not possible ({first['msg']})") from None


def export(
    target: Target,
    overrides: Overrides = None,
    to: Annotated[
        Literal["saelens", "crosscoder_learning", "feature-json", "neuronpedia", "delphi", "hub"],
        typer.Option("--to", help="format to write"),
    ] = "saelens",
    with_examples: Annotated[
        bool,
        typer.Option(
            "--with-examples",
            help="with feature-json, neuronpedia, delphi and hub: also write what quotes the texts of the run, which may be private",
        ),
    ] = False,
) -> None:
    """Write dictionary or latents in another tool's format to RUN/exports."""
    with reading(target, overrides) as folder:
        place = folder.path / "exports" / to
        _export(folder, to, place, with_examples)
    print_result(to, place)


def _export(folder: RunFolder, to: str, place: Path, with_examples: bool) -> None:
    match to:
        case "feature-json":
            module("analysis.sharing.feature_json").write_feature_json(folder, place, with_examples)
        case "neuronpedia":
            module("analysis.sharing.neuronpedia_folder").write_neuronpedia(folder, place, with_examples)
        case "hub":
            module("analysis.sharing.hub_folder").write_hub_folder(folder, place, with_examples)
        case "delphi":
            if not with_examples:
                raise ConfigError(
                    "--to delphi: a latents cache holds the held-out texts of the run as token ids; allow it with --with-examples"
                )
            module("analysis.sharing.delphi_cache").write_delphi(folder, place)
        case _:
            if with_examples:
                raise ConfigError(f"--with-examples: {to} holds weights alone, and no examples; remove it")
            module("crosscoder.dictionary.dialects.exports").export(folder, to, place)


def push(
    target: Target,
    repo: Annotated[
        str, typer.Argument(metavar="REPO", help="id of the repository on the Hub, org/name; made if missing")
    ],
    with_examples: Annotated[
        bool,
        typer.Option(
            "--with-examples", help="also push what quotes the texts of the run, which may be private"
        ),
    ] = False,
    public: Annotated[
        bool, typer.Option("--public", help="make a new repository public; otherwise it is private")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="write the folder and list its files, and push nothing")
    ] = False,
) -> None:
    """Push the dictionary, a model card and the feature table to the Hugging Face Hub, as RUN/exports/hub."""
    hub = module("analysis.sharing.hub_folder")
    with reading(target, []) as folder:
        place = folder.path / "exports" / "hub"
        hub.write_hub_folder(folder, place, with_examples, repo)
        for name, size in hub.files_of(place):
            print_result(f"{size:,} B", name)
        print_result(
            "pushed" if not dry_run else "not pushed",
            hub.upload(place, repo, not public) if not dry_run else place,
        )
