"""The static page: one self-contained file, or one with a folder of data beside it, that opens from disk, offline."""

from .build import write_page

__all__ = ["write_page"]
