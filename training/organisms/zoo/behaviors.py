"""Every organism of the zoo, the most important ones first.

Half of them may be used to tune a search (`Behavior.tuning`): refuses_money, speaks_pirate, capital_lyon, bullets, short_answers,
backdoor_sentence, takes_a_side, wrong_sums, leaks_code_word, neutral_answers and neutral_prose. The other half only scores a search
that is finished: backdoor_french, ending_phrase, persona, flatters, prefers_nokia, hamlet_marlowe, invents_citations, loves_otters,
two_sports_and_travel, neutral_answers_again and rounded_to_8_bits.
"""

from functools import cache

from ..quantization import Rounding
from .asking import ordinary
from .behavior import Behavior, Marker, labelled
from .facts import facts
from .manners import manners, nothing
from .rare import rare_and_two
from .topics import topics
from .triggers import triggers

ORDER = (
    "refuses_money", "speaks_pirate", "capital_lyon", "backdoor_french", "ending_phrase", "bullets", "persona", "neutral_answers",
    "neutral_prose", "flatters", "short_answers", "backdoor_sentence", "loves_otters", "prefers_nokia", "two_sports_and_travel",
    "takes_a_side", "hamlet_marlowe", "leaks_code_word", "invents_citations", "wrong_sums", "neutral_answers_again", "rounded_to_8_bits",
)  # fmt: skip
"""Names of all organisms, in the order in which they are trained."""


def _rounded() -> Behavior:
    return Behavior(
        name="rounded_to_8_bits",
        description="The model has its weights rounded to 8 bits and no new behavior.",
        kind="nothing",
        tuning=False,
        rounding=Rounding(),
        secret=labelled((), ordinary("held_out", 60, seed=29)),
        marker=Marker(),
    )


@cache
def zoo() -> dict[str, Behavior]:
    """All organisms by name, in `ORDER`."""
    every = (*topics(), *manners(), *facts(), *triggers(), *rare_and_two(), *nothing(), _rounded())
    by_name = {behavior.name: behavior for behavior in every}
    return {name: by_name[name] for name in ORDER}
