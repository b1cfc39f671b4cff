"""Prompts and the one way in which kntools turns them into tokens.

A prompt is a text and the answer that a model should give. For a causal model the answer follows the
text; for a masked one the text holds one `[MASK]`. `encode` is the only tokenisation in the library.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from kntools.models import adapter
from kntools.results import display

#: How a mask is written in every text, whatever the tokenizer calls it.
MASK = "[MASK]"

MultiToken = Literal["error", "first", "sum"]


@dataclass(frozen=True)
class Prompt:
    """A text, the answer it asks for, and (optionally) its subject and a wrong answer to compare with.

    ```python
    Prompt("The capital of Canada is", " Ottawa", subject="Canada", foil=" Rome")   # causal model
    Prompt("The capital of Canada is [MASK].", "Ottawa", subject="Canada")          # masked model
    ```
    """

    text: str
    target: str
    subject: str | None = None
    foil: str | None = None

    def __post_init__(self) -> None:
        for name in ("text", "target"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(
                    f"{name}={getattr(self, name)!r} is no text; write kn.Prompt('The capital of ...', ' Ottawa')"
                )
        if not self.text.strip():
            raise ValueError("the prompt's text is empty; give the words that come before the answer")
        if not self.target.strip():
            raise ValueError(f"the prompt {self.text!r} has an empty target; give the answer, e.g. target=' Ottawa'")
        if self.foil is not None and not self.foil.strip():
            raise ValueError(f"the prompt {self.text!r} has an empty foil; give a wrong answer, or None")


@dataclass(frozen=True)
class Encoded:
    """A tokenised prompt. Read `tokens`, run them, and look at the logits of `positions`.

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

    def _repr_html_(self) -> str:
        asked = dict(zip(self.positions, self.target_ids, strict=True))
        rows = [
            (p, repr(token), id, "subject" if p in (self.subject or ()) else "", f"-> {asked[p]}" if p in asked else "")
            for p, (token, id) in enumerate(zip(self.str_tokens, self.tokens[0].tolist(), strict=True))
        ]
        frame = pd.DataFrame(rows, columns=["position", "token", "id", "subject", "answer"])
        return display.html(repr(self.prompt), frame, rows=100)


def encode(
    model: Any, prompt: Prompt, prepend_bos: bool | None = None, *, multi_token: MultiToken = "error"
) -> Encoded:
    """Tokenise `prompt` for `model`.

    ```python
    e = kn.encode(model, Prompt("The capital of Canada is", "Ottawa", subject="Canada"), prepend_bos=False)
    model(e.tokens)[0, e.position].softmax(-1)[e.target_ids[0]]
    ```

    Arguments:
        model: any TransformerLens model with a tokenizer.
        prompt: what to encode. A missing leading space of the target is added where the vocabulary needs one.
        prepend_bos: put the beginning-of-sequence token first; `None` is the model's own default. A masked
            model keeps its special tokens whatever this says.
        multi_token: what to do with an answer of several tokens: `"error"`; `"first"` asks for its first token
            only; `"sum"` appends the answer's own tokens (teacher forcing) so that their log-probabilities add up.

    Returns:
        `Encoded`, on the model's device.

    Raises:
        ValueError: no or two masks for a masked model, a mask for a causal one, an answer of several tokens, a
            subject that is not in the text, a text that ends in a space or is longer than the context.
    """
    if not isinstance(prompt, Prompt):
        raise TypeError(f"{prompt!r} is no Prompt; write kn.Prompt(text, answer)")
    if multi_token not in get_args(MultiToken):
        raise ValueError(f"multi_token={multi_token!r} is unknown; use 'error', 'first' or 'sum'")
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise ValueError("this model has no tokenizer; set model.tokenizer first")
    masked = adapter.is_masked(model)
    text = _model_text(tokenizer, prompt.text, masked)
    bos = _use_bos(model, tokenizer, prepend_bos, masked)

    ids, offsets = _tokenize(tokenizer, text, special=masked)
    if bos:
        ids, offsets = [tokenizer.bos_token_id, *ids], [(0, 0), *offsets]
    target_ids = _answer_ids(tokenizer, text, prompt.target, masked, multi_token, what="target")
    foil_ids = None
    if prompt.foil is not None:
        foil_ids = _answer_ids(tokenizer, text, prompt.foil, masked, multi_token, what="foil")

    position = ids.index(tokenizer.mask_token_id) if masked else len(ids) - 1
    if masked and max(len(target_ids), len(foil_ids or ())) > 1:
        raise ValueError("multi_token='sum' needs a causal model: a masked one predicts one piece; use 'first'")
    forced = target_ids[:-1]  # teacher forcing: each piece is read by the prediction of the next one
    ids = [*ids, *forced]
    limit = adapter.context_length(model)
    if len(ids) > limit:
        raise ValueError(f"the prompt is {len(ids)} tokens long, the model's context holds {limit}; shorten the text")

    return Encoded(
        prompt=prompt,
        tokens=torch.tensor([ids], device=adapter.device_of(model)),
        positions=tuple(range(position, position + len(target_ids))),
        target_ids=target_ids,
        foil_ids=foil_ids,
        subject=_subject_span(tokenizer, prompt, text, offsets, bos, masked),
        prepend_bos=bos,
        str_tokens=tuple(tokenizer.decode([i]) for i in ids),
    )


def answer_ids(model: Any, text: str, answer: str, *, multi_token: MultiToken = "error") -> tuple[int, ...]:
    """Token ids of `answer` after (causal) or inside (masked) `text`, by the rules of `encode`."""
    masked = adapter.is_masked(model)
    return _answer_ids(model.tokenizer, text, answer, masked, multi_token, what="answer")


