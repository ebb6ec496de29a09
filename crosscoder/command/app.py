"""The command `crosscoder`: every verb takes YAML settings or a run folder, and `dotted.key=value` words over them.

The only file that knows all three packages. It imports them when a verb needs them, so that `--help` answers at once.
"""

import functools
import logging
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..config import RunConfig
from ..config.behavior import Behavior
from ..config.explanation import ExplanationSettings
from ..config.load import load_config, with_overrides
from ..config.requirements import Requirements
from ..errors import ConfigError, CrosscoderError
from ..run.folder import WITHOUT_EFFECT, RunFolder
from ..runtime.files import write_atomic
from ..runtime.interrupts import take_sigterm_for_ctrl_c
from .packages import bench_analysis, bench_page, choose_k, module, train_and_analyze

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
    take_sigterm_for_ctrl_c()
    app(prog_name="crosscoder")


evaluate = typer.Typer(help="Score methods where the truth is known.", no_args_is_help=True)
app.add_typer(evaluate, name="evaluate")


def _verb(function: Callable[..., None], of: typer.Typer = app) -> Callable[..., None]:
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

    return of.command(name=function.__name__)(guarded)


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
    place, overrides = _first_word(words, "runs/demo")
    folder = Path(place)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"output: {str(folder)!r} is a file; name a folder")
    config, note = module("crosscoder.demo.settings").demo_config(folder, toy=toy)
    print(note)
    _run(with_overrides(config, overrides))


@_verb
def run(target: Target, overrides: Overrides = None) -> None:
    """Harvest, train, analyze, attribute, report, browse, one after the other."""
    _run(_settings(target, overrides))


@_verb
def harvest(target: Target, overrides: Overrides = None) -> None:
    """Activations of both models to disk."""
    config = _settings(target, overrides)
    module("training.stages").harvest(config)
    _told("activations", RunFolder(config.output).activations)


@_verb
def train(target: Target, overrides: Overrides = None) -> None:
    """The dictionary; continues an interrupted run."""
    config = _settings(target, overrides)
    module("training.stages").train(config)
    _told("dictionary", RunFolder(config.output).crosscoder)


@_verb
def sweep(
    target: Target,
    overrides: Overrides = None,
    k: Annotated[
        str | None,
        typer.Option(help="latents that fire, e.g. 16,24,32; else from half to three times the configured k"),
    ] = None,
    latents: Annotated[
        str | None, typer.Option(help="sizes of the dictionary, e.g. 2048,4096; else the configured one")
    ] = None,
) -> None:
    """Several k; chooses the smallest that explains the difference."""
    ks, widths = _numbers("--k", k, "16,24,32"), _numbers("--latents", latents, "2048,4096")
    config = _settings(target, overrides)
    found = module("training.stages").sweep(config, ks, widths)
    for point in found.points:
        chosen = "  <- the smallest on the plateau" if point == found.chosen else ""
        print(
            f"{point.n_latents} latents, k {point.k:<6} {100 * point.explained:5.1f} % of the difference explained{chosen}"
        )
    _told("sweep", RunFolder(config.output).sweep / "sweep.json")
    chosen = found.chosen
    words = [f"crosscoder.n_latents={chosen.n_latents}", f"crosscoder.sparsity.k={chosen.k}"]
    print(f"next         {shlex.join(['crosscoder', 'run', str(target), *(overrides or ()), *words])}")


@_verb
def analyze(target: Target, overrides: Overrides = None) -> None:
    """The table of features, examples, logit tables, summary."""
    config = _settings(target, overrides)
    RunFolder.open(config.output)
    folder = RunFolder.create(config.output, config)
    module("analysis.stages").analyze(folder, config)
    _told("features", folder.features)


@_verb
def attribute(
    target: Annotated[Path, typer.Argument(metavar="RUN", help="a finished run")],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="BEHAVIOR KEY=VALUE",
            help="a YAML file of a behavior (those that the run names, if left out), and settings over it",
        ),
    ] = None,
) -> None:
    """How a behavior shifted, and which latents carry the shift."""
    config = _settings(target, [])
    folder = RunFolder.open(config.output)
    named, overrides = _first_word(words, "")
    paths = [Path(named)] if named else list(config.behaviors)
    if not paths:
        raise ConfigError(f"{target}: names no behavior; give the YAML file of one")
    _attribute(folder, config, _behaviors(paths, overrides))


