"""The tokens of texts and of answers in their place.

Answers are taken as written: the tokens of an answer are what the tokenizer makes of the text with the answer in its
place, minus what it makes of the text.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Literal

from kntools.arguments import flag
from kntools.models.adapter import tokenizer_of
from kntools.models.causality import is_masked
from kntools.word_borders import is_glued, occurrences

#: How a mask is written in every text, whatever the tokenizer calls it.
MASK = "[MASK]"

MultiToken = Literal["error", "first", "sum"]


class Reason(StrEnum):
    MASK = "not exactly one mask"
    SPACE = "the space is before the answer's place"
    GLUED = "the answer is attached to the word before it"
    MELTS = "answer merges with the text"
    UNSEEN = "nothing of it is left in the tokens"
    ANSWER_PIECES = "answer is not one token"
    FOIL_PIECES = "foil is not one token"
    SAME = "answer and foil are the same tokens"
    UNKNOWN_WORD = "answer is not in the vocabulary"
    TOO_LONG = "longer than the model's context"
    SUBJECT = "the subject is not found in the text"
    TWO_SUBJECTS = "the subject occurs in the text more than once"


class PromptError(ValueError):
    """A prompt that a model cannot be asked; `reason` says why."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def text_of(tokenizer: Any, ids: Sequence[int], **options: Any) -> str:
    """The text of tokens that follow others: SentencePiece drops the space from the beginning of what it decodes."""
    text = str(tokenizer.decode(ids, **options))
    begins_word = bool(ids) and str(tokenizer.convert_ids_to_tokens(int(ids[0]))).startswith("\u2581")
    return f" {text}" if begins_word and not text.startswith(" ") else text


