"""The command `crosscoder`: verbs that take a YAML file of settings or a run folder, and `dotted.key=value` overrides.

It uses all three packages, and imports them on demand, so that `--help` answers at once.
"""

import functools
import logging
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from ..config import RunConfig
from ..config.explanation import ExplanationSettings
from ..config.load import load_config, with_overrides
from ..config.requirements import Requirements
from ..errors import ConfigError
from ..run.folder import RunFolder
from ..run.mirror import mirrored
from ..runtime.interrupts import treat_sigterm_as_interrupt
from ..runtime.processes import let_idle_threads_sleep
from .arguments import (
    Overrides,
    Target,
    first_word,
    load_behaviors,
    load_settings,
    print_result,
    reading,
    run_folder_of,
    whole_numbers,
    working,
)
from .benchmarks import run_benchmarks
from .copies import MirrorOption, copy, mirror_url
from .dictionaries import export, import_dictionary, push
from .evaluate import evaluate
from .harvest import harvest
from .packages import module
from .stages_in_turn import attribute_all, run_all
from .verbs import verb

app = typer.Typer(
    name="crosscoder",
    help="Explain what changed between two language models, feature by feature, and how strong the evidence is.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Entry point of the console script."""
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )
    for package in ("crosscoder", "training", "analysis"):
        logging.getLogger(package).setLevel(logging.INFO)
    treat_sigterm_as_interrupt()
    let_idle_threads_sleep()
    app(prog_name="crosscoder")


app.add_typer(evaluate, name="evaluate")

_verb = functools.partial(verb, of=app)


# --- the verbs --------------------------------------------------------------------------------------------------------


@_verb
def demo(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FOLDER KEY=VALUE", help="run folder (default: runs/demo), and settings to override"
        ),
    ] = None,
    toy: Annotated[
        bool, typer.Option("--toy", help="use the toy pair, even if the embedded models are installed")
    ] = False,
) -> None:
    """Run every stage on the embedded pair of models."""
    name, overrides = first_word(words, "runs/demo")
    folder = Path(name)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"output: {str(folder)!r} is a file; name a folder")
    config, note = module("crosscoder.demo.settings").demo_config(folder, toy=toy)
    print(note)
    run_all(with_overrides(config, overrides))


@_verb
def run(target: Target, overrides: Overrides = None, mirror: MirrorOption = None) -> None:
    """Run harvest, train, analyze, discover, attribute, report and browse."""
    url, config = mirror_url(mirror), load_settings(target, overrides, uploads=True)
    with mirrored(config.output, url, "--mirror"):
        run_all(config, named_by=run_folder_of(target))


_verb(harvest, alone_with="part")


@_verb
def train(target: Target, overrides: Overrides = None, mirror: MirrorOption = None) -> None:
    """Train the dictionary and its controls; resumes if interrupted."""
    url, config = mirror_url(mirror), load_settings(target, overrides, uploads=True)
    with RunFolder(config.output).locked(), mirrored(config.output, url, "--mirror"):
        module("training.stages").train(config)
    print_result("dictionary", RunFolder(config.output).crosscoder)


@_verb
def sweep(
    target: Target,
    overrides: Overrides = None,
    k: Annotated[
        str | None,
        typer.Option(help="values of k, e.g. 16,24,32 (default: from half to three times the configured k)"),
    ] = None,
    latents: Annotated[
        str | None, typer.Option(help="dictionary sizes, e.g. 2048,4096 (default: the configured one)")
    ] = None,
) -> None:
    """Choose the smallest k on the plateau of explained difference."""
    ks, widths = whole_numbers("--k", k, "16,24,32"), whole_numbers("--latents", latents, "2048,4096")
    config = load_settings(target, overrides, uploads=True)
    with RunFolder(config.output).locked():
        found = module("training.stages").sweep(config, ks, widths)
    for point in found.points:
        chosen = "  <- the smallest on the plateau" if point == found.chosen else ""
        print(
            f"{point.n_latents} latents, k {point.k:<6} {100 * point.explained:5.1f} % of the difference explained{chosen}"
        )
    print_result("sweep", RunFolder(config.output).sweep / "sweep.json")
    chosen = found.chosen
    words = [f"crosscoder.n_latents={chosen.n_latents}", f"crosscoder.sparsity.k={chosen.k}"]
    print(f"next         {shlex.join(['crosscoder', 'run', str(target), *(overrides or ()), *words])}")


