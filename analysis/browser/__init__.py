"""The static page: one self-contained file that opens from disk, offline."""

from .build import write_page

__all__ = ["write_page"]
