"""URLs of stores: places for files that fsspec reaches, such as buckets."""

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator

OF_THIS_MACHINE = ("file", "local", "memory")
"""Schemes whose URLs lead nowhere else."""

OF_A_PROVIDER = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az")
"""Schemes whose URLs name a bucket. The host that is asked for it comes from the user's own configuration, not from the URL."""

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://")
_WITH_CONTAINER = ("abfs", "abfss")
"""Schemes that write the container before an @, where others write a user."""


def scheme_of(url: str) -> str:
    """Return the scheme of the URL of a store, e.g. s3."""
    return url.partition("://")[0]


def is_url(text: str) -> bool:
    """Whether a text is a URL, not a path."""
    return _SCHEME.match(text) is not None


def usable_url(url: str) -> str:
    """Return the URL of a store without a slash at its end.

    Raises:
        ValueError: It is none, or may hold credentials. The message leaves out what may be secret.
    """
    url = url.strip().rstrip("/")
    if (found := _SCHEME.match(url)) is None or "::" in url:
        raise ValueError(
            "expected the URL of a folder, e.g. s3://bucket/name, gs://bucket/name or file:///mnt/name"
        )
    scheme, place = found[1], urlsplit(url)
    if "?" in url or "#" in url:
        raise ValueError(
            "the URL has a part after ? or #, which may hold a key; give the folder alone, and leave credentials to the "
            "configuration of fsspec and of its backend"
        )
    if "@" in place.netloc and (scheme not in _WITH_CONTAINER or ":" in place.netloc.partition("@")[0]):
        raise ValueError(
            "the URL holds a user name or a password, which would be written to config.yaml; leave it out, and leave credentials to "
            "the configuration of fsspec and of its backend"
        )
    if not (place.netloc or place.path.strip("/")) or ".." in place.path.split("/"):
        raise ValueError("the URL names no folder; give e.g. s3://bucket/name, without '..'")
    return url


StoreUrl = Annotated[str, AfterValidator(usable_url)]
"""The URL of a folder. It holds no credentials."""
