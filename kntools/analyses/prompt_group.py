"""Prompts that ask for one fact or one agreement: what a search for knowledge neurons is given."""

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any, Literal, TypeVar

from kntools import data
from kntools.analyses.determiner_pairs import pairs_in_frames
from kntools.arguments import PROMPTS, check_list, flag, several, shown, whole, without_effect
from kntools.data.blimp_pairs import SAMPLES, MinimalPair
from kntools.data.grouping import DETERMINER_NUMBER
from kntools.data.records import Loaded, PromptSet, Skipped
from kntools.models.causality import is_masked
from kntools.models.names import check_name
from kntools.prompts import Prompt
from kntools.randomness import python_random
from kntools.results.run_store import RunStore

GroupKind = Literal["linguistic", "factual"]
#: Prompts by the name of what they have in common.
NamedPrompts = Mapping[str, Sequence[Prompt]]
#: Key, prompts and labels of a group.
_Group = tuple[str, Sequence[Prompt], dict[str, str]]
T = TypeVar("T")


@dataclass(frozen=True)
class PromptGroup:
    """Prompts of one answer. `labels` describes the group (determiner, noun, number; subject)."""

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


def prompt_groups(
    model: Any,
    name: str,
    *,
    frames: int = 10,
    limit: int | None = None,
    seed: int = 0,
    least: int | None = None,
    known_only: bool = False,
    by: Callable[[Any], str | None] | None = None,
    path: Any = None,
) -> Loaded[PromptGroup]:
    """The prompts of a BLiMP paradigm or a ParaRel relation, in groups of one answer.

    ```python
    prompt_groups(model, "determiner_noun_agreement_2", limit=50)    # "these horses": many frames
    prompt_groups(model, "P36", limit=50)                            # "Canada -> Ottawa": all patterns
    ```

    Determiner-noun agreement: one group per determiner-noun pair; the pair is in its own sentence and in `frames
    - 1` sentences of other pairs. Other paradigms: one group per word pair in which the sentences differ (`is`/`are`),
    at most `frames` sentences each. Relations: one group per fact, with all its patterns that the model can use.

    Arguments:
        limit: at most so many groups: a sample drawn with `seed`.
        least: groups of fewer prompts are left out, and counted; `None`: 3, as Dai et al.'s code has it, or `frames`,
            where that is less.
        known_only: leave out facts and pairs that the model gets wrong, as the loaders of `kn.data` do.
        by: for a paradigm: group by this instead (`kn.data.number`).
        path: where the data is; see `kn.data.blimp`.

    Raises:
        ValueError: an unknown name (the nearest are offered), or no group has `least` prompts.
    """
    flag("known_only", known_only)
    frames = whole("frames", frames, least=1)
    least = min(3, frames) if least is None else whole("least", least, least=1)
    limit = None if limit is None else whole("limit", limit, least=0)
    known = model if known_only else None
    records: Loaded[Any]
    pairs: dict[str, list[MinimalPair]] = {}
    if relation := is_relation(name):
        without_effect(f"for the relation {name!r}, whose groups are facts", by=by)
        # A model need not be asked for all facts.
        records = data.pararel(name, path=path, known_only=known, limit=limit if known_only else None, seed=seed)
    else:
        records = data.blimp(name, path=path, known_only=known)
        if by is None and any(map(data.determiner, records)):
            records, pairs = pairs_in_frames(records, frames, limit, seed)
    asked = records.prompts(model)
    if relation:
        found = _by_fact(asked)
    elif pairs:
        if not is_masked(model) and any(prompt.target.strip() in DETERMINER_NUMBER for prompt in asked):
            raise ValueError(
                f"{name}: a causal model predicts the determiner before it reads the noun, which alone says the "
                "number; use a paradigm where the noun is the answer: determiner_noun_agreement_1"
            )
        found = _by_pair(asked, pairs)
    else:
        found = _by_answer(asked, frames, seed, by)
    kind: GroupKind = "factual" if relation else "linguistic"
    given = [
        PromptGroup(key, name, kind, tuple(dict.fromkeys(prompts)), tuple(labels.items()))
        for key, prompts, labels in found
    ]
    groups = tuple(dict.fromkeys(given))  # ParaRel has some facts twice
    skipped = records.skipped + asked.skipped
    twice = Skipped.of({"the same as another group": len(given) - len(groups)})
    enough = Loaded(groups, skipped + twice, name, records.is_sample).where(
        lambda group: len(group.prompts) >= least, f"fewer than {least} prompts"
    )
    if not enough:
        most = max((len(group.prompts) for group in groups), default=0)
        raise ValueError(
            f"{name}: no group has {least} prompts that fit this model (the largest has {most}; skipped: {skipped}); "
            "give a lower least, more frames, or by=kn.data.number"
        )
    if limit is None or limit >= len(enough):
        return enough
    chosen = sorted(python_random(seed).sample(enough, limit), key=lambda group: group.key)
    over = Skipped.of({"over the limit": len(enough) - limit})
    return replace(enough, records=tuple(chosen), skipped=enough.skipped + over)


def _by_fact(asked: PromptSet) -> Iterator[_Group]:
    for fact, prompts in asked.by_record():
        yield f"{fact.subject} -> {fact.target}", prompts, {"subject": fact.subject, "target": fact.target}


def _by_pair(asked: PromptSet, records: Mapping[str, Sequence[MinimalPair]]) -> Iterator[_Group]:
    prompts_of = {id(record): prompts for record, prompts in asked.by_record()}
    for key, own in records.items():
        determiner, noun = key.split(" ", 1)
        prompts = list(chain.from_iterable(prompts_of.get(id(record), ()) for record in own))
        yield key, prompts, {"determiner": determiner, "noun": noun, "number": DETERMINER_NUMBER[determiner]}


