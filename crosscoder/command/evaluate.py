"""The verbs of `crosscoder evaluate`: benchmarks whose truth is known."""

import functools
from pathlib import Path
from typing import Annotated

import typer

from .arguments import Overrides, print_result
from .packages import choose_k, module, train_and_analyze
from .verbs import verb

evaluate = typer.Typer(help="Score methods on pairs whose differences are known.", no_args_is_help=True)

_verb = functools.partial(verb, of=evaluate)


@_verb
def planted(
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="folder for the results")],
    overrides: Overrides = None,
    regimes: Annotated[
        str, typer.Option(help="regimes of planted differences, separated by commas")
    ] = "standard,rare",
    methods: Annotated[str, typer.Option(help="methods to score, separated by commas")] = "batch_topk",
    k: Annotated[
        str,
        typer.Option(
            help="latents that fire per token: default (as a run chooses it), sweep, numbers, true, or multiples such as 1.5x"
        ),
    ] = "default",
    seeds: Annotated[int, typer.Option(min=1, help="pairs per regime")] = 5,
    restarts: Annotated[int, typer.Option(min=1, help="trainings per pair")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="cases run in parallel")] = 2,
) -> None:
    """Score methods on synthetic pairs with planted differences."""
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
    print_result("results", output / "results.md")


@_verb
def discovery(
    zoo: Annotated[
        Path, typer.Argument(metavar="ZOO", help="folder that `python -m training.organisms.zoo ZOO` made")
    ],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="folder for the results")],
    overrides: Overrides = None,
    only: Annotated[
        str | None, typer.Option(help="names of organisms, separated by commas; default: all")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="pairs searched in parallel, with one thread each")] = 2,
) -> None:
    """Score the search for changed behaviors on models with hidden behaviors."""
    benchmark = module("analysis.discovery_benchmark.search_benchmark")
    benchmark.evaluate_discovery(
        zoo, output, only=only.split(",") if only else (), overrides=overrides or (), workers=workers
    )
    print_result("results", output / benchmark.RESULTS)
