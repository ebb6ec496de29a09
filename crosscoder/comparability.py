"""Limits below which two models are not compared. They stand apart from what measures them, so that a report can tell them without torch."""

LOWEST_RATE = 0.1
"""Where fewer of a model's tokens have a counterpart, most of what it computes would go unseen, so the pair is refused (`alignment`)."""

LEAST_CARRIED = 0.25
"""Share of a model's variance that a map has to carry, on tokens that it was not fitted on, to be one (`frame`)."""

LEAST_AGREEMENT = 0.3
"""Median cosine with which a map has to carry directions to where they are: below it, that nothing is found along one says nothing."""
