"""Code fences of the Markdown documents: files to write, commands to run, Python code."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Fence:
    """A fenced code block."""

    language: str
    """Language after the opening fence; empty for program output."""
    text: str

    @property
    def file(self) -> str | None:
        """File to write the block to, if its first line names one: `# pair.yaml`."""
        found = re.match(r"# ([\w.-]+\.(?:yaml|py|jsonl))\b", self.text)
        return found[1] if found else None

    @property
    def commands(self) -> list[str]:
        """Shell commands, without trailing comments."""
        if self.language != "sh":
            return []
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line.partition("  #")[0].strip() for line in lines if line.strip()]


def fences(path: Path) -> list[Fence]:
    """Return all fenced code blocks of a document, in order."""
    return [Fence(*found) for found in _FENCE.findall(path.read_text(encoding="utf-8"))]


def commands() -> Iterator[tuple[Path, str]]:
    """Yield every shell command of every document."""
    for path in GUIDES:
        for fence in fences(path):
            for command in fence.commands:
                yield path, command
