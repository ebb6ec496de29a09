"""The command `crosscoder`: every verb takes YAML settings or a run folder, and `dotted.key=value` words over them.

The only file that knows all three packages. It imports them when a verb needs them, so that `--help` answers at once.
"""

import functools
import importlib.util
import logging
import sys
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated, Literal

import typer

from .config import RunConfig
from .errors import ConfigError, CrosscoderError
from .folder import WITHOUT_EFFECT, RunFolder
from .settings import load_config, with_overrides

app = typer.Typer(
    name="crosscoder",
    help="What changed between two language models, feature by feature, and how sure that is.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Target = Annotated[
    Path, typer.Argument(metavar="CONFIG_OR_RUN", help="a YAML file of settings, or a run folder")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="settings over it, e.g. training.lr=3e-4")
]


def main() -> None:
    """Entry point of the console script."""
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )
    for package in ("crosscoder", "training", "analysis"):
        logging.getLogger(package).setLevel(logging.INFO)
    app(prog_name="crosscoder")


def _verb(function: Callable[..., None]) -> Callable[..., None]:
    """Make `function` a verb: what a user can mend is one line and exit code 2, an interrupt is one line and 130."""

    @functools.wraps(function)
    def guarded(*args: object, **kwargs: object) -> None:
        try:
            function(*args, **kwargs)
        except CrosscoderError as error:
            print(f"crosscoder: {error}", file=sys.stderr)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            print(
                "crosscoder: interrupted; the same command continues where this one stopped", file=sys.stderr
            )
            raise typer.Exit(130) from None

    return app.command(name=function.__name__)(guarded)


# --- the verbs --------------------------------------------------------------------------------------------------------


@_verb
def demo(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FOLDER KEY=VALUE", help="where to put it (runs/demo), and settings over the demo's"
        ),
    ] = None,
    toy: Annotated[
        bool, typer.Option("--toy", help="the toy pair, even where the real one is installed")
    ] = False,
) -> None:
    """The whole story on the embedded pair of models."""
    overrides = list(words or ())
    folder = Path(overrides.pop(0)) if overrides and "=" not in overrides[0] else Path("runs/demo")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"output: {str(folder)!r} is a file; name a folder")
    config, note = _module("crosscoder.embedded.demo").demo_config(folder, toy=toy)
    print(note)
    _run(with_overrides(config, overrides))


@_verb
def run(target: Target, overrides: Overrides = None) -> None:
    """Harvest, train, analyze, report, browse, one after the other."""
    _run(_settings(target, overrides))


@_verb
def harvest(target: Target, overrides: Overrides = None) -> None:
    """Activations of both models to disk."""
    config = _settings(target, overrides)
    _module("training.stages").harvest(config)
    _told("activations", RunFolder(config.output).activations)


@_verb
def train(target: Target, overrides: Overrides = None) -> None:
    """The dictionary; continues an interrupted run."""
    config = _settings(target, overrides)
    _module("training.stages").train(config)
    _told("dictionary", RunFolder(config.output).crosscoder)


@_verb
def analyze(target: Target, overrides: Overrides = None) -> None:
    """The table of features, examples, logit tables, summary."""
    config = _settings(target, overrides)
    RunFolder.open(config.output)
    folder = RunFolder.create(config.output, config)
    _module("analysis.stages").analyze(folder, config)
    _told("features", folder.features)


@_verb
def report(target: Target, overrides: Overrides = None) -> None:
    """What changed in words, with the evidence beside each claim."""
    folder = _finished_run(target, overrides)
    _module("analysis.stages").report(folder)
    _told("report", folder.report)


@_verb
def browse(
    target: Target,
    overrides: Overrides = None,
    serve: Annotated[bool, typer.Option("--serve", help="serve the page on 127.0.0.1 until Ctrl-C")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="port for --serve; 0 takes a free one")] = 8000,
) -> None:
    """The page to look at; opens from disk, offline."""
    folder = _finished_run(target, overrides)
    _told("page", _module("analysis.stages").browse(folder))
    if serve:
        _serve(folder.browser, port)


@_verb
def doctor(target: Target, overrides: Overrides = None) -> None:
    """Check models, hookpoint, memory and disk beforehand."""
    print(_module("training.stages").doctor(_settings(target, overrides)))


@_verb
def export(
    target: Target,
    overrides: Overrides = None,
    to: Annotated[Literal["saelens"], typer.Option("--to", help="the format to write")] = "saelens",
) -> None:
    """The dictionary in another tool's format, under RUN/exports."""
    folder = _finished_run(target, overrides)
    storage = _module("crosscoder.storage")
    made_from = storage.read_record(folder.crosscoder)["provenance"].get("pair") or {}
    metadata = {
        "model_name": " | ".join(str(side["model"]) for side in made_from.values() if isinstance(side, dict)),
        "hook_name": " | ".join(
            str(side["hookpoint"]) for side in made_from.values() if isinstance(side, dict)
        ),
    }
    place = folder.path / "exports" / to
    _module("crosscoder.saelens").export_saelens(storage.load_crosscoder(folder.crosscoder), place, metadata)
    _told(to, place)


# --- behind them ------------------------------------------------------------------------------------------------------


def _run(config: RunConfig) -> None:
    folder = RunFolder.create(config.output, config)
    # One wandb run for all stages; training harvests first by itself.
    with _module("crosscoder.tracking").wandb_run(folder, config):
        _module("training.stages").train(config)
        _told("metrics", folder.metrics)
        _told("dictionary", folder.crosscoder)
        analysis = _module("analysis.stages")
        analysis.analyze(folder, config)
        _told("features", folder.features)
    analysis.report(folder)
    _told("report", folder.report)
    _told("page", analysis.browse(folder))


def _told(what: str, path: Path) -> None:
    print(f"{what:<12} {path}", flush=True)


def _settings(target: Path, overrides: list[str] | None) -> RunConfig:
    """Settings of a file, or of a run folder; its output is then that folder, wherever it was moved to."""
    words = overrides or []
    if not target.is_dir():
        return load_config(target, words)
    config = load_config(RunFolder.open(target).config, words)
    if any(word.startswith("output=") for word in words):
        return config
    return config.model_copy(update={"output": target})


def _finished_run(target: Path, overrides: list[str] | None) -> RunFolder:
    """The run to read; words that would change it are refused, since reading cannot apply them."""
    config = _settings(target, overrides)
    folder = RunFolder.open(config.output)
    folder.require_same(config, WITHOUT_EFFECT)
    return folder


def _module(name: str) -> ModuleType:
    """Import a module of this project, never a namesake from the working directory."""
    package = name.partition(".")[0]
    ours = Path(__file__).resolve().parent.parent / package
    spec = importlib.util.find_spec(package)
    places = (
        [] if spec is None else [Path(place).resolve() for place in spec.submodule_search_locations or ()]
    )
    if ours not in places[:1]:
        origin = spec.origin if spec is not None else None
        found = origin or (str(places[0]) if places else "nothing")
        raise CrosscoderError(
            f"{package}: Python finds {found}, expected {ours}; "
            "use the console command `crosscoder`, or run from another folder"
        )
    return import_module(name)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """No line for each request."""


def _serve(directory: Path, port: int) -> None:
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), functools.partial(_Quiet, directory=str(directory)))
    except OSError as error:
        raise ConfigError(
            f"--port: {port} cannot be used ({error.strerror}); give another, or 0 for a free one"
        ) from None
    with server:
        print(f"serving      http://127.0.0.1:{server.server_port}/  (Ctrl-C stops)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped")


if __name__ == "__main__":
    main()