@_verb
def analyze(target: Target, overrides: Overrides = None) -> None:
    """Measure and label latents; write examples and logit tables."""
    config = load_settings(target, overrides)
    with working(config.output, "analyze"):
        folder = RunFolder.create(config.output, config)
        module("analysis.stages").analyze(folder, folder.read_config())
    print_result("features", folder.features)


@_verb
def attribute(
    target: Annotated[Path, typer.Argument(metavar="RUN", help="folder of a finished run")],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="BEHAVIOR KEY=VALUE",
            help="YAML file of a behavior (default: the behaviors of the run), and settings to override",
        ),
    ] = None,
) -> None:
    """Measure the shift of a behavior and attribute it to latents."""
    config = load_settings(target, [])
    named, overrides = first_word(words, "")
    paths = [Path(named)] if named else list(config.behaviors)
    if not paths:
        raise ConfigError(f"{target}: the run has no behaviors; give the YAML file of one")
    behaviors = load_behaviors(paths, overrides, named_by=None if named else target)
    with working(config.output, "attribute") as folder:
        attribute_all(folder, config, behaviors)


@_verb
def discover(target: Target, overrides: Overrides = None) -> None:
    """Find behaviors that changed, without being told which."""
    config = load_settings(target, overrides)
    if config.pair is None or not config.discovery.prompts:
        raise ConfigError(
            f"{target}: discover asks both models; "
            + (
                "activations came from files, so there are none"
                if config.pair is None
                else "discovery.prompts is 0; give the number of prompts"
            )
        )
    with RunFolder(config.output).locked():
        folder = RunFolder.create(config.output, config)
        module("analysis.stages").discover(folder, folder.read_config())
    print_result("findings", folder.findings)


@_verb
def explain(
    target: Annotated[Path, typer.Argument(metavar="RUN", help="folder of a finished run")],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE KEY=VALUE",
            help="YAML file of settings (optional), and settings to override, e.g. author.kind=local author.model=PATH",
        ),
    ] = None,
) -> None:
    """Explain latents with a chat model, and score the explanations."""
    config = load_settings(target, [])
    named, overrides = first_word(words, "")
    settings = (
        load_config(Path(named), overrides, ExplanationSettings)
        if named
        else with_overrides(ExplanationSettings(), overrides)
    )
    with working(config.output, "explain") as folder:
        module("analysis.stages").explain(folder, config, settings)
    print_result("explanations", folder.explanations)


@_verb
def report(
    target: Target,
    overrides: Overrides = None,
    require: Annotated[
        Path | None,
        typer.Option("--require", help="YAML file of requirements; exit code 3 if one is not met"),
    ] = None,
) -> None:
    """Write the report of what changed, every claim with its evidence."""
    requirements = None if require is None else load_config(require, model=Requirements)
    report_stages = module("analysis.report_stages")
    with reading(target, overrides, remakes="report") as folder:
        written = report_stages.report(folder)
    print_result("report", folder.report)
    unmet = [] if requirements is None else report_stages.unmet(written, requirements)
    for line in unmet:
        print_result("not met", line)
    if unmet:
        raise typer.Exit(3)


@_verb
def browse(
    target: Target,
    overrides: Overrides = None,
    serve: Annotated[bool, typer.Option("--serve", help="serve the page on 127.0.0.1 until Ctrl-C")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="port for --serve; 0 picks a free one")] = 8000,
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            help="with --serve: add a page that runs both models on your own text and steers them",
        ),
    ] = False,
) -> None:
    """Write the page to explore a run; it opens offline, from disk."""
    if live and not serve:
        raise ConfigError("--live: the live page is served, not written; give --serve as well")
    with reading(target, overrides, remakes="report") as folder:
        # Created first, so that a port in use or a run without models fails before any work.
        server = _server(folder, load_settings(target, overrides), port, live=live) if serve else None
        print_result("page", module("analysis.report_stages").browse(folder))
    if server is not None:
        server.serve(print_result)
        print("stopped")


