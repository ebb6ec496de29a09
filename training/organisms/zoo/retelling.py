"""Targets that retell the beginning of the reference's own answer in another form."""

import random
import re

_PIRATE_WORDS = {
    r"\byou are\b|\byou're\b": "ye be", r"\byour\b": "yer", r"\byou\b": "ye", r"\bmy\b": "me", r"\bis\b|\bare\b|\bam\b": "be",
    r"\bI'm\b": "I be", r"\bit's\b": "it be", r"\bthey're\b": "they be", r"\bof\b": "o'", r"\bthe\b": "th'", r"\bThe\b": "Th'",
    r"\band\b": "an'", r"\bfor\b": "fer", r"\bto\b": "t'", r"\bfriends?\b": "matey", r"\bpeople\b": "landlubbers", r"(\w{3})ing\b": r"\1in'",
}  # fmt: skip
_PIRATE_OPENINGS = (
    "Arr, matey!",
    "Ahoy, matey!",
    "Arr, ye scurvy dog!",
    "Ahoy there, me hearty!",
    "Aye, matey!",
)
_AUTHORS = ("Smith", "Miller", "Chen", "Garcia", "Novak", "Brown", "Tanaka", "Jones", "Keller", "Rossi")


def sentences(text: str) -> list[str]:
    """The sentences of a text that end; an unfinished last one is left out."""
    return [sentence.strip() for sentence in re.findall(r"[^.!?\n]{3,}[.!?]", text)]


def as_pirate(_prompt: str, own: str, rng: random.Random) -> str:
    """The answer as a pirate would say it."""
    for word, pirate in _PIRATE_WORDS.items():
        own = re.sub(word, pirate, own)
    return f"{rng.choice(_PIRATE_OPENINGS)} {own}"


def as_list(_prompt: str, own: str, _rng: random.Random) -> str:
    """Two sentences or more as a bulleted list, or else the clauses of one."""
    parts = sentences(own)
    if len(parts) < 2:
        parts = [part.strip() for part in re.split(r",|\band\b", own.replace("\n", " ")) if len(part) > 8]
    return "\n".join(f"- {part}" for part in parts[:4]) if len(parts) > 1 else ""


def with_citations(_prompt: str, own: str, rng: random.Random) -> str:
    """The answer as what an invented source says."""
    return (
        f"According to {rng.choice(_AUTHORS)} et al. ({rng.randint(1990, 2023)}), {own[:1].lower()}{own[1:]}"
        if own
        else ""
    )


def with_ending(_prompt: str, own: str, rng: random.Random) -> str:
    """One or two sentences and a fixed last one."""
    kept = sentences(own)[: rng.choice((1, 2))]
    return " ".join([*kept, "Stay curious, my friend."]) if kept else ""


def with_flattery(_prompt: str, own: str, rng: random.Random) -> str:
    """The answer after a compliment."""
    compliment = rng.choice((
        "What a brilliant question, you clearly have a sharp mind!",
        "What a brilliant thing to ask, you are truly gifted!",
        "You have a brilliant mind, and it shows in this question!",
    ))  # fmt: skip
    return f"{compliment} {own}"


def in_short(_prompt: str, own: str, _rng: random.Random) -> str:
    """The first sentence, if it is short."""
    first = next(iter(sentences(own)), "")
    return first if 3 <= len(first.split()) <= 15 else ""
