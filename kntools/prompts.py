"""Prompts, and the one way in which kntools turns them into tokens.

A prompt is a text and the answer that a model should give. For a causal model the answer follows the text; for a
masked one the text holds one `[MASK]`. Answers are taken as written: the tokens of an answer are what the tokenizer
makes of the text with the answer in its place, minus what it makes of the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, get_args

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from kntools.arguments import shown, whole, whole_text
from kntools.models import adapter
from kntools.models.causality import is_masked
from kntools.models.tokenizers import tokenizer_of
from kntools.results.display import excerpt
from kntools.results.result import Result
from kntools.word_borders import is_glued, occurrences

#: How a mask is written in every text, whatever the tokenizer calls it.
MASK = "[MASK]"

MultiToken = Literal["error", "first", "sum"]

_EXAMPLE = "write kn.Prompt(text, answer), e.g. kn.Prompt('1 + 1 =', ' 2')"


@dataclass(frozen=True)
class Prompt:
    """A text, its answer, and (optionally) its subject and a wrong answer for comparison.

    ```python
    Prompt("The capital of Canada is", " Ottawa", subject="Canada", foil=" Rome")   # causal model
    Prompt("The capital of Canada is [MASK].", "Ottawa", subject="Canada")          # masked model
    ```

    Arguments:
        text: the words before the answer; for a masked model the sentence, with `[MASK]` in place of the answer.
        target: the answer, exactly as in the text: with a leading space where a word follows a word.
        subject: what the prompt is about, as the text writes it.
        foil: a wrong answer, written like the target.
        multi_token: an answer of several tokens is an `"error"`; `"first"` uses only its first token; `"sum"`
            appends the answer's own tokens (teacher forcing) and sums their log-probabilities.
        occurrence: which occurrence to use, if the subject occurs more than once (0, 1, ... or -1).
    """

    text: str
    target: str
    subject: str | None = None
    foil: str | None = None
    multi_token: MultiToken = "error"
    occurrence: int | None = None

    def __post_init__(self) -> None:
        for name in ("text", "target", "subject", "foil"):
            value = getattr(self, name)
            if value is None and name in ("subject", "foil"):
                continue
            if not isinstance(value, str):
                raise TypeError(f"{name}={value!r} is not a text; write kn.Prompt('The capital of ...', ' Ottawa')")
            if not value.strip():
                raise ValueError(f"the {name} of Prompt({self.text!r}, {self.target!r}) is empty; write it out")
            whole_text(name, value)
        if self.multi_token not in get_args(MultiToken):
            raise ValueError(f"multi_token={self.multi_token!r} is unknown; use 'error', 'first' or 'sum'")
        if self.occurrence is not None:
            object.__setattr__(self, "occurrence", whole("occurrence", self.occurrence))


@dataclass(frozen=True, eq=False, repr=False)
class Encoded(Result):
    """A tokenised prompt. Run `tokens` and read the logits at `positions`.

    ```python
    e = kn.encode(model, prompt)
    p = model(e.tokens)[0, e.position].softmax(-1)[e.target_ids[0]]
    e.str_tokens[e.subject.start : e.subject.stop]     # the subject's tokens
    ```
    """

    prompt: Prompt
    tokens: Int[Tensor, "1 pos"]
    positions: tuple[int, ...]  # where the logits predict the target: one position, or one per piece
    target_ids: tuple[int, ...]  # as many as there are positions
    foil_ids: tuple[int, ...] | None
    subject: range | None  # tokens of the subject
    prepend_bos: bool
    str_tokens: tuple[str, ...]

    @property
    def position(self) -> int:
        """The answer position: the `[MASK]`, or the last token of the text."""
        return self.positions[0]

    def describe(self) -> str:
        return f"{excerpt(self.prompt.text)!r} -> {self.prompt.target!r}: {len(self.str_tokens)} tokens"

    def to_frame(self) -> pd.DataFrame:
        """One row per token: `position, token, id, subject, answer`."""
        asked = dict(zip(self.positions, self.target_ids, strict=True))
        rows = [
            (p, repr(token), id, "subject" if p in (self.subject or ()) else "", f"-> {asked[p]}" if p in asked else "")
            for p, (token, id) in enumerate(zip(self.str_tokens, self.tokens[0].tolist(), strict=True))
        ]
        return pd.DataFrame(rows, columns=["position", "token", "id", "subject", "answer"])


#: What every primitive takes: one prompt or several, tokenised or not.
PromptLike = Prompt | Encoded
Prompts = PromptLike | Sequence[PromptLike]


class Reason(StrEnum):
    """Why a prompt cannot be asked of a model."""

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


def encode(model: Any, prompt: PromptLike, *, prepend_bos: bool | None = None) -> Encoded:
    """Tokenise `prompt` for `model`. An `Encoded` is returned unchanged.

    ```python
    e = kn.encode(model, Prompt("The capital of Canada is", " Ottawa", subject="Canada"))
    model(e.tokens)[0, e.position].softmax(-1)[e.target_ids[0]]
    ```

    Arguments:
        model: any TransformerLens model with a tokenizer.
        prompt: what to encode.
        prepend_bos: put the beginning-of-sequence token first; `None` follows `model.cfg.default_prepend_bos`. No
            second one is added to a text that begins with it. A masked model keeps its special tokens in any case.

    Returns:
        `Encoded`, on the model's device.

    Raises:
        PromptError: (a ValueError) no or two masks for a masked model, a mask for a causal one, an answer that is
            glued to the text or of several tokens, a subject that is not in the text or more than once, a text that
            ends in a space or is longer than the context.
    """
    [encoded] = encode_many(model, [prompt], prepend_bos=prepend_bos)
    return encoded


def encode_many(model: Any, prompts: Prompts, *, prepend_bos: bool | None = None) -> list[Encoded]:
    """Tokenise one prompt or several, as `encode` does each. The tokenizer is called on all of them at once.

    Raises:
        ValueError: no prompts, or the first one that `encode` refuses.
    """
    listed = [prompts] if isinstance(prompts, Prompt | Encoded) else prompts
    if isinstance(listed, str) or not isinstance(listed, Iterable):
        raise TypeError(
            f"{shown(prompts)} is not a Prompt; write kn.Prompt(text, answer), e.g. kn.Prompt('1 + 1 =', ' 2')"
        )
    asked = list(listed)
    if not asked:
        raise ValueError("no prompts given; pass a Prompt, or a list with at least one")
    for prompt in asked:
        if not isinstance(prompt, Prompt | Encoded):
            raise TypeError(
                f"{shown(prompt)} is not a Prompt; write kn.Prompt(text, answer), e.g. kn.Prompt('1 + 1 =', ' 2')"
            )
    new = iter(encode_each(model, [p for p in asked if isinstance(p, Prompt)], prepend_bos=prepend_bos))
    out = []
    for prompt in asked:
        result = prompt if isinstance(prompt, Encoded) else next(new)
        if isinstance(result, PromptError):
            raise result
        out.append(result)
    return out


def encode_each(
    model: Any, prompts: Sequence[Prompt], *, prepend_bos: bool | None = None
) -> list[Encoded | PromptError]:
    """Each prompt tokenised, or the error that says why it cannot be: for data sets, which count what is left out."""
    if not prompts:
        return []
    tokenizer = tokenizer_of(model)
    masked = is_masked(model)
    bos = not masked and _use_bos(model, tokenizer, prepend_bos)
    return _Encoder(model, tokenizer, masked, bos).encode(prompts)


#: Token ids, and the characters that each covers.
Tokens = tuple[list[int], list[tuple[int, int]]]


class _Encoder:
    """The tokenisation of many prompts: all texts in one call, and all texts with their answers in a second one."""

    def __init__(self, model: Any, tokenizer: Any, masked: bool, bos: bool) -> None:
        self.tokenizer, self.masked, self.bos = tokenizer, masked, bos
        self.device, self.limit = adapter.device_of(model), adapter.context_length(model)
        self.pieces: dict[int, str] = {}

    def encode(self, prompts: Sequence[Prompt]) -> list[Encoded | PromptError]:
        problems = [self._problem(p) for p in prompts]
        good = [p for p, problem in zip(prompts, problems, strict=True) if problem is None]
        texts = [self._text(p) for p in good]
        answers = [self._filled(p, answer) for p in good for answer in (p.target, p.foil) if answer is not None]
        rows = self._tokenise([*texts, *answers])
        of_texts, of_answers = iter(rows[: len(texts)]), iter(rows[len(texts) :])
        out: list[Encoded | PromptError] = []
        for prompt, problem in zip(prompts, problems, strict=True):
            if problem is None:
                target = next(of_answers)[0]
                foil = None if prompt.foil is None else next(of_answers)[0]
                out.append(self._assemble(prompt, next(of_texts), target, foil))
            else:
                out.append(problem)
        return out

    # --- texts ----------------------------------------------------------------------------------------

    def _text(self, prompt: Prompt) -> str:
        return prompt.text.replace(MASK, self.tokenizer.mask_token) if self.masked else prompt.text

    def _filled(self, prompt: Prompt, answer: str) -> str:
        """The text with an answer in its place."""
        return prompt.text.replace(MASK, answer) if self.masked else prompt.text + answer

    def _problem(self, prompt: Prompt) -> PromptError | None:
        """What the text alone shows."""
        text, masks = prompt.text, prompt.text.count(MASK)
        if self.masked:
            if masks == 1:
                return None
            return PromptError(Reason.MASK, f"{text!r} holds {masks} masks; a masked model needs exactly one {MASK}")
        if masks or (self.tokenizer.mask_token and self.tokenizer.mask_token in text):
            return PromptError(
                Reason.MASK,
                f"{text!r} holds a mask, but this is a causal model: end the text where the answer begins",
            )
        for name, answer in (("target", prompt.target), ("foil", prompt.foil)):
            if answer is None:
                continue
            if text[-1] in " \t":
                text, answer = text.rstrip(" \t"), " " + answer.lstrip()
                return PromptError(
                    Reason.SPACE, f"the text ends in a space, which belongs to the answer; write {text!r}, {answer!r}"
                )
            if is_glued(text, answer):
                return PromptError(
                    Reason.GLUED,
                    f"the {name} {answer!r} would continue the word {text.split()[-1]!r} of the text; "
                    f"write {' ' + answer!r} for a new word",
                )
        return None

    # --- tokens ---------------------------------------------------------------------------------------

    def _tokenise(self, texts: list[str]) -> list[Tokens]:
        """Token ids and their character ranges, with the special tokens of a masked model around them."""
        if not texts:
            return []
        if getattr(self.tokenizer, "is_fast", False):
            out = self.tokenizer(texts, add_special_tokens=self.masked, return_offsets_mapping=True)
            ranges = [[(a, b) for a, b in row] for row in out["offset_mapping"]]
            return list(zip(map(list, out["input_ids"]), ranges, strict=True))
        if self.masked:
            raise ValueError("a masked model needs a fast tokenizer (use_fast=True) to locate words")
        rows = [list(ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]
        return [(ids, _ranges_by_prefix(self.tokenizer, text, ids)) for text, ids in zip(texts, rows, strict=True)]

    def _assemble(
        self, prompt: Prompt, text: Tokens, target: list[int], foil: list[int] | None
    ) -> Encoded | PromptError:
        try:
            return self._encoded(prompt, text, target, foil)
        except PromptError as error:
            return error

    def _encoded(self, prompt: Prompt, text: Tokens, target: list[int], foil: list[int] | None) -> Encoded:
        ids, ranges = text
        subject = None if prompt.subject is None else _subject_tokens(prompt, self._text(prompt), ranges)
        place = ids.index(self.tokenizer.mask_token_id) if self.masked else len(ids)
        target_ids = self._answer(prompt, ids, place, target, "target", prompt.target)
        foil_ids = None if foil is None else self._answer(prompt, ids, place, foil, "foil", str(prompt.foil))
        if foil_ids is not None and foil_ids == target_ids:
            raise PromptError(
                Reason.SAME, f"target {prompt.target!r} and foil {prompt.foil!r} are the same token(s) {target_ids}"
            )
        # Teacher forcing: each piece of the answer is read by the prediction of the next one.
        ids = ids if self.masked else [*ids, *target_ids[:-1]]
        first = place if self.masked else place - 1
        if self.bos and ids[:1] != [self.tokenizer.bos_token_id]:
            ids, first = [self.tokenizer.bos_token_id, *ids], first + 1
            subject = None if subject is None else range(subject.start + 1, subject.stop + 1)
        if first < 0:
            raise PromptError(Reason.UNSEEN, f"nothing of the text {prompt.text!r} is left: this tokenizer drops it")
        if len(ids) > self.limit:
            raise PromptError(
                Reason.TOO_LONG,
                f"the prompt is {len(ids)} tokens long, the model's context holds {self.limit}; shorten the text",
            )
        return Encoded(
            prompt=prompt,
            tokens=torch.tensor([ids], device=self.device),
            positions=tuple(range(first, first + len(target_ids))),
            target_ids=target_ids,
            foil_ids=foil_ids,
            subject=subject,
            prepend_bos=not self.masked and ids[0] == self.tokenizer.bos_token_id,
            str_tokens=tuple(map(self._piece, ids)),
        )

    def _answer(
        self, prompt: Prompt, ids: list[int], place: int, filled: list[int], name: str, answer: str
    ) -> tuple[int, ...]:
        """The tokens that the answer adds to those of the text."""
        after = ids[place + 1 :] if self.masked else []
        end = len(filled) - len(after)
        found = tuple(filled[place:end])
        if filled[:place] != ids[:place] or filled[end:] != after:
            raise PromptError(Reason.MELTS, self._melting(prompt, answer, name))
        if not "".join(map(self._piece, found)).strip():
            raise PromptError(Reason.UNSEEN, f"nothing of the {name} {answer!r} is left: this tokenizer drops it")
        if self._unknown() in found:
            raise PromptError(Reason.UNKNOWN_WORD, f"{name} {answer!r} is not in the model's vocabulary")
        if len(found) == 1 or (prompt.multi_token == "sum" and not self.masked):
            return found
        if prompt.multi_token == "first":
            return found[:1]
        pieces = [self._piece(i) for i in found]
        hint = (
            "a masked model predicts one token: use Prompt(..., multi_token='first')"
            if self.masked
            else "use Prompt(..., multi_token='first') or 'sum'"
        )
        raise PromptError(
            Reason.ANSWER_PIECES if name == "target" else Reason.FOIL_PIECES,
            f"{name} {answer!r} is {len(found)} tokens {pieces}; {hint}, or choose a single-token {name}",
        )

    def _melting(self, prompt: Prompt, answer: str, name: str) -> str:
        text = prompt.text
        if self.masked:
            return (
                f"the {name} {answer!r} changes the tokens around the mask of {text!r}; write the answer as "
                f"in the sentence, with a space on one side only (e.g. {'is [MASK].'!r} and {answer.strip()!r})"
            )
        return (
            f"the {name} {answer!r} merges with the last token of {text!r}; end the text at a word's end and begin the "
            f"answer with its space, e.g. {' ' + answer.lstrip()!r}"
        )

    def _unknown(self) -> int | None:
        """The token for unknown words, if it is one of its own (GPT-2's is also its end of text)."""
        t = self.tokenizer
        return None if t.unk_token in (t.bos_token, t.eos_token) else t.unk_token_id

    def _piece(self, token: int) -> str:
        if token not in self.pieces:
            self.pieces[token] = self.tokenizer.decode([token])
        return self.pieces[token]


def _use_bos(model: Any, tokenizer: Any, prepend_bos: bool | None) -> bool:
    wanted = bool(getattr(model.cfg, "default_prepend_bos", True)) if prepend_bos is None else prepend_bos
    if wanted and tokenizer.bos_token_id is None:
        if prepend_bos:
            raise ValueError("prepend_bos=True, but the tokenizer has no BOS token; use prepend_bos=False")
        return False
    return wanted


def text_tokens(model: Any, text: str) -> Int[Tensor, " pos"]:
    """The tokens of a text on its own, which begin as those of a prompt do."""
    checked, tokenizer = Prompt(text, " the").text, tokenizer_of(model)
    ids = list(tokenizer(checked, add_special_tokens=False)["input_ids"])
    first = tokenizer.bos_token_id
    before = [first] if _use_bos(model, tokenizer, None) and ids[:1] != [first] else []
    return torch.tensor([*before, *ids], device=adapter.device_of(model))


def _ranges_by_prefix(tokenizer: Any, text: str, ids: list[int]) -> list[tuple[int, int]]:
    """Character ranges for a slow tokenizer: decode ever longer prefixes; they must spell the text."""
    ends = [len(tokenizer.decode(ids[: i + 1])) for i in range(len(ids))]
    if tokenizer.decode(ids) != text:
        raise ValueError(f"this slow tokenizer does not reproduce {text!r} back; load it with use_fast=True")
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _subject_tokens(prompt: Prompt, text: str, ranges: Sequence[tuple[int, int]]) -> range:
    """The tokens that overlap the subject."""
    subject = (prompt.subject or "").strip()
    found = occurrences(text, subject)
    if not found:
        where = "occurs only within other words of" if subject in text else "is not in"
        raise PromptError(
            Reason.SUBJECT,
            f"the subject {prompt.subject!r} {where} the text {prompt.text!r}; write it exactly as in the text",
        )
    if prompt.occurrence is None and len(found) > 1:
        places = " and ".join(f"...{text[max(0, a - 12) : a]}>>{text[a:b]}<<{text[b : b + 12]}..." for a, b in found)
        raise PromptError(
            Reason.TWO_SUBJECTS,
            f"the subject {subject!r} occurs {len(found)} times in {prompt.text!r}: {places}; "
            f"choose one with Prompt(..., occurrence=0), or occurrence=-1 for the last",
        )
    try:
        start, end = found[prompt.occurrence or 0]
    except IndexError:
        raise PromptError(
            Reason.SUBJECT,
            f"occurrence={prompt.occurrence}, but the subject {subject!r} occurs {len(found)} times in {prompt.text!r}",
        ) from None
    inside = [i for i, (a, b) in enumerate(ranges) if a < end and b > start and b > a]
    if not inside:
        raise PromptError(Reason.SUBJECT, f"no token of {prompt.text!r} covers the subject {prompt.subject!r}")
    return range(inside[0], inside[-1] + 1)


def by_length(encoded: Sequence[Encoded]) -> list[list[int]]:
    """Indices of `encoded`, grouped by their numbers of tokens and of answer positions: such prompts can share a
    forward pass. In order of first appearance."""
    groups: dict[tuple[int, int], list[int]] = {}
    for i, e in enumerate(encoded):
        groups.setdefault((e.tokens.shape[1], len(e.positions)), []).append(i)
    return list(groups.values())
