"""Prompts that ask for one fact or one agreement: what a search for knowledge neurons is given.

```python
groups = prompt_groups(model, "determiner_noun_agreement_2", limit=50)    # "these horses": many frames
groups = prompt_groups(model, "P36", limit=50)                            # "Canada -> Ottawa": all patterns
```
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any, Literal

import pandas as pd

from kntools import data
from kntools.analyses.determiner_pairs import pairs_in_frames
from kntools.data.grouping import DETERMINER_NUMBER
from kntools.data.pairs import MinimalPair
from kntools.data.records import PromptSet, Skipped
from kntools.data.sample import PARADIGMS as SAMPLES
from kntools.models.names import check_name
from kntools.prompts import Prompt
from kntools.results import display

GroupKind = Literal["linguistic", "factual"]

#: Prompts by the name of what they have in common.
NamedPrompts = Mapping[str, Sequence[Prompt] | PromptSet]

#: Fewer say little; Dai et al.'s code asks for as many.
LEAST = 3


@dataclass(frozen=True)
class PromptGroup:
    """Prompts of one answer. `labels` says what the group is about (determiner, noun, number; subject)."""

    key: str
    source: str  # paradigm or relation
    kind: GroupKind
    prompts: tuple[Prompt, ...]
    labels: tuple[tuple[str, str], ...] = ()

    def label(self, name: str) -> str | None:
        return dict(self.labels).get(name)

    @property
    def item(self) -> str:
        """A key for runs: changes with the prompts."""
        text = json.dumps([asdict(p) for p in self.prompts], ensure_ascii=False)
        return f"{self.source}/{self.key}/{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"


@dataclass(frozen=True)
class PromptGroups:
    """Groups of one paradigm or relation, and what was left out."""

    groups: tuple[PromptGroup, ...]
    skipped: Skipped
    source: str

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[PromptGroup]:
        return iter(self.groups)

    def __repr__(self) -> str:
        n = sum(len(g.prompts) for g in self.groups)
        return f"PromptGroups({self.source}: {len(self)} groups, {n} prompts, skipped: {self.skipped})"

    def _repr_html_(self) -> str:
        rows = [(g.key, len(g.prompts), g.prompts[0].text, g.prompts[0].target) for g in self.groups]
        frame = pd.DataFrame(rows, columns=["group", "prompts", "the first", "target"])
        return display.html(repr(self), frame, rows=10)


def prompt_groups(
    model: Any,
    name: str,
    *,
    frames: int = 10,
    limit: int | None = None,
    seed: int = 0,
    least: int = LEAST,
    known_only: bool = False,
    by: Callable[[Any], str | None] | None = None,
    path: Any = None,
) -> PromptGroups:
    """The prompts of a BLiMP paradigm or a ParaRel relation, in groups of one answer.

    Determiner-noun agreement: one group per determiner-noun pair; the pair stands in its own sentence and in `frames
    - 1` sentences of other pairs. Other paradigms: one group per word pair in which the sentences differ (`is`/`are`),
    at most `frames` sentences each. Relations: one group per fact, asked by all its patterns that the model can use.

    Arguments:
        model: masked or causal.
        limit: at most so many groups: a sample drawn with `seed`.
        least: groups of fewer prompts are left out, and counted.
        known_only: leave out facts and pairs that the model gets wrong, as the loaders of `kn.data` do.
        by: for a paradigm: group by this instead (`kn.data.number`).
        path: where the data is; see `kn.data.blimp`.

    Raises:
        ValueError: an unknown name (the nearest are offered), or no group has `least` prompts.
    """
    if frames < 1 or least < 1:
        raise ValueError(f"frames={frames}, least={least}; both must be at least 1")
    known = model if known_only else None
    if is_relation(name):
        # A model need not be asked for all facts.
        facts = data.pararel(name, path=path, known_only=known, limit=limit if known_only else None, seed=seed)
        asked, skipped = facts.prompts(model), facts.skipped
        found = _by_fact(asked, name)
    else:
        pairs = data.blimp(name, path=path, known_only=known)
        skipped = pairs.skipped
        if by is None and any(map(data.determiner, pairs)):
            in_frames, left_out = pairs_in_frames(pairs, frames, limit, seed)
            skipped += left_out
            asked = replace(pairs, records=tuple(chain.from_iterable(in_frames.values()))).prompts(model)
            found = _by_pair(asked, in_frames, name)
        else:
            asked = pairs.prompts(model)
            found = _by_answer(asked, name, frames, seed, by)
    return _enough(found, skipped + asked.skipped, name, limit, seed, least)


def _by_fact(asked: PromptSet, name: str) -> list[PromptGroup]:
    groups = []
    for fact, prompts in asked.by_record():
        labels = (("subject", fact.subject), ("target", fact.target))
        key = f"{fact.subject} -> {fact.target}"
        groups.append(PromptGroup(key, name, "factual", _once(prompts), labels))
    return groups


def _by_pair(asked: PromptSet, records: Mapping[str, Sequence[MinimalPair]], name: str) -> list[PromptGroup]:
    key_of = {id(record): key for key, some in records.items() for record in some}
    prompts: dict[str, list[Prompt]] = {key: [] for key in records}
    for record, prompt in zip(asked.records, asked.prompts, strict=True):
        prompts[key_of[id(record)]].append(prompt)
    groups = []
    for key, some in prompts.items():
        determiner, noun = key.split(" ", 1)
        labels = (("determiner", determiner), ("noun", noun), ("number", DETERMINER_NUMBER[determiner]))
        groups.append(PromptGroup(key, name, "linguistic", _once(some), labels))
    return groups


def _by_answer(
    asked: PromptSet, name: str, most: int, seed: int, by: Callable[[Any], str | None] | None
) -> list[PromptGroup]:
    prompts: dict[str, list[Prompt]] = {}
    for record, prompt in zip(asked.records, asked.prompts, strict=True):
        key = by(record) if by is not None else f"{prompt.target.strip()} / {(prompt.foil or '').strip()}"
        prompts.setdefault(key or "other", []).append(prompt)
    rng = random.Random(seed)
    groups = []
    for key, some in sorted(prompts.items()):
        drawn = some if len(some) <= most else [some[i] for i in sorted(rng.sample(range(len(some)), most))]
        groups.append(PromptGroup(key, name, "linguistic", _once(drawn), (("answer", key),)))
    return groups


def _enough(
    found: Sequence[PromptGroup], skipped: Skipped, name: str, limit: int | None, seed: int, least: int
) -> PromptGroups:
    """The groups of at least `least` prompts, at most `limit` of them."""
    enough = [g for g in found if len(g.prompts) >= least]
    if not enough:
        most = max((len(g.prompts) for g in found), default=0)
        raise ValueError(
            f"{name}: no group has {least} prompts that this model can be asked (the largest has {most}; skipped: "
            f"{skipped}); give a lower least, more frames, or by=kn.data.number"
        )
    chosen = enough
    if limit is not None and limit < len(enough):
        chosen = sorted(random.Random(seed).sample(enough, limit), key=lambda g: g.key)
    reasons = {f"fewer than {least} prompts": len(found) - len(enough), "over the limit": len(enough) - len(chosen)}
    return PromptGroups(tuple(chosen), skipped + Skipped.of(reasons), name)


def known_prompts(model: Any, sources: Sequence[str], *, limit: int, seed: int) -> dict[str, list[Prompt]]:
    """Of each paradigm or relation `limit` prompts that the model gets right, one per pair or fact.

    ```python
    known_prompts(model, ["determiner_noun_agreement_2", "P36"], limit=20, seed=0)
    ```
    """
    prompts = {}
    for source in sources:
        load = data.pararel if is_relation(source) else data.blimp
        found = load(source, limit=limit, seed=seed, known_only=model).prompts(model)
        prompts[source] = [some[0] for _, some in found.by_record()]
    return prompts


def is_relation(name: str) -> bool:
    """Is it a ParaRel relation? A name that is neither is an error that offers the nearest ones."""
    if name in data.RELATIONS:
        return True
    paradigms = (*data.PARADIGMS, *SAMPLES)
    if name not in paradigms:
        if name[:1].upper() == "P" and name[1:].isdigit():
            check_name("ParaRel relation", name, data.RELATIONS)
        check_name("BLiMP paradigm or ParaRel relation", name, {**dict.fromkeys(paradigms, ""), **data.RELATIONS})
    return False


def in_parts(prompts: NamedPrompts, size: int) -> list[PromptGroup]:
    """Every class of prompts in parts of at most `size`, which are items of a run; `source` is the class."""
    return [
        PromptGroup(f"{name}/{start}", name, "linguistic", tuple(some[start : start + size]))
        for name, some in prompts.items()
        for start in range(0, len(some), size)
    ]


def prompt_item(prompt: Prompt) -> str:
    """A key for runs, of a prompt that is an item by itself."""
    return PromptGroup(prompt.text[:60], "", "factual", (prompt,)).item


def _once(prompts: Iterable[Prompt]) -> tuple[Prompt, ...]:
    return tuple(dict.fromkeys(prompts))
