"""What is run: prompts or token ids, the positions whose logits are asked for, and where each answer is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import Any, SupportsIndex, cast

import torch
from jaxtyping import Int
from torch import Tensor

from kntools.models import adapter
from kntools.models.causality import is_masked
from kntools.prompts import Encoded, Prompts, by_length, encode_many
from kntools.sites import Positions, resolve_positions

#: Prompts of equal length, or token ids `[pos]` or `[prompt pos]`.
PromptsOrTokens = Prompts | Int[Tensor, "prompt pos"] | Int[Tensor, " pos"]


@dataclass(frozen=True)
class Inputs:
    """Prompts of equal length."""

    tokens: Int[Tensor, "prompt pos"]
    asked: list[tuple[int, ...]]  # positions whose logits are asked for, as many for every prompt
    single: bool  # one position is asked for, and its axis is left out
    answers: list[tuple[int, ...]] | None  # None: not known

    @property
    def length(self) -> int:
        return int(self.tokens.shape[1])

    def answer_of(self, prompt: int) -> tuple[int, ...]:
        """Where the answer of a prompt is predicted."""
        if self.answers is None:
            raise ValueError(
                "a hook acts at the answer, whose position is not known: give the hook pos= (-1 is the last token), "
                "or sweep a Prompt or Encoded instead of token ids"
            )
        return self.answers[prompt]


def make_inputs(model: Any, given: PromptsOrTokens, pos: Positions | Sequence[Positions] = None) -> Inputs:
    """Check and encode what is to be run.

    Arguments:
        pos: whose logits: `None` is the answer's position; or one entry of several positions per prompt.

    Raises:
        ValueError: prompts of different lengths; token ids without `pos` where the last token need not be the answer.
    """
    if isinstance(given, str):
        raise TypeError(f"{given!r} is a text; write kn.Prompt(text, answer), or model.to_tokens(text) for token ids")
    if isinstance(given, Tensor):
        tokens = as_batch(model, given)
        known = tokens.shape[0] == 1 and not is_masked(model)
        answers: list[tuple[int, ...]] | None = [(int(tokens.shape[1]) - 1,)] if known else None
    else:
        encoded = encode_many(model, given)
        _check_alike(encoded)
        tokens = as_batch(model, torch.cat([e.tokens for e in encoded]))
        answers = [e.positions for e in encoded]
    if pos is not None:
        return Inputs(tokens, _asked(pos, tokens), isinstance(pos, SupportsIndex), answers)
    if answers is None:
        what = "of a masked model" if is_masked(model) else f"of {tokens.shape[0]} rows"
        raise ValueError(
            f"the answer's position in token ids {what} is not known; give pos= (-1 is the last token), "
            "or prompts instead of token ids"
        )
    return Inputs(tokens, answers, len(answers[0]) == 1, answers)


def _check_alike(encoded: Sequence[Encoded]) -> None:
    shapes = sorted({(e.tokens.shape[1], len(e.positions)) for e in encoded})
    if len(shapes) > 1:
        lengths = ", ".join(f"{length} tokens with {pieces} asked for" for length, pieces in shapes)
        raise ValueError(f"these prompts have {lengths}; run prompts of equal length together")


def batches(encoded: Sequence[Encoded], size: int = 8) -> list[list[int]]:
    """Indices of `encoded` that are run together: prompts of equal length, at most `size` of them.

    Larger batches would be no faster, and what is kept of each prompt's activations would take more memory.
    """
    return [group[i : i + size] for group in by_length(encoded) for i in range(0, len(group), size)]


def in_order(groups: Sequence[Sequence[int]], parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of all batches, each with its prompts as the first axis, in the order of the prompts."""
    order = torch.tensor([i for group in groups for i in group]).argsort()
    return {name: torch.cat([part[name] for part in parts])[order] for name in parts[0]}


def bos_of(encoded: Sequence[Encoded]) -> bool | None:
    """Whether prompts begin with a BOS token; `None` if only some of them do."""
    found = {e.prepend_bos for e in encoded}
    return found.pop() if len(found) == 1 else None


def check_count(name: str, value: Any) -> int:
    """A number of things: whole, and at least 1."""
    try:
        count = index(value)
    except TypeError:
        raise TypeError(f"{name}={value!r}; give a whole number, at least 1") from None
    if count < 1:
        raise ValueError(f"{name}={value}; give at least 1")
    return count


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r} is unknown; use {', '.join(map(repr, choices))}")


def as_batch(model: Any, tokens: Tensor) -> Tensor:
    """Tokens as `[prompt pos]` on the model's device."""
    batch = tokens[None] if tokens.ndim == 1 else tokens
    if batch.ndim != 2 or batch.shape[1] == 0 or batch.is_floating_point():
        raise ValueError(
            f"tokens must be token ids [prompt pos], at least one; got {batch.dtype} {tuple(tokens.shape)}"
        )
    limit = adapter.context_length(model)
    if batch.shape[1] > limit:
        raise ValueError(f"{batch.shape[1]} tokens, but the model's context holds {limit}")
    return batch.to(adapter.device_of(model))


def _asked(pos: Positions | Sequence[Positions], tokens: Tensor) -> list[tuple[int, ...]]:
    """Asked positions of each prompt. A list of sequences has one entry per prompt."""
    length = tokens.shape[1]
    if isinstance(pos, list | tuple) and pos and not all(isinstance(p, SupportsIndex) for p in pos):
        if len(pos) != tokens.shape[0]:
            raise ValueError(f"positions for {len(pos)} prompts, but there are {tokens.shape[0]}")
        per_prompt = [resolve_positions(p, length) for p in pos]
    else:
        per_prompt = [resolve_positions(cast(Positions, pos), length)] * tokens.shape[0]
    if len({len(p) for p in per_prompt}) != 1 or not per_prompt[0]:
        raise ValueError("every prompt must ask for the same number of positions, at least one")
    return per_prompt
