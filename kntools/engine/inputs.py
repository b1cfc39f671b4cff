"""What is run: prompts or token ids, the positions whose logits are asked for, and where each answer is."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from kntools.arguments import is_one_number, shown
from kntools.models import adapter
from kntools.models.causality import is_masked
from kntools.options import progress_bar
from kntools.prompts import Encoded, Prompts, encode_many
from kntools.sites import Positions, resolve_positions

#: Prompts, or token ids `[pos]` or `[prompt pos]`.
PromptsOrTokens = Prompts | Int[Tensor, "prompt pos"] | Int[Tensor, " pos"]
# Prompts of equal length that are run together: more are hardly faster.
_BATCH = 16


@dataclass(frozen=True)
class Inputs:
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


def make_inputs(
    model: Any,
    given: PromptsOrTokens,
    pos: Positions | Sequence[Positions] = None,
    attention_mask: Tensor | None = None,
) -> list[tuple[list[int], Inputs]]:
    """Check and encode what is to be run: in groups of equal length, with the numbers of their prompts.

    `pos` says whose logits: `None` is the answer's position; or one entry of several positions per prompt.
    """
    if isinstance(given, str):
        raise TypeError(f"{given!r} is a text; write kn.Prompt(text, answer), or model.to_tokens(text) for token ids")
    if isinstance(given, Tensor):
        tokens = as_batch(model, given)
        rows = list(tokens) if attention_mask is None else _texts(tokens, attention_mask)
        if attention_mask is None:
            check_padding(model, tokens)
        known = not is_masked(model) and (len(rows) == 1 or attention_mask is not None)
        answers: list[tuple[int, ...]] | None = [(len(row) - 1,) for row in rows] if known else None
        groups = alike(map(len, rows))
    else:
        if attention_mask is not None:
            raise ValueError("attention_mask= belongs to token ids; prompts are not padded: omit it")
        encoded = encode_many(model, given)
        rows, groups = [e.tokens[0] for e in encoded], by_length(encoded)
        answers = [e.positions for e in encoded]
    asked = answers if pos is None else _asked(pos, rows)
    if asked is None:
        what = "of a masked model" if is_masked(model) else f"of {len(rows)} rows"
        raise ValueError(
            f"the answer position in token ids {what} is unknown; give pos= (-1 is the last token), "
            "or prompts instead of token ids"
        )
    found = []
    for group in groups:
        tokens = as_batch(model, torch.stack([rows[n] for n in group]))
        of_group = [asked[n] for n in group]
        if len({len(at) for at in of_group}) != 1 or not of_group[0]:
            raise ValueError("every prompt must have the same number of positions, at least one")
        single = is_one_number(pos) or (pos is None and len(of_group[0]) == 1)
        known_answers = None if answers is None else [answers[n] for n in group]
        found.append((group, Inputs(tokens, of_group, single, known_answers)))
    return found


def alike(keys: Iterable[Hashable]) -> list[list[int]]:
    """The numbers of equal keys, in the order in which these first come."""
    groups: dict[Hashable, list[int]] = {}
    for n, key in enumerate(keys):
        groups.setdefault(key, []).append(n)
    return list(groups.values())


def by_length(encoded: Sequence[Encoded]) -> list[list[int]]:
    """Those with equal numbers of tokens and of answer positions: such prompts share a pass."""
    return alike((e.tokens.shape[1], len(e.positions)) for e in encoded)


def _asked(pos: Positions | Sequence[Positions], rows: Sequence[Tensor]) -> list[tuple[int, ...]]:
    """Asked positions of each row. A list of sequences has one entry per row."""
    if isinstance(pos, list | tuple) and pos and not all(map(is_one_number, pos)):
        if len(pos) != len(rows):
            raise ValueError(f"positions for {len(pos)} prompts, but there are {len(rows)}")
        per_row = cast(Sequence[Positions], pos)
    else:
        per_row = [cast(Positions, pos)] * len(rows)
    return [resolve_positions(own, len(row)) for own, row in zip(per_row, rows, strict=True)]


def _texts(tokens: Int[Tensor, "prompt pos"], attention_mask: Tensor) -> list[Int[Tensor, " text"]]:
    """The rows without what fills them up: such a row is run as the text that it holds, on its own."""
    mask = attention_mask.to(tokens.device).reshape(-1, attention_mask.shape[-1]) != 0
    if mask.shape != tokens.shape:
        raise ValueError(f"attention_mask is {tuple(attention_mask.shape)}, the token ids are {tuple(tokens.shape)}")
    for n, row in enumerate(mask.int()):
        if int(row.diff().abs().sum() + row[0] + row[-1]) != 2:
            raise ValueError(f"row {n} of attention_mask is {row.tolist()}; its ones must be one stretch, at least one")
    return [row[kept] for row, kept in zip(tokens, mask, strict=True)]


def check_padding(model: Any, tokens: Int[Tensor, "prompt pos"]) -> None:
    """Padding would be run as text. One BOS at the start is text; one end token is, where every row has it."""
    tokenizer = model.tokenizer
    pad = getattr(tokenizer, "pad_token_id", None)
    if pad is None:
        return
    text = tokens != pad
    before, after = ((t.cumsum(-1) == 0).sum(-1).tolist() for t in (text, text.flip(-1)))
    begins = pad == tokenizer.bos_token_id and (set(before) == {1} or getattr(model.cfg, "default_prepend_bos", False))
    ends = pad == tokenizer.eos_token_id and set(after) == {1}
    for n, (left, right) in enumerate(zip(before, after, strict=True)):
        if left > begins or right > ends:
            raise ValueError(
                f"row {n} of the token ids has {left} padding tokens {tokenizer.decode([pad])!r} before its text and "
                f"{right} after it; give attention_mask= (1 for each token of the text, 0 for padding), or prompts "
                "instead of token ids"
            )


def in_batches(
    encoded: Sequence[Encoded], measure: Callable[[list[int]], dict[str, Tensor]]
) -> dict[str, Shaped[Tensor, "prompt ..."]]:
    """What `measure` gives for the prompts of each batch (their numbers), in the order of all prompts."""
    groups = [group[i : i + _BATCH] for group in by_length(encoded) for i in range(0, len(group), _BATCH)]
    parts = []
    with progress_bar(len(groups), "batch") as bar:
        for group in groups:
            parts.append(measure(group))
            bar.update()
    order = torch.tensor([i for group in groups for i in group]).argsort()
    return {name: torch.cat([part[name] for part in parts])[order] for name in parts[0]}


def bos_of(encoded: Sequence[Encoded]) -> bool | None:
    """Whether prompts begin with a BOS token; `None` if only some of them do."""
    found = {e.prepend_bos for e in encoded}
    return found.pop() if len(found) == 1 else None


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    if not isinstance(value, str | None) or value not in choices:
        raise ValueError(f"{name}={shown(value)} is unknown; use {', '.join(map(repr, choices))}")


def as_batch(model: Any, tokens: Tensor) -> Tensor:
    batch = tokens[None] if tokens.ndim == 1 else tokens
    if batch.ndim != 2 or batch.shape[1] == 0 or batch.is_floating_point():
        raise ValueError(
            f"tokens must be token ids [prompt pos], at least one; got {batch.dtype} {tuple(tokens.shape)}"
        )
    limit, words = adapter.context_length(model), int(model.cfg.d_vocab)
    if batch.shape[1] > limit:
        raise ValueError(f"{batch.shape[1]} tokens, but the model's context holds {limit}")
    if not 0 <= int(batch.min()) <= int(batch.max()) < words:
        raise ValueError(f"token ids from {int(batch.min())} to {int(batch.max())}; the model's are 0 to {words - 1}")
    return batch.to(adapter.device_of(model))
