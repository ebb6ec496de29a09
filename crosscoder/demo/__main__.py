"""Make the demo's reference and its texts alone: `python -m crosscoder.demo runs/embedded`."""

import argparse
from pathlib import Path

from .settings import prepare_reference


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m crosscoder.demo", description=__doc__)
    parser.add_argument("place", type=Path, help="folder for both")
    prepare_reference(parser.parse_args().place)


if __name__ == "__main__":
    main()
