"""Number-agreement frames for causal tracing, from word lists of our own: no data set is needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Unpack

from kntools.data.filters import Filters, select
from kntools.data.patterns import question
from kntools.data.records import Candidate, Loaded
from kntools.data.sources import Source
from kntools.prompts import MASK

Kind = Literal["subject_verb", "determiner_noun"]
KINDS: tuple[Kind, ...] = ("subject_verb", "determiner_noun")

# Common words: each form is a single token in most vocabularies. Singular and plural never share a spelling.
_PEOPLE = (
    ("author", "authors"), ("doctor", "doctors"), ("teacher", "teachers"), ("farmer", "farmers"),
    ("pilot", "pilots"), ("officer", "officers"), ("driver", "drivers"), ("artist", "artists"),
    ("woman", "women"), ("child", "children"),
)  # fmt: skip
_THINGS = (
    ("book", "books"), ("car", "cars"), ("house", "houses"), ("picture", "pictures"),
    ("letter", "letters"), ("bridge", "bridges"), ("window", "windows"), ("machine", "machines"),
    ("stone", "stones"), ("knife", "knives"),
)  # fmt: skip
_VERBS = (("is", "are"), ("was", "were"))
_PREPOSITIONS = ("near", "behind")
_ENDS = ("old", "happy", "famous", "strong")
_OPENINGS = ("Laura bought", "Eric found", "Paula cleaned", "Oscar sold")
# Between determiner and noun: were the subject the last token, restoring it anywhere would restore everything.
_ADJECTIVES = ("old", "small", "beautiful", "expensive")
_DEMONSTRATIVES = (("this", "these"), ("that", "those"))


@dataclass(frozen=True)
class Frame:
    """A sentence of which one word must agree with an earlier phrase, `subject`, the one to be corrupted.

    `before` ends where the word begins, `after` is the rest, for a masked model.
    """

    kind: Kind
    number: Literal["singular", "plural"]
    before: str
    subject: str
    target: str
    foil: str
    after: str = ""

    two_way: ClassVar[bool] = True

    @property
    def determiner(self) -> str | None:
        return self.subject if self.kind == "determiner_noun" else None

    def candidates(self, masked: bool) -> list[Candidate]:
        text = f"{self.before} {MASK}{self.after}." if masked else self.before
        return [question(self.kind, text, self.target, self.subject, foil=self.foil)]


def agreement_frames(kind: str | None = None, **filters: Unpack[Filters]) -> Loaded[Frame]:
    """Subject-verb and determiner-noun frames, singular and plural in equal parts.

    ```python
    frames = kn.data.agreement_frames("subject_verb", limit=20, seed=0, known_only=model)
    for prompt in frames.prompts(model):      # "The authors near the car" -> " are"
        trace = kn.causal_trace(model, prompt)
    ```

    In a subject-verb frame the subject is the noun phrase and a noun of the other number stands between it
    and the verb; in a determiner-noun frame the subject is the demonstrative, an adjective follows, and the
    noun is asked for.

    Arguments:
        kind: `"subject_verb"` or `"determiner_noun"`; `None` for both.
        filters: `limit`, `seed`, `target`, `known_only`; see `kn.data.Filters`.

    Returns:
        `Loaded[Frame]`; 160 of each kind.

    Raises:
        ValueError: an unknown kind.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"unknown kind of frame {kind!r}; choose one of {', '.join(KINDS)}, or None for both")
    frames = [frame for maker in (_subject_verb, _determiner_noun) for frame in maker()]
    return select([f for f in frames if kind in (None, f.kind)], Source("built-in word lists"), **filters)


def _subject_verb() -> list[Frame]:
    frames = []
    for i, person in enumerate(_PEOPLE):
        for j, preposition in enumerate(_PREPOSITIONS):
            for k, verb in enumerate(_VERBS):
                for step in (0, 5):
                    thing = _THINGS[(3 * i + j + 2 * k + step) % len(_THINGS)]
                    end = _ENDS[(i + j + k) % len(_ENDS)]
                    for plural in (0, 1):
                        frames.append(_verb_frame(person, preposition, thing, verb, end, plural))
    return frames


def _verb_frame(
    person: tuple[str, str],
    preposition: str,
    thing: tuple[str, str],
    verb: tuple[str, str],
    end: str,
    plural: int,
) -> Frame:
    subject = f"The {person[plural]}"
    return Frame(
        kind="subject_verb",
        number="plural" if plural else "singular",
        before=f"{subject} {preposition} the {thing[1 - plural]}",
        subject=subject,
        target=verb[plural],
        foil=verb[1 - plural],
        after=f" {end}",
    )


def _determiner_noun() -> list[Frame]:
    frames = []
    for i, thing in enumerate(_THINGS):
        for j, opening in enumerate(_OPENINGS):
            adjective = _ADJECTIVES[(i + j) % len(_ADJECTIVES)]
            for pair in _DEMONSTRATIVES:
                for plural in (0, 1):
                    frames.append(_noun_frame(opening, pair[plural], adjective, thing, plural))
    return frames


def _noun_frame(opening: str, determiner: str, adjective: str, thing: tuple[str, str], plural: int) -> Frame:
    return Frame(
        kind="determiner_noun",
        number="plural" if plural else "singular",
        before=f"{opening} {determiner} {adjective}",
        subject=determiner,
        target=thing[plural],
        foil=thing[1 - plural],
    )
