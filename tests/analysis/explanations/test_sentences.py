import math

from analysis.explanations.sentences import LatentFacts, observation


def facts(**changes: object) -> LatentFacts:
    base = LatentFacts(
        label="new",
        reason="reference norm 0.02 of the intervened model's",
        density=0.0123,
        n_tokens=614,
        n_documents=120,
        firings_by_source={"chat": 600, "prose": 14},
        template_share=0.02,
        peak_tokens=[" bread", " soup", " bread", " salt", " pie", " tea", " oil"],
        relative_norm=0.98,
        top_tokens={"reference": [" the"], "intervened": [" sorry", " cannot"], "difference": [" apolog"]},
    )
    return base._replace(**changes)


def test_sentences_state_firings_direction_and_label() -> None:
    text = observation(facts())
    assert text == (
        "Fires on 1.2 % of held-out tokens (614 in 120 documents), nearly all of them in chat (98 %), with its 7 strongest "
        "peaks on “ bread” ×2, “ soup”, “ salt”, “ pie”. Writes mostly into the intervened model (relative norm 0.98), "
        "and the top tokens of that direction through the logit lens are “ sorry”, “ cannot”; observed as new: reference norm 0.02 of the intervened model's."
    )


def test_a_lost_latent_shows_the_top_tokens_of_the_reference() -> None:
    text = observation(facts(label="lost", relative_norm=0.04))
    assert (
        "mostly into the reference (relative norm 0.04), and the top tokens of that direction through the logit lens are “ the”"
        in text
    )


def test_a_changed_direction_shows_the_top_tokens_of_the_difference() -> None:
    assert "the top tokens of the difference through the logit lens are “ apolog”" in observation(
        facts(label="rotated", relative_norm=0.5)
    )


def test_a_direction_that_does_not_read_as_tokens_is_said_to() -> None:
    unreadable = {"reference": [], "intervened": [], "difference": []}
    text = observation(facts(top_tokens=unreadable))
    assert (
        "(relative norm 0.98), and that direction does not read as tokens through the logit lens; observed as new"
        in text
    )
    # One that does read is named in its place.
    text = observation(facts(top_tokens=unreadable | {"difference": [" apolog"]}))
    assert "the top tokens of the change through the logit lens are “ apolog”" in text
    assert "does not read" not in text


def test_an_undetermined_latent_is_not_called_observed() -> None:
    text = observation(facts(label="undetermined", reason="seen too seldom", template_share=0.4))
    assert text.endswith("; undetermined: seen too seldom.")
    assert "observed as" not in text
    assert "40 % of them on tokens of the chat template" in text


def test_unknown_numbers_are_omitted() -> None:
    text = observation(
        facts(
            peak_tokens=[],
            top_tokens={},
            template_share=math.nan,
            relative_norm=math.nan,
            firings_by_source={"files": 614},
        )
    )
    assert text == (
        "Fires on 1.2 % of held-out tokens (614 in 120 documents). Represents part of intervened - reference; observed as "
        "new: reference norm 0.02 of the intervened model's."
    )


def test_a_dead_latent_has_one_sentence() -> None:
    assert observation(facts(n_tokens=0)) == "Fired on no held-out token."


def test_rates_of_a_pooled_dictionary() -> None:
    text = observation(facts(relative_norm=math.nan, density_by_model=(0.00001, 0.2)))
    assert "Fires on less than 0.01 % of the reference's tokens and 20 % of the intervened model's" in text


def test_token_text_is_not_escaped() -> None:
    assert "“<b>\n”" in observation(facts(peak_tokens=["<b>\n"]))