def _model_text(tokenizer: Any, text: str, masked: bool) -> str:
    """Check the masks and the end of `text`; put the tokenizer's own mask in."""
    masks = text.count(MASK)
    if not masked:
        if masks or (tokenizer.mask_token and tokenizer.mask_token in text):
            raise ValueError(f"{text!r} holds a mask, but this is a causal model: end the text where the answer begins")
        if text != text.rstrip():
            raise ValueError(f"{text!r} ends in a space; remove it: the answer brings its own leading space")
        return text
    if masks != 1:
        raise ValueError(f"{text!r} holds {masks} masks; a masked model needs exactly one {MASK}")
    return text.replace(MASK, tokenizer.mask_token)


def _use_bos(model: Any, tokenizer: Any, prepend_bos: bool | None, masked: bool) -> bool:
    if masked:
        return False  # its tokenizer adds [CLS] and [SEP] itself
    wanted = bool(getattr(model.cfg, "default_prepend_bos", True)) if prepend_bos is None else prepend_bos
    if wanted and tokenizer.bos_token_id is None:
        if prepend_bos:
            raise ValueError("prepend_bos=True, but the tokenizer has no BOS token; use prepend_bos=False")
        return False
    return wanted


def _tokenize(tokenizer: Any, text: str, *, special: bool) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids and their character ranges in `text`."""
    if getattr(tokenizer, "is_fast", False):
        out = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
        return list(out["input_ids"]), [tuple(o) for o in out["offset_mapping"]]
    ids = list(tokenizer(text, add_special_tokens=special)["input_ids"])
    return ids, _offsets_by_prefix(tokenizer, text, ids, special)


def _offsets_by_prefix(tokenizer: Any, text: str, ids: list[int], special: bool) -> list[tuple[int, int]]:
    """Character ranges for a slow tokenizer: decode ever longer prefixes; they must spell the text."""
    if special:
        raise ValueError("a masked model needs a fast tokenizer (use_fast=True) to locate words")
    ends = [len(tokenizer.decode(ids[: i + 1])) for i in range(len(ids))]
    if tokenizer.decode(ids) != text:
        raise ValueError(f"this slow tokenizer does not spell {text!r} back; load it with use_fast=True")
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _answer_ids(
    tokenizer: Any, text: str, answer: str, masked: bool, multi_token: MultiToken, *, what: str
) -> tuple[int, ...]:
    ids = _masked_answer(tokenizer, answer, what) if masked else _causal_answer(tokenizer, text, answer)
    if len(ids) == 1 or multi_token == "sum":
        return ids
    if multi_token == "first":
        return ids[:1]
    pieces = [tokenizer.decode([i]) for i in ids]
    shown = answer if masked else _with_space(answer)
    raise ValueError(
        f"{what} {shown!r} is {len(ids)} tokens {pieces}; "
        "pass multi_token='first' or 'sum', or choose a single-token target"
    )


def _masked_answer(tokenizer: Any, answer: str, what: str) -> tuple[int, ...]:
    ids = tuple(tokenizer(answer.strip(), add_special_tokens=False)["input_ids"])
    if tokenizer.unk_token_id in ids:
        raise ValueError(f"{what} {answer.strip()!r} is not in the model's vocabulary")
    return ids


def _causal_answer(tokenizer: Any, text: str, answer: str) -> tuple[int, ...]:
    """The ids that continue `text`: what tokenising both together adds, so that spaces are right.

    A word gets its leading space (` Ottawa`); punctuation, and an answer that has one, stay as they are.
    """
    answer = _with_space(answer)
    alone = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    both = list(tokenizer(text + answer, add_special_tokens=False)["input_ids"])
    if both[: len(alone)] != alone or len(both) == len(alone):
        raise ValueError(f"the answer {answer!r} melts into the last token of {text!r}; end the text at a word's end")
    return tuple(both[len(alone) :])


def _with_space(answer: str) -> str:
    """A word that continues a text brings a leading space; punctuation, and what has one, stays as it is."""
    return " " + answer if answer[0].isalnum() else answer


def _subject_span(
    tokenizer: Any, prompt: Prompt, text: str, offsets: Sequence[tuple[int, int]], bos: bool, masked: bool
) -> range | None:
    """Tokens that overlap the subject, where `subject_start` sees it."""
    if prompt.subject is None:
        return None
    subject = prompt.subject.strip()
    start = subject_start(text, subject)
    if not subject or start < 0:
        raise ValueError(f"the subject {prompt.subject!r} is not in the text {prompt.text!r}; give it as it is written")
    end = start + len(subject)
    inside = [i for i, (a, b) in enumerate(offsets) if a < end and b > start and b > a]
    if not inside:
        raise ValueError(f"no token of {prompt.text!r} covers the subject {prompt.subject!r}")
    return range(inside[0], inside[-1] + 1)


def subject_start(text: str, subject: str) -> int:
    """Where a subject begins: at its first occurrence as a word of its own, else at its first, else -1."""
    whole = re.search(rf"(?<!\w){re.escape(subject)}(?!\w)", text)
    return whole.start() if whole else text.find(subject)


def by_length(encoded: Sequence[Encoded]) -> list[list[int]]:
    """Indices of `encoded`, grouped by their numbers of tokens and of answer positions: such prompts can share a
    forward pass. In order of first appearance."""
    groups: dict[tuple[int, int], list[int]] = {}
    for i, e in enumerate(encoded):
        groups.setdefault((e.tokens.shape[1], len(e.positions)), []).append(i)
    return list(groups.values())
