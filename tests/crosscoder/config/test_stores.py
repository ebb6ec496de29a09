from pathlib import Path

import pytest
from pydantic import ValidationError

from crosscoder.config import CachedActivations, StoreConfig
from crosscoder.config.load import load_config
from crosscoder.config.stores import is_url, scheme_of
from crosscoder.errors import ConfigError

GOOD = {
    "s3://bucket/a/b": "s3://bucket/a/b",
    "s3://bucket/": "s3://bucket",
    " gs://bucket/a// ": "gs://bucket/a",
    "file:///mnt/x": "file:///mnt/x",
    "memory://x": "memory://x",
    "sftp://host:22/x": "sftp://host:22/x",
    "abfs://container@account.dfs.core.windows.net/x": "abfs://container@account.dfs.core.windows.net/x",
}
BAD = {
    "bucket/a": "expected the URL of a folder",
    "": "expected the URL of a folder",
    "s3:/bucket": "expected the URL of a folder",
    "simplecache::s3://bucket": "expected the URL of a folder",
    "s3://": "expected the URL of a folder",
    "file:///": "expected the URL of a folder",
    "s3://bucket/../other": "without '..'",
    "s3://user:SECRET@bucket/a": "a user name or a password",
    "https://SECRET@host/a": "a user name or a password",
    "abfs://container:SECRET@account/x": "a user name or a password",
    "https://host/a?sig=SECRET": "after ? or #",
    "s3://bucket/a#SECRET": "after ? or #",
}


@pytest.mark.parametrize("url", GOOD)
def test_urls_of_folders_are_taken(url: str) -> None:
    found = StoreConfig(url=url).url
    assert found == GOOD[url]
    assert StoreConfig(url=found).url == found
    assert is_url(found) and scheme_of(found) in url


@pytest.mark.parametrize("url", BAD)
def test_other_urls_are_refused_and_keep_their_secrets(url: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=BAD[url].replace("?", r"\?")):
        StoreConfig(url=url)
    text = "output: run\npair: {reference: {model: a}, intervened: {model: b}, hookpoint: x}\ntext: {sources: [{path: t, name: t}]}\n"
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ConfigError) as told:
        load_config(tmp_path / "run.yaml", [f"activations.store.url={url!r}"])
    assert str(told.value).startswith("activations.store.url: ")
    assert BAD[url] in str(told.value) and "SECRET" not in str(told.value)


def test_shards_are_in_the_run_folder_by_default() -> None:
    assert CachedActivations().store is None
