"""What a model already knows of some records, without touching the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kntools.data.records import Loaded, PromptSet, Skipped
from kntools.engine.answers import ask
from kntools.options import progress_bar
from kntools.prompts import Prompt

NOT_KNOWN = "not known to the model"
NO_PROMPT = "no usable prompt for this model"
_CHUNK = 256


def known(model: Any, prompts: PromptSet | Sequence[Prompt], *, two_way: bool | None = None) -> list[bool]:
    """For each prompt, whether the model answers correctly.

    ```python
    facts = kn.data.pararel("P36").prompts(model)
    right = kn.data.known(model, facts)
    facts.only([i for i, r in enumerate(right) if r], "not known")
    ```

    Arguments:
        prompts: what to ask.
        two_way: `True`: the target must be more probable than the foil; `False`: than every other token (for
            an answer of several tokens its first one counts); `None`: two-way for minimal pairs and frames.

    Returns:
        One truth value per prompt, in order. A tie is not known.

    Raises:
        ValueError: `two_way=True` and a prompt without a foil.
    """
    if two_way is None:
        two_way = isinstance(prompts, PromptSet) and bool(prompts.records) and is_two_way(prompts.records[0])
    asked = [replace(prompt, multi_token="first") for prompt in prompts]
    for prompt in asked:
        if two_way and prompt.foil is None:
            raise ValueError(f"{prompt} has no foil to compare its target with; pass two_way=False")
    answers = ask(model, asked) if asked else []
    return [bool(answer.preferred) if two_way else answer.first for answer in answers]


def is_two_way(record: Any) -> bool:
    """Is this kind of record about which of two answers is the better one?"""
    return bool(getattr(record, "two_way", False))


def known_records(
    model: Any,
    records: Sequence[Any],
    order: Sequence[int],
    limit: int | None,
) -> tuple[list[int], Counter[str]]:
    """Indices of the first `limit` records, in `order`, that the model knows, and why others are left out.

    A record is asked its first usable prompt.
    """
    kept: list[int] = []
    reasons: Counter[str] = Counter()
    goal = len(order) if limit is None else limit
    with progress_bar(len(order), "record") as bar:
        for start in range(0, len(order), _CHUNK):
            if len(kept) >= goal:
                break
            chunk = order[start : start + _CHUNK]
            for i, reason in zip(chunk, _judge(model, [records[i] for i in chunk]), strict=True):
                if len(kept) >= goal:
                    break
                if reason:
                    reasons[reason] += 1
                else:
                    kept.append(i)
            bar.update(len(chunk))
    return kept, reasons


def _judge(model: Any, records: list[Any]) -> list[str]:
    """For each record an empty string if it is known, else why it is not."""
    role = getattr(records[0], "known_role", None)  # a record of several roles is known by one of them
    prompts = Loaded(tuple(records), Skipped(), "").prompts(model, role=role)
    first: dict[int, Prompt] = {}
    for record, prompt in zip(prompts.records, prompts.prompts, strict=True):
        first.setdefault(id(record), prompt)
    right = known(model, list(first.values()), two_way=is_two_way(records[0]))
    reasons = {key: "" if r else NOT_KNOWN for key, r in zip(first, right, strict=True)}
    return [reasons.get(id(record), NO_PROMPT) for record in records]
