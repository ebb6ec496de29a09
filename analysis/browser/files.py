"""Storage of the packs: inside the page, or above a total size as scripts in a folder next to it.

A page opened from disk may not fetch files, but it may load scripts. So a pack in a separate file is a script that passes
one string to the page: `crosscoderPack("NAME", "BASE64");`.

*Which scripts may run.* A digest in the policy cannot allow a file: browsers check digests only for files that a server
sends with read permission. 'strict-dynamic' would also allow inline scripts, and 'self' or file: any file on disk. So the
policy names a nonce, which only the page's own script knows and sets on the elements that it creates. The nonce is a digest
of all packs: equal for equal runs, and unknown to any text inside them. Chromium enforces it on disk too; Firefox exempts
script files on disk from the policy, but enforces the rest of it (no inline script, no request).

*Interrupted builds.* A file's name contains a digest of its content, and index.html, written last and atomically, names the
files that it needs. So an interrupted build leaves the previous page intact; the next completed build removes unused files.
"""

import base64
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crosscoder.runtime.files import write_atomic

SINGLE_FILE_BYTES = 30_000_000
"""Largest total size of the latent packs that stay inside index.html. Such a page can be sent as one file (mail servers limit
attachments to about 25 to 50 MB), and a browser reads it within a second. A browser reads the whole file before it shows anything."""

DATA = "data"
"""Folder of the packs, next to index.html."""

_NAME = re.compile(r"\d{5}-[0-9a-f]{16}")


@dataclass
class PackFiles:
    """Collects the packs of a page in order; above `limit` bytes in total, writes each to a file."""

    folder: Path
    """Folder of index.html."""

    limit: int = SINGLE_FILE_BYTES

    inside: list[str] = field(default_factory=list)
    """Packs stored in the page: all of them or none."""

    names: list[str] = field(default_factory=list)
    """Names of the pack files, without extension: of all packs or none."""

    def take(self, packs: Iterable[str]) -> None:
        """Collect all packs of a page; holds at most `limit` bytes plus one pack in memory."""
        size = 0
        for pack in packs:
            self.inside.append(pack)
            size += len(pack)
            if size > self.limit:
                self.names += [self._write(len(self.names) + at, text) for at, text in enumerate(self.inside)]
                self.inside.clear()

    @property
    def nonce(self) -> str | None:
        """The nonce that pack scripts must have; None if all packs are inside the page."""
        if not self.names:
            return None
        return base64.b64encode(hashlib.sha256(" ".join(self.names).encode()).digest()).decode("ascii")

    def record(self) -> dict[str, Any] | None:
        """Return folder, names and nonce of the pack files for the overview; None if there are none."""
        return {"folder": DATA, "names": self.names, "nonce": self.nonce} if self.names else None

    def remove_stale(self) -> None:
        """Remove pack files of earlier builds; other files are left alone."""
        folder = self.folder / DATA
        if not folder.is_dir():
            return
        wanted = set(self.names)
        for path in folder.glob("*.js"):
            if _NAME.fullmatch(path.stem) and path.stem not in wanted:
                path.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()

    def _write(self, index: int, pack: str) -> str:
        name = f"{index:05d}-{hashlib.sha256(pack.encode('ascii')).hexdigest()[:16]}"
        write_atomic(self.folder / DATA / f"{name}.js", f'crosscoderPack("{name}","{pack}");\n')
        return name
