"""Make the zoo.

    python -m training.organisms.zoo OUT [--only NAME,NAME] [--threads N]

writes OUT/NAME/{adapter_model.safetensors,adapter_config.json,behavior.json} for every organism (the one that is rounded is a whole
checkpoint). What is finished is not made again.
"""

import logging

from ..command_line import command_line
from .train import Selection, chosen, make_organism

log = logging.getLogger(__name__)


def main() -> None:
    """Run the command."""
    with command_line(
        "Train small adapters with one hidden behavior each.",
        "folder with one folder for each organism",
        Selection,
    ) as (arguments, selection):
        for behavior in chosen(selection.only):
            if not make_organism(behavior, arguments.reference, arguments.out):
                log.info("%s: already finished", behavior.name)


if __name__ == "__main__":
    main()