@_verb
def explain(
    target: Annotated[Path, typer.Argument(metavar="RUN", help="a finished run")],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE KEY=VALUE",
            help="a YAML file of settings, and settings over it, e.g. author.kind=local author.model=PATH",
        ),
    ] = None,
) -> None:
    """What a chat model makes of latents, and how well it tells."""
    config = _settings(target, [])
    folder = RunFolder.open(config.output)
    named, overrides = _first_word(words, "")
    settings = (
        load_config(Path(named), overrides, ExplanationSettings)
        if named
        else with_overrides(ExplanationSettings(), overrides)
    )
    module("analysis.stages").explain(folder, config, settings)
    _told("explanations", folder.explanations)


@_verb
def report(
    target: Target,
    overrides: Overrides = None,
    require: Annotated[
        Path | None,
        typer.Option("--require", help="a YAML file of requirements; exit code 3 where one is not fulfilled"),
    ] = None,
) -> None:
    """What changed in words, with the evidence beside each claim."""
    requirements = None if require is None else load_config(require, model=Requirements)
    folder = _finished_run(target, overrides)
    presentation = module("analysis.report_stages")
    presentation.report(folder)
    _told("report", folder.report)
    unmet = [] if requirements is None else presentation.unmet(folder, requirements)
    for line in unmet:
        _told("not met", line)
    if unmet:
        raise typer.Exit(3)


@_verb
def browse(
    target: Target,
    overrides: Overrides = None,
    serve: Annotated[bool, typer.Option("--serve", help="serve the page on 127.0.0.1 until Ctrl-C")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="port for --serve; 0 takes a free one")] = 8000,
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            help="with --serve: also a page on which both models read what you type, and are steered",
        ),
    ] = False,
) -> None:
    """The page to look at; opens from disk, offline."""
    if live and not serve:
        raise ConfigError("--live: the live page is served, not written; give --serve as well")
    folder = _finished_run(target, overrides)
    # A port that is taken, and a run without models, are told before any work.
    server = _server(folder, _settings(target, overrides), port, live=live) if serve else None
    _told("page", module("analysis.report_stages").browse(folder))
    if server is not None:
        server.serve(_told)
        print("stopped")


@_verb
def plot(
    target: Annotated[Path, typer.Argument(metavar="RUN", help="a run folder")],
    to: Annotated[Path | None, typer.Option("--to", help="folder of the figures; else RUN/plots")] = None,
    formats: Annotated[
        str, typer.Option("--format", help="png, svg and pdf, separated by commas")
    ] = "png,svg",
) -> None:
    """The figures for a paper, each with its numbers as CSV."""
    folder = _finished_run(target, None)
    _told("figures", module("analysis.plots.stage").write_plots(folder, to, formats.split(",")))


@_verb
def doctor(target: Target, overrides: Overrides = None) -> None:
    """Check models, hookpoint, memory and disk beforehand."""
    print(module("training.stages").doctor(_settings(target, overrides)))


@_verb
def export(
    target: Target,
    overrides: Overrides = None,
    to: Annotated[Literal["saelens"], typer.Option("--to", help="the format to write")] = "saelens",
) -> None:
    """The dictionary in another tool's format, under RUN/exports."""
    folder = _finished_run(target, overrides)
    storage = module("crosscoder.dictionary.storage")
    made_from = storage.read_record(folder.crosscoder)["provenance"].get("pair") or {}
    metadata = {
        "model_name": " | ".join(str(side["model"]) for side in made_from.values() if isinstance(side, dict)),
        "hook_name": " | ".join(
            str(side["hookpoint"]) for side in made_from.values() if isinstance(side, dict)
        ),
    }
    place = folder.path / "exports" / to
    module("crosscoder.dictionary.saelens").export_saelens(
        storage.load_crosscoder(folder.crosscoder), place, metadata
    )
    _told(to, place)


