"""Prepare only the demo's reference model and its texts: `python -m crosscoder.demo runs/embedded`."""

import argparse
from pathlib import Path

from .settings import prepare_reference


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m crosscoder.demo", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder for the model and the texts")
    prepare_reference(parser.parse_args().folder)


if __name__ == "__main__":
    main()
