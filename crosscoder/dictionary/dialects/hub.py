"""Dictionaries on the Hugging Face Hub: downloaded to the local cache, with the commit that was downloaded."""

import re
from pathlib import Path

from ...errors import FormatError, first_line

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FILES = ("*.json", "*.yaml", "*.safetensors", "*.pt", "*.npz")


def is_hub_id(source: str) -> bool:
    """Whether a source is the id of a repository on the Hub, and no path on this machine."""
    return _HUB_ID.fullmatch(source) is not None and not Path(source).expanduser().exists()


def download(repository: str, revision: str | None, subfolder: str | None) -> tuple[Path, str]:
    """Download the files of one folder of a repository; return where they are, and the commit.

    Only that folder is downloaded, because a repository can hold hundreds of dictionaries.

    Raises:
        FormatError: The repository, the revision or the folder cannot be had.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    inside = f"{subfolder.strip('/')}/" if subfolder else ""
    # `*` matches slashes too, so files of deeper folders are left out by the second list.
    allowed = [f"{inside}{pattern}" for pattern in _FILES]
    try:
        snapshot = Path(
            snapshot_download(
                repository, revision=revision, allow_patterns=allowed, ignore_patterns=[f"{inside}*/*"]
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise FormatError(f"{repository}: cannot be downloaded from the Hub ({first_line(error)})") from None
    place = snapshot / inside
    if not place.is_dir() or not any(path.is_file() for path in place.iterdir()):
        raise FormatError(
            f"{repository}: no files of a dictionary in {inside or 'its top folder'}; name the folder of one dictionary (--subfolder)"
        )
    commit = snapshot.name
    if not _COMMIT.fullmatch(commit):
        raise FormatError(
            f"{repository}: the cache names no commit ({snapshot}); remove it and download again"
        )
    return place, commit