@_verb
def bench(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="WHAT KEY=VALUE",
            help="step, growth, harvest, shards, analysis, page or all (the default), and settings, e.g. shape.k=32",
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", help="a JSON file for the figures")] = None,
    log: Annotated[
        Path | None, typer.Option("--log", help="a log to append a dated section to, e.g. docs/benchmarks.md")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="a PNG file for the plot of `growth`")] = None,
    repeats: Annotated[int | None, typer.Option("--repeats", help="rounds that count (7)")] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="say of `step` where its time goes, by its stages")
    ] = False,
    toy: Annotated[
        bool, typer.Option("--toy", help="the toy pair alone, even where the real one is installed")
    ] = False,
) -> None:
    """How fast it is here: every part beside a reference of the same process."""
    what, overrides = _first_word(words, "all")
    if repeats is not None:
        overrides.append(f"repeats={repeats}")
    settings = module("training.bench.settings")
    chosen = settings.chosen_benchmarks(what)
    config = with_overrides(settings.BenchConfig(), overrides)
    timing, stages = module("crosscoder.runtime.timing"), module("training.bench.benchmarks")
    if log is not None:
        timing.require_log(log)
    device = stages.prepare(config, plot if "growth" in chosen else None)
    record = timing.Log(shlex.join(["crosscoder", *sys.argv[1:]]), timing.machine(device))
    for name in chosen:
        if name == "analysis":
            tables = bench_analysis(config, device, toy)
        elif name == "page":
            tables = bench_page(config)
        else:
            tables = stages.measure(name, config, toy=toy, profile=profile, plot=plot)
        for table in tables:
            print(table.markdown(), flush=True)
            record.figures.append(table)
    if output is not None:
        write_atomic(output, record.json())
        _told("figures", output)
    if log is not None:
        record.append_to(log)
        _told("log", log)


@functools.partial(_verb, of=evaluate)
def planted(
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="folder of the results")],
    overrides: Overrides = None,
    regimes: Annotated[str, typer.Option(help="what is planted, separated by commas")] = "standard,rare",
    methods: Annotated[str, typer.Option(help="how it is looked for")] = "batch_topk",
    k: Annotated[
        str, typer.Option(help="latents that fire: sweep, numbers, true, or multiples such as 1.5x")
    ] = "sweep",
    seeds: Annotated[int, typer.Option(min=1, help="pairs of each regime")] = 5,
    restarts: Annotated[int, typer.Option(min=1, help="trainings of each pair")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="cases side by side")] = 2,
) -> None:
    """Pairs of made-up models whose every difference is known; what each method finds of them."""
    cases = module("analysis.planted_benchmark.cases").plan(
        *(words.split(",") for words in (regimes, methods, k)), range(seeds), restarts
    )
    module("analysis.planted_benchmark.benchmark").evaluate_planted(
        cases,
        train_and_analyze,
        module("analysis.planted_benchmark.scores").score_run,
        output,
        choose=choose_k,
        overrides=overrides or (),
        workers=workers,
    )
    _told("results", output / "results.md")


# --- behind them ------------------------------------------------------------------------------------------------------


def _run(config: RunConfig) -> None:
    # A mistake in them is told before any long work.
    behaviors = _behaviors(config.behaviors)
    folder = RunFolder.create(config.output, config)
    # One wandb run for all stages; training harvests first by itself.
    with module("crosscoder.run.tracking").wandb_run(folder, config):
        module("training.stages").train(config)
        _told("metrics", folder.metrics)
        _told("dictionary", folder.crosscoder)
        module("analysis.stages").analyze(folder, config)
        _told("features", folder.features)
        _attribute(folder, config, behaviors)
        presentation = module("analysis.report_stages")
        presentation.report(folder)
        _told("report", folder.report)
        _told("page", presentation.browse(folder))


def _behaviors(paths: Iterable[Path], overrides: Sequence[str] = ()) -> list[Behavior]:
    return [load_config(path, overrides, Behavior) for path in paths]


def _attribute(folder: RunFolder, config: RunConfig, behaviors: Iterable[Behavior]) -> None:
    for behavior in behaviors:
        _told("behavior", module("analysis.stages").attribute(folder, config, behavior))


def _numbers(name: str, words: str | None, example: str) -> list[int]:
    """Whole numbers above 0, separated by commas; none where nothing was given."""
    try:
        numbers = [int(word) for word in words.split(",")] if words else []
    except ValueError:
        raise ConfigError(f"{name}: {words!r} is not a list of numbers; give e.g. {example}") from None
    if any(number < 1 for number in numbers):
        raise ConfigError(f"{name}: {words!r} holds a number below 1; give e.g. {example}")
    return numbers


def _first_word(words: list[str] | None, default: str) -> tuple[str, list[str]]:
    """The word before all settings, where there is one, and the settings."""
    first, *others = words or [default]
    return (default, [first, *others]) if "=" in first else (first, others)


def _told(what: str, found: Path | str) -> None:
    print(f"{what:<12} {found}", flush=True)


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


def _server(folder: RunFolder, config: RunConfig, port: int, *, live: bool) -> Any:
    """What serves the page of a run."""
    if live:
        return module("analysis.live.live_server").LiveServer(folder, config, port)
    return module("analysis.browser.page_server").PageServer(folder.browser, port)
