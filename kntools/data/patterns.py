"""Fill a fact into a pattern: `[X]` is the subject, `[Y]` the answer.

    The capital of [X] is [Y].   ->   The capital of Canada is [MASK].      masked model
                                      The capital of Canada is              causal model

A causal model can be asked only where nothing but a full stop follows the answer.
"""

import re

from kntools.data.records import EMPTY, Candidate
from kntools.prompts import MASK, Prompt
from kntools.word_borders import occurrences

SUBJECT, ANSWER = "[X]", "[Y]"

NO_SUBJECT = "subject not in the prompt"

# Some patterns set the full stop apart ("is [Y] ."); a few have none.
_LAST = re.compile(r"(?P<before>.*?)\s*(?:\[Y\]|\[MASK\])\s*\.?\s*")


def fill(role: str, pattern: str, subject: str, target: str, masked: bool, foil: str | None = None) -> Candidate:
    """The question that `pattern` asks about `subject`."""
    text = pattern.replace(ANSWER, MASK) if masked else before_answer(pattern)
    if text is None:
        return Candidate(role, None, "mask not last")
    start = text.find(SUBJECT)
    if start < 0:
        return Candidate(role, None, NO_SUBJECT)
    return question(role, text.replace(SUBJECT, subject), target, subject, foil=foil, starts=start)


def question(
    role: str,
    text: str,
    target: str,
    subject: str | None = None,
    *,
    foil: str | None = None,
    starts: int | None = None,
) -> Candidate:
    """A prompt, or why there is none.

    `starts` is where the subject was put. A prompt in which it also stands earlier (the subject "Of" in "The book Of
    Of is by") is left out; where it also stands later, the prompt says that the first place is meant.
    """
    if foil is not None and foil.strip() == target.strip():
        return Candidate(role, None, "target equal to the new target")
    if not text.strip():
        return Candidate(role, None, EMPTY)
    places = [] if subject is None else [start for start, _ in occurrences(text, subject)]
    if subject is not None and not places:
        return Candidate(role, None, NO_SUBJECT)
    if starts is not None and places and places[0] != starts:
        return Candidate(role, None, "subject also occurs earlier in the prompt")
    space = "" if MASK in text else " "  # after a text the answer brings the space between them
    spaced = None if foil is None else space + foil.strip()
    return Candidate(
        role, Prompt(text, space + target.strip(), subject, spaced, occurrence=0 if len(places) > 1 else None)
    )


def ask(
    role: str,
    text: str,
    masked: bool,
    target: str,
    foil: str | None = None,
    subject: str | None = None,
    starts: int | None = None,
) -> Candidate:
    """A text that ends where its answer begins, as a question; a masked model gets its mask there."""
    before = text.rstrip()
    return question(role, f"{before} {MASK}." if masked else before, target, subject, foil=foil, starts=starts)


def before_answer(text: str) -> str | None:
    """What comes before an answer (or mask) that stands at the end; `None` if it stands elsewhere."""
    match = _LAST.fullmatch(text)
    if match is None or ANSWER in match["before"] or MASK in match["before"]:
        return None
    return match["before"].rstrip()
