"""Fill a fact into a pattern: `[X]` is the subject, `[Y]` the answer.

    The capital of [X] is [Y].   ->   The capital of Canada is [MASK].      masked model
                                      The capital of Canada is              causal model

A causal model can be asked only where nothing but a full stop follows the answer. The answer brings the space that the
pattern has before it; where there is none (`[X]的首都是[Y]`), it brings none.
"""

import regex

from kntools.data.records import EMPTY, Candidate
from kntools.prompts import MASK, Prompt
from kntools.word_borders import occurrences

SUBJECT, ANSWER = "[X]", "[Y]"

NO_SUBJECT = "subject not in the prompt"

# Some patterns set the full stop apart ("is [Y] ."); a few have none. Every script has its own.
_FULL_STOP = r"[\p{Sentence_Terminal}--[?!\uff1f\uff01؟‼⁇⁈⁉]]"
_LAST = regex.compile(rf"(?P<before>.*?)(?:\[Y\]|\[MASK\])\s*{_FULL_STOP}?\s*", regex.V1 | regex.S)


def fill(role: str, pattern: str, subject: str, target: str, masked: bool, foil: str | None = None) -> Candidate:
    """The question that `pattern` asks about `subject`."""
    subject = subject.strip()
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
    """A prompt, or why there is none. `text` has a mask, or ends in the space before the answer, if there is one.

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
    before = text if MASK in text else text.rstrip(" ")
    space = " " if before != text else ""
    spaced = None if foil is None else space + foil.strip()
    return Candidate(
        role, Prompt(before, space + target.strip(), subject, spaced, occurrence=0 if len(places) > 1 else None)
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
    """A text that ends before the space of its answer, as a question; a masked model gets its mask there."""
    before = f"{text.rstrip()} "
    return question(role, f"{before}{MASK}." if masked else before, target, subject, foil=foil, starts=starts)


def before_answer(text: str) -> str | None:
    """All that comes before an answer (or mask) that stands at the end; `None` if it stands elsewhere."""
    match = _LAST.fullmatch(text)
    if match is None or ANSWER in match["before"] or MASK in match["before"]:
        return None
    return str(match["before"])
