"""Choose records: by answer, by what a model already knows (without touching the model), and how many."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, TypedDict, Unpack

from kntools.arguments import flag, several, shown, whole
from kntools.data.records import Loaded, PromptSet, Record, Skipped
from kntools.data.sources import Source
from kntools.engine.answers import ask
from kntools.engine.texts import chunks
from kntools.options import progress_bar
from kntools.prompts import Prompt
from kntools.randomness import python_random

OVER_LIMIT = "over the limit"
NOTHING = Skipped()
NOT_KNOWN = "not known to the model"
NO_PROMPT = "no usable prompt for this model"
_CHUNK = 256


class Filters(TypedDict, total=False):
    """Arguments of every loader.

    limit: at most so many records, the first ones of the data or, with `seed`, a random sample of it.
    seed: which sample. With the same seed a smaller sample is part of a larger one. No global state is read
        or changed.
    target: only records with this answer, or one of these.
    known_only: a model; only records whose first usable prompt it answers right. For a fact the answer is the
        most probable token; for a minimal pair or frame it is more probable than the foil.
    """

    limit: int | None
    seed: int | None
    target: str | Collection[str] | None
    known_only: Any


def select(
    records: Sequence[Record], source: Source, skipped: Skipped = NOTHING, **filters: Unpack[Filters]
) -> Loaded[Record]:
    """Apply `Filters`. The chosen records keep the order of the data; `skipped` is what the loader left out."""
    unknown = set(filters) - set(Filters.__annotations__)
    if unknown:
        raise TypeError(
            f"unknown argument {', '.join(sorted(unknown))}; the filters are {', '.join(Filters.__annotations__)}"
        )
    limit, seed, model = filters.get("limit"), filters.get("seed"), filters.get("known_only")
    if limit is not None:
        limit = whole("limit", limit, least=0)

    order = list(range(len(records)))
    if seed is not None:
        python_random(seed).shuffle(order)
    left_out: Counter[str] = Counter()
    target = filters.get("target")
    if target is not None:
        listed = [target] if isinstance(target, str) else several("target", target, "['Rome', 'Paris']")
        if not all(isinstance(t, str) for t in listed):
            raise TypeError(f"target={shown(target)}; give texts such as 'Rome' or ['Rome', 'Paris']")
        targets = {t.strip() for t in listed}
        asked: Sequence[Any] = records  # some have no target; their loaders take no `target=`
        matching = [i for i in order if asked[i].target.strip() in targets]
        left_out["other target"] = len(order) - len(matching)
        order = matching
    # In the order of the sample and only until there are enough: a model need not read all of CounterFact.
    kept, reasons = (order[:limit], {}) if model is None else _known_records(model, records, order, limit)
    left_out.update(reasons)
    left_out[OVER_LIMIT] = len(order) - len(kept) - sum(reasons.values())
    chosen = tuple(records[i] for i in sorted(kept))
    return Loaded(chosen, skipped + Skipped.of(left_out), source.name, source.is_sample)


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
    if flag("two_way", two_way, None) is None:
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


def _known_records(
    model: Any, records: Sequence[Any], order: Sequence[int], limit: int | None
) -> tuple[list[int], Counter[str]]:
    """Indices of the first `limit` records, in `order`, that the model knows, and why others are left out."""
    kept, reasons = list[int](), Counter[str]()
    goal = len(order) if limit is None else limit
    with progress_bar(len(order), "record") as bar:
        for chunk in chunks(order, _CHUNK):
            if len(kept) >= goal:
                break
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
    """For each record an empty string if the model answers its first usable prompt, else why it is not known."""
    role = getattr(records[0], "known_role", None)  # a record of several roles is known by one of them
    prompts = Loaded(tuple(records), Skipped(), "").prompts(model, role=role)
    first = {id(record): asked[0] for record, asked in prompts.by_record()}
    right = known(model, list(first.values()), two_way=is_two_way(records[0]))
    reasons = {key: "" if r else NOT_KNOWN for key, r in zip(first, right, strict=True)}
    return [reasons.get(id(record), NO_PROMPT) for record in records]
