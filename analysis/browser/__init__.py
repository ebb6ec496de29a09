"""The static page: one self-contained file, or a file with a folder of data next to it. Opens from disk, offline."""

from .build import write_page

__all__ = ["write_page"]
