"""A typed text is read as the run reads its documents."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from analysis.latents.dictionary_view import view_of
from analysis.latents.trained_run import TrainedRun
from analysis.live.requests import MAX_TOKENS, TextRequest
from crosscoder.dictionary.storage import load_crosscoder
from crosscoder.errors import CrosscoderError, DataError, FormatError, PairError
from crosscoder.run.folder import RunFolder
from tests.analysis.live.live_runs import LiveRun, dense, make_live_run
from tests.tiny_pairs import save_llama

EVERY_RUN = [
    ("adapter", "paired"),
    ("adapter", "pooled"),
    ("adapter", "difference"),
    ("context", "paired"),
    ("tokenizer", "paired"),
    ("width", "paired"),
]


@pytest.fixture(scope="module", params=EVERY_RUN, ids="-".join)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LiveRun:
    return make_live_run(tmp_path_factory.mktemp("live"), *request.param)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> LiveRun:
    return make_live_run(tmp_path_factory.mktemp("plain"))


def test_codes_are_those_of_the_harvested_activations(run: LiveRun) -> None:
    """For every held-out token that the run kept, compared with its shards and dictionary."""
    crosscoder = load_crosscoder(run.folder.crosscoder)
    requests = run.requests()
    n_fired = 0
    for document, request in requests.items():
        position, values = run.harvested(document)
        view = view_of(
            crosscoder, TrainedRun(run.folder, run.config).models.pair.d_models, run.config.crosscoder.reads
        )
        codes = view.encode(values)
        found = run.session.read(request)
        # Documents of the run are truncated to `text.max_length`; later tokens do not affect earlier ones.
        ids = run.documents.tokens_of(document).tolist()
        assert found["ids"][: len(ids)] == ids
        assert np.all(np.asarray(found["read"])[position])
        expected = (codes.sparse_latents, *view.contributions(codes))
        for name, code in zip(("value", "reference", "intervened"), expected, strict=True):
            assert dense(found, name)[position] == pytest.approx(code.dense().numpy(), rel=1e-4, abs=1e-5)
        n_fired += len(codes.sparse_latents)
    assert len(requests) >= 4 and n_fired > 50


def test_values_match_those_of_the_examples(run: LiveRun) -> None:
    """Tokens that the run left out show 0 in an example; the live page may read them, e.g. a prefix shared with another document."""
    found = {document: run.session.read(request) for document, request in run.requests().items()}
    rows = pq.read_table(run.folder.examples).to_pylist()
    compared = 0
    for row in rows:
        reading = found[row["document"]]
        window = slice(row["start"], row["start"] + len(row["tokens"]))
        position, _ = run.harvested(row["document"])
        kept = np.isin(np.arange(window.start, window.stop), position)
        assert reading["tokens"][window] == row["tokens"]
        assert reading["special"][window] == row["special"]
        assert reading["template"][window] == row["template"]
        for shown, name in (("values", "value"), ("reference", "reference"), ("intervened", "intervened")):
            own = dense(reading, name)[window, row["latent"]]
            assert own[kept] == pytest.approx(np.asarray(row[shown])[kept], rel=1e-4, abs=1e-5)
        compared += int(kept.sum())
    assert len(rows) > 20 and compared > 100


def test_change_is_the_norm_of_the_contribution_to_the_difference(run: LiveRun) -> None:
    request = next(iter(run.requests().values()))
    found = run.session.read(request)
    models = TrainedRun(run.folder, run.config).models
    if not models.view.comparable:
        assert found["fired"]["change"] is None
        return
    shift = models.view.weighted_shift_directions()
    reference, intervened = dense(found, "reference"), dense(found, "intervened")
    length = shift.norm(dim=1).double().numpy()
    if run.config.crosscoder.reads == "pooled":
        # With one direction for both models its norm is already in the contributions.
        expected = np.abs(intervened - reference)
    else:
        expected = dense(found) * length
    assert dense(found, "change") == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert expected.max() > 0


def test_predictions_and_divergence_match_full_passes(run: LiveRun) -> None:
    pair = TrainedRun(run.folder, run.config).models.pair
    for document, request in list(run.requests().items())[:3]:
        found = run.session.read(request)
        log_p = []
        for model in range(2):
            ids = torch.from_numpy(run.documents.tokens_of(document, model)).long()[None]
            logits = pair.full_pass(ids, torch.ones_like(ids, dtype=torch.bool), model).logits[0]
            log_p.append(logits.double().log_softmax(dim=1))
        aligned, first = run.documents.alignment, run.documents.offsets[document]
        n_tokens = int(run.documents.lengths[document])
        places = np.arange(n_tokens) if aligned is None else aligned.places[first : first + n_tokens]
        for model, name in enumerate(("reference", "intervened")):
            for at, predicted in enumerate(found["predictions"][name][:n_tokens]):
                own = at if model == 0 else places[at]
                if own < 0:
                    assert predicted == []
                    continue
                top = log_p[model][own].exp().topk(3).values
                assert [share for _, share in predicted] == pytest.approx(top.tolist(), rel=1e-3)
        if aligned is not None:
            assert found["kl"] is None
            continue
        reference, intervened = log_p
        kl = (intervened.exp() * (intervened - reference)).sum(dim=1)
        assert found["kl"][:n_tokens] == pytest.approx(kl.tolist(), rel=1e-3, abs=1e-5)
        assert max(found["kl"]) > 1e-3


def test_every_firing_latent_is_described_as_in_the_table(plain: LiveRun) -> None:
    table = pq.read_table(plain.folder.features).to_pandas().set_index("latent")
    found = plain.session.read(TextRequest(text="amber birch maple oak"))
    assert set(found["latents"]) == set(map(str, found["fired"]["latent"]))
    for latent, record in found["latents"].items():
        assert record == table.loc[int(latent), ["label", "evidence", "explanation"]].to_dict()


def test_an_answer_is_read_as_a_part_of_the_chat(plain: LiveRun) -> None:
    asked = [{"role": "user", "content": "amber birch"}]
    answered = [*asked, {"role": "assistant", "content": "maple oak"}]
    one, other = (
        plain.session.read(TextRequest.model_validate({"messages": chat})) for chat in (asked, answered)
    )
    same = len(one["ids"])
    assert other["ids"][:same] == one["ids"] and len(other["ids"]) > same
    assert dense(other)[:same] == pytest.approx(dense(one), rel=1e-4, abs=1e-5)


def test_the_response_is_plain_json(run: LiveRun) -> None:
    found = run.session.read(next(iter(run.requests().values())))
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("amber " * (MAX_TOKENS + 5), "tokens, but the models read from 1 to 128"),
        ("\ue000", None),
        ("</s></s>", "the dictionary reads none of its tokens"),
    ],
)
def test_a_text_that_cannot_be_read_is_refused_in_one_line(
    plain: LiveRun, text: str, message: str | None
) -> None:
    request = TextRequest(text=text)
    if message is None:
        assert plain.session.read(request)["tokens"]
        return
    with pytest.raises(CrosscoderError, match=message) as caught:
        plain.session.read(request)
    assert "\n" not in str(caught.value)


def test_a_text_of_too_many_tokens_is_refused(plain: LiveRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.live.text_view.MAX_TOKENS", 5)
    with pytest.raises(DataError, match=r"^the text: 10 tokens; give at most 5$"):
        plain.session.read(TextRequest(text="a" * 9))


def test_facts_name_what_was_compared(plain: LiveRun) -> None:
    facts = plain.session.facts()
    assert (facts["reference"], facts["intervened"]) == ("base", "base + adapter")
    assert facts["chat"] and facts["comparable"] and facts["no_steering"] is None and facts["context"] is None


def test_a_context_is_reported(tmp_path: Path) -> None:
    facts = make_live_run(tmp_path, "context").session.facts()
    assert "amber birch cedar" in facts["context"]
    assert facts["intervened"] == "base after a context"


# --- the run and its models belong together ---------------------------------------------------------------------------


def test_models_that_have_changed_since_are_refused(tmp_path: Path) -> None:
    run = make_live_run(tmp_path, "tuned")
    model = tmp_path / "tuned" / "model.safetensors"
    save_llama(tmp_path / "other", seed=9)
    model.write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(
        PairError, match=r"intervened\.weights was '\w+' when the run was made and is now '\w+'"
    ):
        type(run.session).load(run.folder, run.config)


def test_a_table_of_another_dictionary_is_refused(tmp_path: Path) -> None:
    run = make_live_run(tmp_path, "tuned")
    table = pq.read_table(run.folder.features)
    pq.write_table(table.slice(0, 5), run.folder.features)
    with pytest.raises(FormatError, match="holds 5 latents, but the dictionary has 24"):
        type(run.session).load(run.folder, run.config)


def test_a_run_without_a_record_of_its_models_is_refused(tmp_path: Path) -> None:
    run = make_live_run(tmp_path, "tuned")
    manifest: dict[str, Any] = json.loads(run.folder.manifest.read_text())
    del manifest["pair"]
    run.folder.manifest.write_text(json.dumps(manifest))
    with pytest.raises(FormatError, match="does not record the models of the run"):
        type(run.session).load(RunFolder(run.folder.path), run.config)
