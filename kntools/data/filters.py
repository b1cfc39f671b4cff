"""Choose records: by answer, by what a model already knows, and how many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, TypedDict, TypeVar, Unpack

from kntools.arguments import whole
from kntools.data.knowledge import known_records
from kntools.data.records import Loaded, Skipped
from kntools.data.sources import Source
from kntools.randomness import python_random

Record = TypeVar("Record")

OTHER_TARGET = "other target"
OVER_LIMIT = "over the limit"
NOTHING = Skipped()


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
    """Apply `Filters`. The chosen records keep the order of the data; `skipped` is what the loader left out.

    ```python
    select([Fact(row.text("subject"), row.text("target")) for row in rows], source, limit=100)
    ```
    """
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
        targets = {t.strip() for t in ((target,) if isinstance(target, str) else target)}
        asked: Sequence[Any] = records  # `T` stands for records without a target too; their loaders take no `target=`
        matching = [i for i in order if asked[i].target.strip() in targets]
        left_out[OTHER_TARGET] = len(order) - len(matching)
        order = matching
    if model is None:
        kept = order if limit is None else order[:limit]
        left_out[OVER_LIMIT] = len(order) - len(kept)
    else:
        # In the order of the sample and only until there are enough: a model need not read all of CounterFact.
        kept, reasons = known_records(model, records, order, limit)
        left_out.update(reasons)
        left_out[OVER_LIMIT] = len(order) - len(kept) - sum(reasons.values())
    chosen = tuple(records[i] for i in sorted(kept))
    return Loaded(chosen, skipped + Skipped.of(left_out), source.name, source.is_sample)
