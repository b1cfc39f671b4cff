"""Pairs of prompts that differ somewhere and are equally long: what patching and tracing compare."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from kntools.arguments import several, shown
from kntools.prompts import Encoded, Prompt, PromptError, PromptLike, Prompts, encode

#: The other prompts: with an answer of their own, or as text.
Corrupted = Prompts | str | Sequence[PromptLike | str]


@dataclass(frozen=True)
class Pair:
    """Two encoded prompts of the same length, read at the same positions, about the clean prompt's answer."""

    clean: Encoded
    corrupted: Encoded

    @property
    def length(self) -> int:
        return int(self.clean.tokens.shape[1])

    @property
    def first_difference(self) -> int:
        """The first position where the tokens differ; the length if none does."""
        return next(iter(self.differences), self.length)

    @property
    def differences(self) -> tuple[int, ...]:
        return tuple((self.clean.tokens[0] != self.corrupted.tokens[0]).nonzero()[:, 0].tolist())

    @property
    def labels(self) -> tuple[str, ...]:
        """One text per token: `clean/corrupted` where they differ."""
        both = zip(self.clean.str_tokens, self.corrupted.str_tokens, strict=True)
        return tuple(a if a == b else f"{a}/{b.strip()}" for a, b in both)


def encode_pairs(model: Any, clean: Prompts, corrupted: Corrupted) -> list[Pair]:
    """Encode pairs and check that they line up.

    A corrupted prompt is asked for the clean one's answer; its own answer is the foil where the clean prompt has none.
    """
    left, right = (
        [given] if isinstance(given, Prompt | Encoded | str) else several(name, given, "[kn.Prompt(text, answer)]")
        for name, given in (("clean", clean), ("corrupted", corrupted))
    )
    for other in (*left, *right):
        if not isinstance(other, Prompt | Encoded | str):
            raise TypeError(f"{shown(other)} is not a prompt; write kn.Prompt(text, answer)")
    for text in left:
        if isinstance(text, str):
            raise TypeError(
                f"the clean prompt {text!r} has no answer; write kn.Prompt({text!r}, ' ...'). The corrupted one may be "
                "a text: it has the same answer"
            )
    if len(left) != len(right) or not left:
        raise ValueError(f"{len(left)} clean and {len(right)} corrupted prompts; give as many of each, at least one")
    return [_pair(model, a, b) for a, b in zip(left, right, strict=True)]


def _pair(model: Any, clean: PromptLike, corrupted: PromptLike | str) -> Pair:
    other = corrupted.prompt if isinstance(corrupted, Encoded) else corrupted
    text = other if isinstance(other, str) else other.text
    # What is not encoded yet begins as the other prompt does.
    bos = next((p.prepend_bos for p in (corrupted, clean) if isinstance(p, Encoded)), None)
    a = encode(model, clean, prepend_bos=bos)
    b = corrupted
    if not isinstance(b, Encoded) or b.prompt.target != a.prompt.target:
        b = encode(model, Prompt(text, a.prompt.target, multi_token=a.prompt.multi_token), prepend_bos=bos)
    if a.tokens.shape != b.tokens.shape:
        raise ValueError(
            f"the clean prompt has {a.tokens.shape[1]} tokens, the corrupted one {b.tokens.shape[1]}; they "
            f"must have as many:\n  clean     {list(a.str_tokens)}\n  corrupted {list(b.str_tokens)}"
        )
    if a.positions != b.positions or a.target_ids != b.target_ids:
        raise ValueError(
            f"the answer is at position {a.positions} of the clean prompt and at {b.positions} of the corrupted "
            f"one; it must be the same:\n  clean     {list(a.str_tokens)}\n  corrupted {list(b.str_tokens)}"
        )
    if a.prompt.foil is None and isinstance(other, Prompt) and other.target != a.prompt.target:
        with suppress(PromptError):  # nobody asked for this foil: of several tokens, it is left out
            a = encode(model, replace(a.prompt, foil=other.target), prepend_bos=a.prepend_bos)
    return Pair(a, b)
