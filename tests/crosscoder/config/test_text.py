"""A text source is either files or a dataset, and its field names say one thing."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from crosscoder.config import TextConfig, TextSource
from crosscoder.config.load import dump_config, load_config
from crosscoder.errors import ConfigError
from tests.tiny_pairs import run_config


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "needs either path (files) or dataset (the datasets library), found neither"),
        ({"path": "a", "dataset": "b"}, "found both"),
        ({"path": "a.jsonl", "split": "train"}, "split belongs to dataset, but the source has a path"),
        ({"path": "a.jsonl", "streaming": True, "limit": 3}, "streaming belongs to dataset"),
        ({"dataset": "a", "streaming": True}, "streaming needs a limit"),
        ({"path": "a", "text_field": "x", "messages_field": "y"}, "text_field and messages_field exclude each other"),
        ({"path": "a", "text_field": "x", "prompt_field": "y", "completion_field": "z"}, "exclude each other"),
        ({"path": "a", "prompt_field": "x"}, "prompt_field and completion_field need each other"),
        ({"path": "a", "input_field": "x"}, "input_field is added to prompt_field, which is missing"),
        ({"path": "a", "text_field": "x", "role_field": "r"}, "have no effect with text_field; remove them"),
        ({"path": "a", "colum": "x"}, "no such setting"),
    ],
)  # fmt: skip
def test_sources_that_contradict_themselves_are_refused(
    tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    config = run_config(tmp_path, tmp_path / "a", tmp_path / "b")
    data = config.model_dump(mode="json")
    file = tmp_path / "run.yaml"
    data["text"]["sources"] = [{"name": "texts", **settings}]
    file.write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert "text.sources.0" in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_of_a_dataset_is_found_beside_the_file_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    file = tmp_path / "source.yaml"
    file.write_text("{name: a, dataset: ./saved}")
    assert load_config(file, model=TextSource).dataset == tmp_path / "saved"
    file.write_text("{name: a, dataset: org/name}")
    source = load_config(file, model=TextSource)
    assert str(source.dataset) == source.location == "org/name"
    file.write_text(dump_config(source))
    assert load_config(file, model=TextSource) == source


def test_the_sources_of_the_guide_are_settings() -> None:
    guide = (Path(__file__).parents[3] / "docs" / "own_pair.md").read_text(encoding="utf-8")
    fence = next(part for part in guide.split("```yaml\n")[1:] if part.startswith("text:"))
    sources = TextConfig.model_validate(yaml.safe_load(fence.partition("```")[0])["text"]).sources
    assert [source.name for source in sources] == ["notes", "talk", "web", "mine"]
