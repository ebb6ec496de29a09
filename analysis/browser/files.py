"""Where the packs of the page lie: in the page itself, or beyond a size as scripts in a folder beside it.

A page that was opened from disk may not fetch its neighbors, but it may add scripts. So a pack in a file of its own is a
script that hands one string to the page: `crosscoderPack("NAME", "BASE64");`.

*Which scripts may run.* An ordinary digest in the policy cannot allow a file: browsers check digests only of files that a
server sends with permission to be read. 'strict-dynamic' would let inline scripts in as well, and 'self' or file: any file
of the disk. So the policy names a nonce, which only the page's own script knows and puts on the elements that it makes. It
is a digest of all packs: the same for the same run, and known to no text inside them. Chromium keeps to this on disk, too;
Firefox exempts files on disk from every policy, and there keeps the rest of it (no inline script, no request).

*Interrupted builds.* A file's name holds a digest of its content, and index.html, written last and whole, names the files
it needs. So a build that ends early leaves the page before it as it was; what is in no page's use any more goes with the
next build that ends.
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
"""Packs of the latents together stay in index.html up to this size. Such a page can be sent on as one file (mail stops at some
25 to 50 MB), and a browser reads it within a second; what is larger it would have to read before it shows anything."""

DATA = "data"
"""Folder of packs beside index.html."""

_NAME = re.compile(r"\d{5}-[0-9a-f]{16}")


@dataclass
class PackFiles:
    """Takes packs in order; keeps them for the page, or from `limit` bytes on writes each into a file."""

    folder: Path
    """Of index.html."""

    limit: int = SINGLE_FILE_BYTES

    inside: list[str] = field(default_factory=list)
    """Packs that go into the page itself: all of them or none."""

    names: list[str] = field(default_factory=list)
    """Of the files, without ending: all packs or none."""

    def take(self, packs: Iterable[str]) -> None:
        """Go through all packs of a page; holds at most `limit` bytes and one pack of them."""
        size = 0
        for pack in packs:
            self.inside.append(pack)
            size += len(pack)
            if size > self.limit:
                self.names += [self._write(len(self.names) + at, text) for at, text in enumerate(self.inside)]
                self.inside.clear()

    @property
    def nonce(self) -> str | None:
        """What a script of a pack has to carry; none where there is no such script."""
        if not self.names:
            return None
        return base64.b64encode(hashlib.sha256(" ".join(self.names).encode()).digest()).decode("ascii")

    def record(self) -> dict[str, Any] | None:
        """How the page finds the files, for its overview."""
        return {"folder": DATA, "names": self.names, "nonce": self.nonce} if self.names else None

    def remove_stale(self) -> None:
        """Remove packs of earlier builds; files that no build made are left alone."""
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
