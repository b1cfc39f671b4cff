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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import pandas as pd

from kntools import data
from kntools.data.filters import Filters
from kntools.data.grouping import DETERMINER_NUMBER
from kntools.data.names import check_name
from kntools.data.pairs import MinimalPair
from kntools.data.records import Loaded, Skipped
from kntools.data.sample import PARADIGMS as SAMPLES
from kntools.prompts import Prompt
from kntools.results import display

Kind = Literal["linguistic", "factual"]

#: Fewer say little; Dai et al.'s code asks for as many.
LEAST = 3


@dataclass(frozen=True)
class PromptGroup:
    """Prompts of one answer. `labels` says what the group is about (determiner, noun, number; subject)."""

    key: str
    source: str  # paradigm or relation
    kind: Kind
    prompts: tuple[Prompt, ...]
    labels: tuple[tuple[str, str], ...] = ()

    def label(self, name: str) -> str | None:
        return dict(self.labels).get(name)

    @property
    def item(self) -> str:
        """A key for run folders: changes with the prompts."""
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


def is_relation(name: str) -> bool:
    """Is it a ParaRel relation? A name that is neither is an error that offers the nearest ones."""
    if name in data.RELATIONS:
        return True
    if name not in data.PARADIGMS and name not in SAMPLES:
        if name[:1].upper() == "P" and name[1:].isdigit():
            check_name("ParaRel relation", name, data.RELATIONS)
        check_name(
            "BLiMP paradigm or ParaRel relation",
            name,
            {**dict.fromkeys((*data.PARADIGMS, *SAMPLES), ""), **data.RELATIONS},
        )
    return False


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
    prepend_bos: bool | None = None,
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
        prepend_bos: for `known_only`, as in `kn.encode`.
        path: where the data is; see `kn.data.blimp`.

    Raises:
        ValueError: an unknown name (the nearest are offered), or no group has `least` prompts.
    """
    if frames < 1 or least < 1:
        raise ValueError(f"frames={frames}, least={least}; both must be at least 1")
    known: Filters = {"known_only": model if known_only else None, "prepend_bos": prepend_bos, "progress": False}
    if is_relation(name):
        known |= {"limit": limit if known_only else None, "seed": seed}  # a model need not be asked for all facts
        found, skipped = _facts(model, data.pararel(name, path=path, **known), name)
    else:
        loaded = data.blimp(name, path=path, **known)
        if by is None and any(data.determiner(record) for record in loaded):
            return _kept(*_determiner_pairs(model, loaded, name, frames, limit, seed), name, limit, seed, least)
        found, skipped = _answers(model, loaded, name, frames, seed, by)
    return _kept(found, skipped, name, limit, seed, least)


def _kept(
    found: Sequence[PromptGroup], skipped: Skipped, name: str, limit: int | None, seed: int, least: int
) -> PromptGroups:
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


def _facts(model: Any, loaded: Loaded[Any], name: str) -> tuple[list[PromptGroup], Skipped]:
    asked = loaded.prompts(model)
    groups = [
        PromptGroup(
            f"{fact.subject} -> {fact.target}", name, "factual", tuple(dict.fromkeys(prompts)),
            (("subject", fact.subject), ("target", fact.target)),
        )
        for fact, prompts in asked.by_record()
    ]  # fmt: skip
    return groups, loaded.skipped + asked.skipped


def _answers(
    model: Any, loaded: Loaded[Any], name: str, most: int, seed: int, by: Callable[[Any], str | None] | None
) -> tuple[list[PromptGroup], Skipped]:
    asked = loaded.prompts(model)
    sorted_in: dict[str, list[Prompt]] = {}
    for record, prompt in zip(asked.records, asked.prompts, strict=True):
        key = by(record) if by is not None else f"{prompt.target.strip()} / {(prompt.foil or '').strip()}"
        sorted_in.setdefault(key or "other", []).append(prompt)
    rng = random.Random(seed)
    groups = []
    for key, prompts in sorted(sorted_in.items()):
        some = prompts if len(prompts) <= most else [prompts[i] for i in sorted(rng.sample(range(len(prompts)), most))]
        groups.append(PromptGroup(key, name, "linguistic", tuple(dict.fromkeys(some)), (("answer", key),)))
    return groups, loaded.skipped + asked.skipped


@dataclass(frozen=True)
class _Phrase:
    """`Carl cured | these | old | horses | .`"""

    record: MinimalPair
    before: str
    determiner: str
    between: str
    noun: str
    end: str

    @property
    def frame(self) -> tuple[str, str, str]:
        return self.before, self.between, self.end


def _parsed(record: MinimalPair) -> _Phrase | None:
    """The noun is the last word, next to the determiner or after one adjective (not `movie` `theater`)."""
    words, determiner = record.good.split(), data.determiner(record)
    if determiner is None or record.words is None:
        return None
    at = max((i for i, w in enumerate(words) if w.lower() == determiner), default=len(words))
    noun = words[-1].rstrip(".!?")
    good = record.words[0]
    # Our own sample has both kinds in one paradigm, and no compounds.
    adjectives = (0, 1) if record.paradigm in SAMPLES else (int("_adj" in record.paradigm),)
    if len(words) - 2 - at not in adjectives or good.lower() not in (determiner, noun.lower()):
        return None
    before, between = (" ".join(w) for w in (words[:at], words[at + 1 : -1]))
    return _Phrase(record, before, words[at], between, noun, words[-1][len(noun) :])


def _sentence(frame: tuple[str, str, str], determiner: str, noun: str) -> str:
    before, between, end = frame
    return " ".join(w for w in (before, determiner, between, noun) if w) + end


def _determiner_pairs(
    model: Any, loaded: Loaded[Any], name: str, frames: int, limit: int | None, seed: int
) -> tuple[list[PromptGroup], Skipped]:
    parsed = [phrase for phrase in map(_parsed, loaded) if phrase is not None]
    others = sorted({p.frame for p in parsed})
    pairs = {f"{p.determiner.lower()} {p.noun}": p for p in reversed(parsed)}
    keys = sorted(pairs)
    if limit is not None and 4 * limit < len(keys):  # some may be of several tokens; no need to make them all
        keys = sorted(random.Random(seed).sample(keys, 4 * limit))
    made, owners = [], []
    for key in keys:
        some = [pairs[key].frame]
        order = random.Random(f"{seed}/{key}").sample(others, min(len(others), frames))
        some += [frame for frame in order if frame != some[0]][: frames - 1]
        made += [_in_frame(pairs[key], frame) for frame in some]
        owners += [key] * len(some)
    asked = replace(loaded, records=tuple(made)).prompts(model)
    names = {id(record): key for record, key in zip(made, owners, strict=True)}
    sorted_in: dict[str, list[Prompt]] = {key: [] for key in keys}
    for record, prompt in zip(asked.records, asked.prompts, strict=True):
        sorted_in[names[id(record)]].append(prompt)
    groups = [
        PromptGroup(key, name, "linguistic", tuple(dict.fromkeys(prompts)), _labels(key)) for key, prompts in
        sorted_in.items()
    ]  # fmt: skip
    return groups, loaded.skipped + asked.skipped + Skipped.of(
        {"noun phrase of another form": len(loaded) - len(parsed), "over the limit": len(pairs) - len(keys)}
    )


def _labels(key: str) -> tuple[tuple[str, str], ...]:
    determiner, noun = key.split(" ", 1)
    return (("determiner", determiner), ("noun", noun), ("number", DETERMINER_NUMBER[determiner]))


def _in_frame(phrase: _Phrase, frame: tuple[str, str, str]) -> MinimalPair:
    assert phrase.record.words is not None
    good_word, bad_word = phrase.record.words
    determiner, noun = phrase.determiner, phrase.noun
    bad = (bad_word, noun) if good_word.lower() == determiner.lower() else (determiner, bad_word)
    return replace(phrase.record, good=_sentence(frame, determiner, noun), bad=_sentence(frame, *bad))


def prompt_item(prompt: Prompt) -> str:
    """A key for run folders, of a prompt that is an item by itself."""
    return PromptGroup(prompt.text[:60], "", "factual", (prompt,)).item


def in_parts(prompts: Mapping[str, Sequence[Prompt]], size: int) -> list[PromptGroup]:
    """Every class of prompts in parts of at most `size`, which are items of a run; `source` is the class."""
    return [
        PromptGroup(f"{name}/{start}", name, "linguistic", tuple(some[start : start + size]))
        for name, some in prompts.items()
        for start in range(0, len(some), size)
    ]


def known_prompts(
    model: Any, sources: Sequence[str], *, limit: int, seed: int, prepend_bos: bool | None = None
) -> dict[str, list[Prompt]]:
    """Of each paradigm or relation `limit` prompts that the model gets right, one per pair or fact."""
    prompts = {}
    for source in sources:
        load = data.pararel if is_relation(source) else data.blimp
        found = load(source, limit=limit, seed=seed, known_only=model, prepend_bos=prepend_bos, progress=False).prompts(
            model
        )
        prompts[source] = [some[0] for _, some in found.by_record()]
    return prompts