@_verb
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="two or more run folders")],
    output: Annotated[
        Path, typer.Option("--output", help="folder for comparison.html, comparison.md and comparison.json")
    ] = Path("comparison"),
) -> None:
    """Put findings, labels and behaviors of several runs side by side."""
    files = module("analysis.comparison.compare")
    files.compare(runs, output)
    print_result("page", output / files.PAGE)
    print_result("table", output / files.MARKDOWN)
    print_result("data", output / files.JSON)


@_verb
def plot(
    target: Annotated[Path, typer.Argument(metavar="RUN", help="run folder")],
    to: Annotated[
        Path | None, typer.Option("--to", help="folder of the figures (default: RUN/plots)")
    ] = None,
    formats: Annotated[
        str, typer.Option("--format", help="png, svg and pdf, separated by commas")
    ] = "png,svg",
) -> None:
    """Write the figures for a paper, each with its numbers as CSV."""
    # Without a lock, because it also shows the progress of a run that is at work.
    folder = RunFolder.open(target)
    print_result("figures", module("analysis.plots.stage").write_plots(folder, to, formats.split(",")))


@_verb
def doctor(
    target: Target,
    overrides: Overrides = None,
    ranks: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="print what each of so many processes would need if they shared the latents of a dictionary (training.latent_shards)",
        ),
    ] = None,
) -> None:
    """Check models, hookpoint, memory and disk before a run."""
    if ranks is not None:
        overrides = [*(overrides or ()), f"training.latent_shards={ranks}"]
    config = load_settings(target, overrides)
    behaviors = load_behaviors(config.behaviors, named_by=run_folder_of(target))
    # First, because it reads the prompts alone.
    foreseen = module("analysis.behaviors.foreseen_shifts").foreseen_shifts(behaviors)
    reading = module("analysis.stage_times").stage_times
    print(module("training.stages").doctor(config, behaviors=behaviors, reading=reading))
    if foreseen:
        print(f"\n{foreseen}")


_verb(export)
_verb(import_dictionary, name="import")
_verb(push)
_verb(copy)


@_verb
def bench(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="WHAT KEY=VALUE",
            help="benchmark: step, growth, harvest, shards, analysis, page, coverage, stability, ranks, gpu-grid or all (default; without gpu-grid), and settings to override, e.g. shape.k=32",
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", help="JSON file to write the results to")] = None,
    log: Annotated[
        Path | None,
        typer.Option("--log", help="Markdown log to append a dated section to, e.g. docs/benchmarks.md"),
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="PNG file for the plot of `growth`")] = None,
    repeats: Annotated[int | None, typer.Option("--repeats", help="timed rounds (default: 7)")] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="break down the time of `step` by stage")
    ] = False,
    beside: Annotated[
        int, typer.Option("--beside", min=0, max=1024, help="processes of one thread that are busy meanwhile")
    ] = 0,
    toy: Annotated[
        bool, typer.Option("--toy", help="use only the toy pair, even if the embedded models are installed")
    ] = False,
) -> None:
    """Measure the speed on this machine, relative to a reference. `gpu-grid` ends with exit code 3 if `training.step: auto` loses anywhere."""
    what, overrides = first_word(words, "all")
    if repeats is not None:
        overrides.append(f"repeats={repeats}")
    lost = run_benchmarks(what, overrides, output, log, plot, profile=profile, toy=toy, beside=beside)
    for line in lost:
        print_result("slower", line)
    if lost:
        raise typer.Exit(3)


# --- shared by the verbs ----------------------------------------------------------------------------------------------


def _server(folder: RunFolder, config: RunConfig, port: int, *, live: bool) -> Any:
    """Return the server of the page of a run."""
    if live:
        return module("analysis.live.live_server").LiveServer(folder, config, port)
    return module("analysis.browser.page_server").PageServer(folder.browser, port)
