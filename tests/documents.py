"""What a Markdown document asks its reader to do: files to write, commands to type, Python to run."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Fence:
    """A block of code in a document."""

    language: str
    """After the opening fence; empty for what a program prints."""
    text: str

    @property
    def file(self) -> str | None:
        """The file that it is to be written to, if its first line names one: `# pair.yaml`."""
        found = re.match(r"# ([\w.-]+\.(?:yaml|py|jsonl))\b", self.text)
        return found[1] if found else None

    @property
    def commands(self) -> list[str]:
        """The lines that are typed, without the comments behind them."""
        if self.language != "sh":
            return []
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line.partition("  #")[0].strip() for line in lines if line.strip()]


def fences(path: Path) -> list[Fence]:
    """All of a document, in order."""
    return [Fence(*found) for found in _FENCE.findall(path.read_text(encoding="utf-8"))]


def commands() -> Iterator[tuple[Path, str]]:
    """Everything that any document has its reader type."""
    for path in GUIDES:
        for fence in fences(path):
            for command in fence.commands:
                yield path, command