def _by_answer(asked: PromptSet, most: int, seed: int, by: Callable[[Any], str | None] | None) -> Iterator[_Group]:
    found: dict[str, list[Prompt]] = {}
    for record, prompt in zip(asked.records, asked.prompts, strict=True):
        key = by(record) if by else f"{prompt.target.strip()} / {(prompt.foil or '').strip()}"
        found.setdefault(key or "other", []).append(prompt)
    rng = python_random(seed)
    for key, prompts in sorted(found.items()):
        drawn = sorted(rng.sample(range(len(prompts)), most)) if len(prompts) > most else range(len(prompts))
        yield key, [prompts[i] for i in drawn], {"answer": key}


def by_answer(
    model: Any, name: str, *, limit: int | None = None, classes: int = 8, seed: int = 0, path: Any = None
) -> dict[str, list[Prompt]]:
    """Prompts of a paradigm or relation by their answer: the `classes` most frequent ones, `limit` prompts of each,
    none twice.

    Where a noun is asked for after a demonstrative, by that demonstrative: it says the answer's number.
    """
    records: Loaded[Any] = (data.pararel if is_relation(name) else data.blimp)(name, path=path)
    asked, found = records.prompts(model), dict[str, list[Prompt]]()
    for record, prompt in zip(asked.records, asked.prompts, strict=True):
        answer = None if is_relation(name) else data.determiner(record)
        found.setdefault(answer or prompt.target.strip(), []).append(prompt)
    if not found:
        raise ValueError(f"{name}: no prompt fits this model (skipped: {records.skipped + asked.skipped})")
    order = sorted(found, key=lambda answer: (-len(found[answer]), answer))[:classes]
    rng = python_random(seed)
    return {answer: sample(found[answer], limit, rng) for answer in order}


def known_prompts(model: Any, sources: Sequence[str], *, limit: int, seed: int) -> dict[str, list[Prompt]]:
    """Of each paradigm or relation `limit` prompts that the model gets right, one per pair or fact.

    ```python
    known_prompts(model, ["determiner_noun_agreement_2", "P36"], limit=20, seed=0)
    ```
    """
    prompts = {}
    for source in several("sources", sources, "['P36']"):
        load = data.pararel if is_relation(source) else data.blimp
        records: Loaded[Any] = load(source, limit=limit, seed=seed, known_only=model)
        found = records.prompts(model)
        if not len(found):
            skipped = records.skipped + found.skipped
            raise ValueError(f"{source}: the model answers no prompt correctly (skipped: {skipped})")
        prompts[source] = list(dict.fromkeys(listed[0] for _, listed in found.by_record()))
    return prompts


def is_relation(name: str) -> bool:
    """Is it a ParaRel relation? A name that is neither is an error that offers the nearest ones."""
    if isinstance(name, str) and re.fullmatch(r"[Pp]\d+", name):
        check_name("ParaRel relation", name, data.RELATIONS)
    else:
        paradigms = dict.fromkeys((*data.PARADIGMS, *SAMPLES), "")
        check_name("BLiMP paradigm or ParaRel relation", name, {**paradigms, **data.RELATIONS})
    return name in data.RELATIONS


def sample(items: Iterable[T], limit: int | None, rng: random.Random) -> list[T]:
    """All of them, equal ones once, or `limit` drawn at random.

    Records may differ only behind the answer; what a causal model reads of them is then one prompt.
    """
    items = list(dict.fromkeys(items))
    return items if limit is None or whole("limit", limit, least=0) >= len(items) else rng.sample(items, limit)


def check_prompts(prompts: NamedPrompts, least: int = 1) -> None:
    """Is there a group, and has each enough prompts?"""
    if not prompts or not isinstance(prompts, Mapping):
        raise ValueError(
            f"no prompts by name: {shown(prompts)}; give {{name: prompts}}, e.g. noun_prompts(model, paradigm)"
        )
    for name, listed in prompts.items():
        check_list(f"prompts of {name!r}", listed, Prompt, PROMPTS, least=0)
    few = {name: len(listed) for name, listed in prompts.items() if len(listed) < least}
    if few:
        raise ValueError(f"too few prompts: {few}; every group needs {least}")


def each_part(
    run: RunStore, prompts: NamedPrompts, size: int, make: Callable[[PromptGroup], T]
) -> list[tuple[PromptGroup, T]]:
    """Every class of prompts in parts of at most `size`, and what is made of each; `source` is the class."""
    parts = [
        PromptGroup(f"{name}/{start}", name, "linguistic", tuple(listed[start : start + size]))
        for name, listed in prompts.items()
        for start in range(0, len(listed), size)
    ]
    return list(zip(parts, run.each(parts, key=lambda part: part.item, make=make, unit="part"), strict=True))


def prompt_item(prompt: Prompt) -> str:
    """A key for runs, of a prompt that is an item by itself."""
    return PromptGroup(prompt.text[:60], "", "factual", (prompt,)).item


def each_prompt(
    run: RunStore, prompts: NamedPrompts, make: Callable[[Sequence[Prompt]], Sequence[T]], size: int = 1
) -> list[tuple[str, Prompt, T]]:
    """Source, prompt and what is made of it, for every prompt of a run; `make` is given up to `size` at a time."""
    asked = list(dict.fromkeys((source, prompt) for source, listed in prompts.items() for prompt in listed))

    def made(part: Sequence[tuple[str, Prompt]]) -> Sequence[T]:
        return make([prompt for _, prompt in part])

    found = run.together(asked, size, key=lambda named: prompt_item(named[1]), make=made, unit="prompt")
    return [(source, prompt, payload) for (source, prompt), payload in zip(asked, found, strict=True)]
