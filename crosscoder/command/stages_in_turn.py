"""The stages of `run` and `demo`, one after the other."""

from collections.abc import Sequence
from pathlib import Path

from ..config import RunConfig
from ..config.behavior import Behavior
from ..run.folder import RunFolder
from .arguments import load_behaviors, print_result
from .packages import module


def run_all(config: RunConfig, named_by: Path | None = None) -> None:
    """Run every stage, and print where its result is. `named_by` is the run folder that the settings come from, if any."""
    # Loaded first, so that a mistake in them fails before any long work.
    behaviors = load_behaviors(config.behaviors, named_by=named_by)
    module("training.stages").check_processes(config)
    module("training.stages").check_texts(config, behaviors)
    module("analysis.stages").check_attributable(config, behaviors)
    if config.crosscoder.load is not None:
        module("crosscoder.dictionary.dialects.import_dictionary").import_dictionary(config.crosscoder.load)
    with RunFolder(config.output).locked():
        _run_all(config, behaviors)


def _run_all(config: RunConfig, behaviors: list[Behavior]) -> None:
    folder = RunFolder.create(config.output, config)
    # One wandb run for all stages; training includes the harvest.
    with module("crosscoder.run.tracking").wandb_run(folder, config):
        # First, because it needs no dictionary, and what it finds decides which layer the dictionary should read.
        found = _discover(folder, folder.read_config())
        config = module("analysis.stages").settle_hookpoint(folder, folder.read_config())
        module("training.stages").train(config)
        # With every setting chosen that the file left open.
        config = folder.read_config()
        print_result("metrics", folder.metrics)
        print_result("dictionary", folder.crosscoder)
        module("analysis.stages").analyze(folder, config)
        print_result("features", folder.features)
        attribute_all(folder, config, [*behaviors, *found])
        report_stages = module("analysis.report_stages")
        written = report_stages.report(folder)
        print_result("report", folder.report)
        print_result("page", report_stages.browse(folder, written))


def attribute_all(folder: RunFolder, config: RunConfig, behaviors: Sequence[Behavior]) -> None:
    """Attribute behaviors, and print where each result is."""
    for path in module("analysis.stages").attribute_each(folder, config, behaviors):
        print_result("behavior", path)


def _discover(folder: RunFolder, config: RunConfig) -> list[Behavior]:
    """Search for changed behaviors, and return the first findings as behaviors."""
    found = module("analysis.stages").discover(folder, config)
    if found is None:
        return []
    print_result("findings", folder.findings)
    files = [folder.path / finding.behavior for finding in found.findings if finding.behavior is not None]
    return load_behaviors(files[: config.discovery.attribute], named_by=folder.path)
