"""The verb that writes activations to disk: computed by the models, or by another program."""

import os
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError
from ..run.folder import RunFolder
from ..runtime.parts import LAUNCHER, local_rank, read_part
from .arguments import Overrides, Target, activations_of, load_settings, print_result
from .packages import module


def harvest(
    target: Target,
    overrides: Overrides = None,
    part: Annotated[
        str | None,
        typer.Option(
            metavar="PART/PARTS",
            help="write one part, e.g. 3/8 for the third of eight; env takes it from torchrun or Slurm. Parts may run at once and on several machines",
        ),
    ] = None,
    join: Annotated[
        bool,
        typer.Option(
            "--join", help="join the finished parts; the next command that needs the activations does so, too"
        ),
    ] = False,
    token_ids: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="only write the token ids of the documents to FOLDER, for another program that computes the activations (vLLM, SGLang)",
        ),
    ] = None,
    from_files: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="take activations that another program computed, from FOLDER/reference/*.safetensors and FOLDER/intervened/*.safetensors, one "
            "file for each document with token_ids and hidden_states; a sample is compared with the models first",
        ),
    ] = None,
    file_layer: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="with --from-files: which of several layers in a file to read, counted from 0"
        ),
    ] = None,
) -> None:
    """Write the activations of all models to disk."""
    _check_words(part, token_ids, from_files, file_layer, join=join)
    assigned = None if part is None else read_part(part, os.environ)
    config = load_settings(target, overrides, uploads=True)
    stages, folder = module("training.stages"), RunFolder(config.output)
    if token_ids is not None:
        with folder.locked():
            written = stages.export_token_ids(config, token_ids)
        for models, path in written.items():
            print_result("token ids" if len(models) > 1 else models[0], path)
        return
    files = None if from_files is None else stages.FilesRequest(from_files, file_layer)
    place = activations_of(folder, config)
    if assigned is not None:
        stages.harvest_one_part(config, assigned, local_rank(os.environ) if part == LAUNCHER else 0, files)
        print_result(f"part {assigned}", place)
        return
    with folder.locked():
        stages.join(config) if join else stages.harvest(config, request=files)
    print_result("activations", place)


def _check_words(
    part: str | None, token_ids: Path | None, from_files: Path | None, file_layer: int | None, *, join: bool
) -> None:
    """Refuse options that exclude each other. Raises ConfigError."""
    if part is not None and join:
        raise ConfigError("--part, --join: give one of them; parts are joined once all are finished")
    if token_ids is not None and (join or part is not None or from_files is not None):
        raise ConfigError(
            "--token-ids: harvests nothing; give it alone, then compute the activations, then give --from-files"
        )
    if from_files is not None and join:
        raise ConfigError("--from-files, --join: give one of them; joining needs no files")
    if file_layer is not None and from_files is None:
        raise ConfigError("--file-layer: says how to read files, but --from-files is not given; give both")