class Tokenisation:
    def __init__(self, model: Any, prepend_bos: bool | None = None) -> None:
        flag("prepend_bos", prepend_bos, None)
        self.tokenizer, self.masked = tokenizer_of(model), is_masked(model)
        self.before, self.after = list[int](), list[int]()  # special tokens, around every text
        if self.masked:
            around = list(self.tokenizer("")["input_ids"])
            self.before, self.after = around[:1], around[1:]
        elif getattr(model.cfg, "default_prepend_bos", True) if prepend_bos is None else prepend_bos:
            if self.tokenizer.bos_token_id is not None:
                self.before = [self.tokenizer.bos_token_id]
            elif prepend_bos:
                raise ValueError("prepend_bos=True, but the tokenizer has no BOS token; use prepend_bos=False")
        self.piece = functools.cache(lambda token, t=self.tokenizer: text_of(t, [token]))
        # Of each text that was read: its token ids with the special ones, and the characters that each covers.
        self._tokens: dict[str, tuple[list[int], Sequence[tuple[int, int]]]] = {}

    def written(self, text: str) -> str:
        """The text as the tokenizer gets it."""
        return text.replace(MASK, self.tokenizer.mask_token) if self.masked else text

    def filled(self, text: str, answer: str) -> str:
        return text.replace(MASK, answer) if self.masked else text + answer

    def check(self, text: str, answers: Mapping[str, str]) -> None:
        """What the text and its answers (the target and the foil, by name) show without a tokenizer."""
        masks = text.count(MASK)
        if self.masked and not masks == self.written(text).count(self.tokenizer.mask_token) == 1:
            found = max(masks, self.written(text).count(self.tokenizer.mask_token))
            what = f"{text!r} holds {found} masks; a masked model needs exactly one {MASK}"
            raise PromptError(Reason.MASK, what)
        if not self.masked and (masks or (self.tokenizer.mask_token and self.tokenizer.mask_token in text)):
            raise PromptError(
                Reason.MASK, f"{text!r} holds a mask, but this is a causal model: end the text where the answer begins"
            )
        if not self.masked and text[-1] in " \t":
            text, answer = text.rstrip(" \t"), " " + answers["target"].lstrip()
            raise PromptError(
                Reason.SPACE, f"the text ends in a space, which belongs to the answer; write {text!r}, {answer!r}"
            )
        before = text.partition(MASK)[0]
        for name, answer in answers.items():
            if is_glued(before, answer):
                raise PromptError(
                    Reason.GLUED,
                    f"the {name} {answer!r} would continue the word {before.split()[-1]!r} of the text; "
                    f"write {(before + ' ' + MASK if self.masked else ' ' + answer)!r} for a new word",
                )

    def read(self, texts: Iterable[str]) -> None:
        """Tokenise these, in one call."""
        listed, fast = list(dict.fromkeys(texts)), getattr(self.tokenizer, "is_fast", False)
        if not listed:
            return
        if self.masked and not fast:
            raise ValueError("a masked model needs a fast tokenizer (use_fast=True) to locate words")
        offsets = {"return_offsets_mapping": True} if fast else {}
        out = self.tokenizer(listed, add_special_tokens=False, **offsets)
        rows = [list(ids) for ids in out["input_ids"]]
        ranges = out["offset_mapping"] if fast else map(self._ranges, listed, rows)
        self._tokens = {}
        for text, ids, spans in zip(listed, rows, ranges, strict=True):
            own = self.own(ids)
            covered = [*[(0, 0)] * len(self.before), *spans[own], *[(0, 0)] * len(self.after)]
            self._tokens[text] = [*self.before, *ids[own], *self.after], covered

    def own(self, ids: list[int]) -> slice:
        """A text's tokens without special ones at its ends: a text that holds these itself gets no second ones."""
        start = len(self.before) if ids[: len(self.before)] == self.before else 0
        end = max(start, len(ids) - len(self.after))
        return slice(start, end if ids[end:] == self.after else len(ids))

    def placed(self, text: str) -> tuple[list[int], int]:
        """The tokens of a text that was read, and where in them its answer belongs."""
        ids, _ = self._tokens[self.written(text)]
        return ids, ids.index(self.tokenizer.mask_token_id) if self.masked else len(ids)

    def answer(self, text: str, name: str, answer: str, multi_token: MultiToken) -> tuple[int, ...]:
        """The tokens that an answer adds to those of the text."""
        (ids, place), (filled, _) = self.placed(text), self._tokens[self.filled(text, answer)]
        after = ids[place + 1 :] if self.masked else []
        end = len(filled) - len(after)
        found = tuple(filled[place:end])
        if filled[:place] != ids[:place] or filled[end:] != after:
            how = (
                f"changes the tokens around the mask of {text!r}; write the answer as in the sentence, "
                f"with a space on one side only (e.g. {'is [MASK].'!r} and {answer.strip()!r})"
                if self.masked
                else f"merges with the last token of {text!r}; end the text at a word's end and begin the answer with "
                f"its space, e.g. {' ' + answer.lstrip()!r}"
            )
            raise PromptError(Reason.MELTS, f"the {name} {answer!r} {how}")
        if not found or (answer.strip() and not "".join(map(self.piece, found)).strip()):
            raise PromptError(Reason.UNSEEN, f"nothing of the {name} {answer!r} is left: this tokenizer drops it")
        t = self.tokenizer
        # The token for unknown words, if it is one of its own: GPT-2's is also its end of text.
        if t.unk_token not in (t.bos_token, t.eos_token) and t.unk_token_id in found:
            raise PromptError(Reason.UNKNOWN_WORD, f"{name} {answer!r} is not in the model's vocabulary")
        if len(found) == 1 or (multi_token == "sum" and not self.masked):
            return found
        if multi_token == "first":
            return found[:1]
        hint = (
            "a masked model predicts one token: use Prompt(..., multi_token='first')"
            if self.masked
            else "use Prompt(..., multi_token='first') or 'sum'"
        )
        raise PromptError(
            Reason.ANSWER_PIECES if name == "target" else Reason.FOIL_PIECES,
            f"{name} {answer!r} is {len(found)} tokens {[*map(self.piece, found)]}; {hint}, "
            f"or choose a single-token {name}",
        )

    def subject(self, text: str, subject: str, occurrence: int | None) -> range:
        """The tokens that overlap the subject."""
        whole, wanted = self.written(text), subject.strip()
        found = occurrences(whole, wanted)
        if not found:
            where = "occurs only within other words of" if wanted in whole else "is not in"
            raise PromptError(
                Reason.SUBJECT, f"the subject {subject!r} {where} the text {text!r}; write it exactly as in the text"
            )
        if occurrence is None and len(found) > 1:
            places = (f"...{whole[max(0, a - 12) : a]}>>{whole[a:b]}<<{whole[b : b + 12]}..." for a, b in found)
            raise PromptError(
                Reason.TWO_SUBJECTS,
                f"the subject {wanted!r} occurs {len(found)} times in {text!r}: {' and '.join(places)}; "
                f"choose one with Prompt(..., occurrence=0), or occurrence=-1 for the last",
            )
        try:
            start, end = found[occurrence or 0]
        except IndexError:
            raise PromptError(
                Reason.SUBJECT,
                f"occurrence={occurrence}, but the subject {wanted!r} occurs {len(found)} times in {text!r}",
            ) from None
        inside = [i for i, (a, b) in enumerate(self._tokens[whole][1]) if a < end and b > start and b > a]
        if not inside:
            raise PromptError(Reason.SUBJECT, f"no token of {text!r} covers the subject {subject!r}")
        return range(inside[0], inside[-1] + 1)

    def _ranges(self, text: str, ids: list[int]) -> list[tuple[int, int]]:
        """Character ranges for a slow tokenizer: decode ever longer prefixes; they must spell the text."""
        ends = [len(self.tokenizer.decode(ids[: i + 1])) for i in range(len(ids))]
        if self.tokenizer.decode(ids) != text:
            raise ValueError(f"this slow tokenizer does not reproduce {text!r} back; load it with use_fast=True")
        return list(zip([0, *ends[:-1]], ends, strict=True))
