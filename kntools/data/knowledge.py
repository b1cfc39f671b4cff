"""What a model already knows: ask it, many prompts to a forward pass, without touching the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from kntools.data.records import Loaded, Prompts, Skipped
from kntools.engine.sweep import Intervention, sweep
from kntools.prompts import Encoded, Prompt, by_length, encode

NOT_KNOWN = "not known to the model"
NO_PROMPT = "no usable prompt for this model"
_CHUNK = 256


def known(
    model: Any,
    prompts: Prompts | Sequence[Prompt],
    *,
    two_way: bool | None = None,
    prepend_bos: bool | None = None,
    progress: bool = True,
) -> list[bool]:
    """For each prompt, whether the model answers it right.

    ```python
    facts = kn.data.pararel("P36").prompts(model)
    right = kn.data.known(model, facts)
    facts.only([i for i, r in enumerate(right) if r], "not known")
    ```

    Arguments:
        prompts: what to ask.
        two_way: `True`: the target must be more probable than the foil; `False`: than every other token (for
            an answer of several tokens its first one counts); `None`: two-way for minimal pairs and frames.
        prepend_bos: as in `kn.encode`.
        progress: show a bar.

    Returns:
        One truth value per prompt, in order.

    Raises:
        ValueError: `two_way=True` and a prompt without a foil.
    """
    if two_way is None:
        two_way = isinstance(prompts, Prompts) and bool(prompts.records) and is_two_way(prompts.records[0])
    encoded = [encode(model, prompt, prepend_bos, multi_token="first") for prompt in prompts]
    for e in encoded:
        if two_way and e.foil_ids is None:
            raise ValueError(f"{e.prompt} has no foil to compare its target with; pass two_way=False")
    out = [False] * len(encoded)
    with tqdm(total=len(encoded), disable=not progress, unit="prompt", desc="known", leave=False) as bar:
        for group in by_length(encoded):
            for start in range(0, len(group), _CHUNK):
                chunk = group[start : start + _CHUNK]
                for i, right in zip(chunk, _ask(model, [encoded[i] for i in chunk], two_way), strict=True):
                    out[i] = right
                bar.update(len(chunk))
    return out


def is_two_way(record: Any) -> bool:
    """Is this kind of record about which of two answers is the better one?"""
    return bool(getattr(record, "two_way", False))


def known_records(
    model: Any,
    records: Sequence[Any],
    order: Sequence[int],
    limit: int | None,
    *,
    prepend_bos: bool | None,
    progress: bool,
) -> tuple[list[int], Counter[str]]:
    """Indices of the first `limit` records, in `order`, that the model knows, and why others are left out.

    A record is asked its first usable prompt.
    """
    kept: list[int] = []
    reasons: Counter[str] = Counter()
    goal = len(order) if limit is None else limit
    with tqdm(total=len(order), disable=not progress, unit="record", desc="known", leave=False) as bar:
        for start in range(0, len(order), _CHUNK):
            if len(kept) >= goal:
                break
            chunk = order[start : start + _CHUNK]
            for i, reason in zip(chunk, _judge(model, [records[i] for i in chunk], prepend_bos), strict=True):
                if len(kept) >= goal:
                    break
                if reason:
                    reasons[reason] += 1
                else:
                    kept.append(i)
            bar.update(len(chunk))
    return kept, reasons


def _judge(model: Any, records: list[Any], prepend_bos: bool | None) -> list[str]:
    """For each record an empty string if it is known, else why it is not."""
    role = getattr(records[0], "known_role", None)  # a record of several roles is known by one of them
    prompts = Loaded(tuple(records), Skipped(), "").prompts(model, role=role)
    first: dict[int, Prompt] = {}
    for record, prompt in zip(prompts.records, prompts.prompts, strict=True):
        first.setdefault(id(record), prompt)
    two_way = is_two_way(records[0])
    right = known(model, list(first.values()), two_way=two_way, prepend_bos=prepend_bos, progress=False)
    reasons = {key: "" if r else NOT_KNOWN for key, r in zip(first, right, strict=True)}
    return [reasons.get(id(record), NO_PROMPT) for record in records]


def _ask(model: Any, encoded: list[Encoded], two_way: bool) -> list[bool]:
    """Prompts of one length, in a sweep without interventions."""
    right = sweep(
        model,
        torch.cat([e.tokens for e in encoded]),
        [Intervention((), prompt=i) for i in range(len(encoded))],
        pos=[[e.position] for e in encoded],
        metric=[_is_right(e, two_way) for e in encoded],
    )
    return [bool(value) for value in right.tolist()]


def _is_right(encoded: Encoded, two_way: bool) -> Callable[[Tensor], Tensor]:
    """1.0 for a row of logits `[row pos d_vocab]` that answers right, 0.0 for another."""
    target = encoded.target_ids[0]

    def metric(logits: Tensor) -> Tensor:
        logits = logits.reshape(logits.shape[0], -1)
        if two_way and encoded.foil_ids is not None:
            return (logits[:, target] > logits[:, encoded.foil_ids[0]]).float()
        return (logits.argmax(-1) == target).float()

    return metric
