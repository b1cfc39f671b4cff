"""Number-agreement frames for causal tracing, from word lists of our own: no data set is needed."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import ClassVar, Literal, Unpack

from kntools.data.filters import Filters, select
from kntools.data.grouping import word_forms
from kntools.data.patterns import question
from kntools.data.records import Candidate, Loaded
from kntools.data.sources import Source
from kntools.prompts import MASK

Kind = Literal["subject_verb", "determiner_noun"]
KINDS: tuple[Kind, ...] = ("subject_verb", "determiner_noun")

# Common words: each form is a single token in most vocabularies. Singular and plural never share a spelling.
_PEOPLE = word_forms(
    "author/authors doctor/doctors teacher/teachers farmer/farmers pilot/pilots officer/officers driver/drivers "
    "artist/artists woman/women child/children"
)
_THINGS = word_forms(
    "book/books car/cars house/houses picture/pictures letter/letters bridge/bridges window/windows machine/machines "
    "stone/stones knife/knives"
)
_VERBS = word_forms("is/are was/were")
_DEMONSTRATIVES = word_forms("this/these that/those")
_PREPOSITIONS = ("near", "behind")
_ENDS = ("old", "happy", "famous", "strong")
_OPENINGS = ("Laura bought", "Eric found", "Paula cleaned", "Oscar sold")
# Between determiner and noun: were the subject the last token, restoring it anywhere would restore everything.
_ADJECTIVES = ("old", "small", "beautiful", "expensive")
_NUMBERS: tuple[Literal["singular", "plural"], ...] = ("singular", "plural")


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
        text = f"{self.before} {MASK}{self.after}." if masked else f"{self.before} "
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
        kind: `"subject_verb"` or `"determiner_noun"`, 160 of each; `None` for both.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"unknown kind of frame {kind!r}; choose one of {', '.join(KINDS)}, or None for both")
    frames = [*_subject_verb(), *_determiner_noun()]
    return select([f for f in frames if kind in (None, f.kind)], Source("built-in word lists"), **filters)


def _subject_verb() -> Iterator[Frame]:
    places = product(enumerate(_PEOPLE), enumerate(_PREPOSITIONS), enumerate(_VERBS), (0, 5), enumerate(_NUMBERS))
    for (i, person), (j, preposition), (k, verb), step, (form, number) in places:
        thing = _THINGS[(3 * i + j + 2 * k + step) % len(_THINGS)]
        subject, after = f"The {person[form]}", f" {_ENDS[(i + j + k) % len(_ENDS)]}"
        before = f"{subject} {preposition} the {thing[1 - form]}"
        yield Frame("subject_verb", number, before, subject, verb[form], verb[1 - form], after)


def _determiner_noun() -> Iterator[Frame]:
    places = product(enumerate(_THINGS), enumerate(_OPENINGS), _DEMONSTRATIVES, enumerate(_NUMBERS))
    for (i, thing), (j, opening), pair, (form, number) in places:
        before = f"{opening} {pair[form]} {_ADJECTIVES[(i + j) % len(_ADJECTIVES)]}"
        yield Frame("determiner_noun", number, before, pair[form], thing[form], thing[1 - form])
