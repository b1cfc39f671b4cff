"""What every loader returns: records, where they came from, and a count of what was left out and why; and the same
records as prompts for a model.
"""

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from types import SimpleNamespace
from typing import Any, TypeVar, overload

import pandas as pd
import torch

from kntools.models.adapter import tokenizer_of
from kntools.models.causality import is_masked
from kntools.prompts import Encoded, MultiToken, Prompt, PromptError, encode_each
from kntools.results import display

EMPTY = "empty context"

Record = TypeVar("Record")
T = TypeVar("T")

_SHOWN = 5  # records, in a notebook


@dataclass(frozen=True)
class Skipped:
    """How many were left out, by reason. `skipped["identical pair"]` is 0 for a reason that did not occur."""

    counts: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, reasons: Iterable[str] | Mapping[str, int]) -> "Skipped":
        """Count reasons. The most frequent comes first, ties by name."""
        kept = [(reason, n) for reason, n in Counter(reasons).items() if n]
        return cls(tuple(sorted(kept, key=lambda item: (-item[1], item[0]))))

    @property
    def total(self) -> int:
        return sum(n for _, n in self.counts)

    def __getitem__(self, reason: str) -> int:
        return dict(self.counts).get(reason, 0)

    def __add__(self, other: "Skipped") -> "Skipped":
        return Skipped.of(Counter(dict(self.counts)) + Counter(dict(other.counts)))

    def __str__(self) -> str:
        return ", ".join(f"{n:,} {reason}" for reason, n in self.counts) or "none"


@dataclass(frozen=True)
class Candidate:
    """What a record would ask: a prompt, or the reason why it cannot ask in this way.

    `role` tells the questions of one record apart: `"rewrite"`, `"paraphrase"`, `"forward"` ...
    """

    role: str
    prompt: Prompt | None
    reason: str = ""
    # If the record was found by its tokens: what the prompt's text, its target and its foil must encode to.
    ids: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...] | None] | None = None


class Counted(Sequence[T]):
    """What was kept, as a sequence, and a count of what was left out; together they are `total`."""

    skipped: Skipped
    source: str

    @property
    @abstractmethod
    def kept(self) -> tuple[T, ...]: ...

    @property
    def total(self) -> int:
        return len(self) + self.skipped.total

    def __len__(self) -> int:
        return len(self.kept)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...
    def __getitem__(self, index: int | slice) -> T | tuple[T, ...]:
        return self.kept[index]

    def _repr_html_(self) -> str:
        rows: Any = self.kept[:_SHOWN]
        names = [field.name for field in fields(rows[0])] if rows else []
        return display.html(repr(self), pd.DataFrame([astuple(row) for row in rows], columns=names))


@dataclass(frozen=True)
class Loaded(Counted[Record]):
    """Records of one data set. Iterate, index or slice it; `prompts(model)` makes prompts.

    ```python
    facts = kn.data.pararel("P36", limit=100, seed=0)
    facts[0].subject, facts.skipped, facts.source
    for prompt in facts.prompts(model):
        ...
    ```

    `len(loaded) + loaded.skipped.total` is the number of records in the data.
    """

    records: tuple[Record, ...]
    skipped: Skipped
    source: str
    is_sample: bool = False  # the built-in sample, used because the data set was not found

    @property
    def kept(self) -> tuple[Record, ...]:
        return self.records

    def where(self, keep: Callable[[Record], bool], reason: str) -> "Loaded[Record]":
        """Keep the records for which `keep` is true; count the others as skipped for `reason`."""
        kept = tuple(record for record in self.records if keep(record))
        return replace(self, records=kept, skipped=self.skipped + Skipped.of({reason: len(self) - len(kept)}))

    def prompts(self, model: Any, *, role: str | None = None, multi_token: MultiToken = "error") -> "PromptSet":
        """The records as prompts for `model`, masked or causal, with counts of skipped questions.

        ```python
        prompts = kn.data.blimp("determiner_noun_agreement_1").prompts(model)
        prompts[0], prompts.skipped
        ```

        Arguments:
            model: any TransformerLens model with a tokenizer, or a `TokenizerOnly`.
            role: only these questions of each record, e.g. `"rewrite"` of a CounterFact record; `None` for all.
            multi_token: of the prompts: `"error"` skips answers of several tokens, `"first"` and `"sum"` keep them. A
                minimal pair differs in exactly one token in any case.
        """
        found = _candidates(self.records, tokenizer_of(model), is_masked(model))
        roles = sorted({candidate.role for _, candidate in found})
        if role is not None and found and role not in roles:
            raise ValueError(f"these records have no role {role!r}; they have {', '.join(roles)}")
        found = [(record, candidate) for record, candidate in found if role in (None, candidate.role)]
        asked = [(record, c, replace(c.prompt, multi_token=multi_token)) for record, c in found if c.prompt is not None]
        encoded = encode_each(model, [prompt for _, _, prompt in asked])
        reasons = [_reason(c, e) for (_, c, _), e in zip(asked, encoded, strict=True)]
        good = [question for question, reason in zip(asked, reasons, strict=True) if not reason]
        return PromptSet(
            prompts=tuple(prompt for _, _, prompt in good),
            records=tuple(record for record, _, _ in good),
            roles=tuple(c.role for _, c, _ in good),
            skipped=Skipped.of([c.reason for _, c in found if c.prompt is None] + [r for r in reasons if r]),
            source=self.source,
        )

    def __repr__(self) -> str:
        kind = type(self.records[0]).__name__ if self.records else "record"
        count = f"{len(self):,} of {self.total:,} x {kind}"
        return f"Loaded({count}, skipped: {self.skipped}, source: {self.source})"


@dataclass(frozen=True)
class PromptSet(Counted[Prompt]):
    """Prompts for one model. Iterate, index or slice it like a tuple of `Prompt`s.

    `records[i]` is what `prompts[i]` was made from and `roles[i]` which of its questions it is.
    `len(prompts) + prompts.skipped.total` is the number of questions that the records hold.
    """

    prompts: tuple[Prompt, ...]
    records: tuple[Any, ...]
    roles: tuple[str, ...]
    skipped: Skipped
    source: str

    @property
    def kept(self) -> tuple[Prompt, ...]:
        return self.prompts

    def by_record(self) -> list[tuple[Any, tuple[Prompt, ...]]]:
        """Records with their prompts, in order: the paraphrases of one fact are together."""
        grouped: dict[int, tuple[Any, list[Prompt]]] = {}
        for record, prompt in zip(self.records, self.prompts, strict=True):
            grouped.setdefault(id(record), (record, []))[1].append(prompt)
        return [(record, tuple(prompts)) for record, prompts in grouped.values()]

    def where(self, keep: Callable[[Any, Prompt], bool], reason: str) -> "PromptSet":
        """Keep the prompts for which `keep(record, prompt)` is true; count the others for `reason`."""
        pairs = zip(self.records, self.prompts, strict=True)
        return self.only([i for i, (record, prompt) in enumerate(pairs) if keep(record, prompt)], reason)

    def only(self, indices: Iterable[int], reason: str) -> "PromptSet":
        """Keep the prompts at `indices`; count the others for `reason`."""
        kept = sorted(set(indices))
        return replace(
            self,
            prompts=tuple(self.prompts[i] for i in kept),
            records=tuple(self.records[i] for i in kept),
            roles=tuple(self.roles[i] for i in kept),
            skipped=self.skipped + Skipped.of({reason: len(self) - len(kept)}),
        )

    def __repr__(self) -> str:
        return f"PromptSet({len(self):,} of {self.total:,}, skipped: {self.skipped}, source: {self.source})"


@dataclass(frozen=True)
class TokenizerOnly:
    """A tokenizer in place of a model, to make and count prompts without weights.

    ```python
    kn.data.blimp("passive_1").prompts(TokenizerOnly(AutoTokenizer.from_pretrained("gpt2"))).skipped
    ```
    """

    tokenizer: Any

    def parameters(self) -> Iterator[torch.Tensor]:
        """Where its tokens are put."""
        return iter([torch.empty(0)])

    @property
    def cfg(self) -> SimpleNamespace:
        """A tokenizer with a mask is a masked model's."""
        direction = "bidirectional" if self.tokenizer.mask_token else "causal"
        return SimpleNamespace(attention_dir=direction, n_ctx=self.tokenizer.model_max_length)


def _candidates(records: Sequence[Any], tokenizer: Any, masked: bool) -> list[tuple[Any, Candidate]]:
    """The questions of all records. Minimal pairs are found by their tokens, many at a time (`aligned`)."""
    if records and hasattr(records[0], "aligned"):
        return list(zip(records, records[0].aligned(tokenizer, masked, records), strict=True))
    return [(record, candidate) for record in records for candidate in record.candidates(masked)]


def _reason(candidate: Candidate, encoded: Encoded | PromptError) -> str:
    """Why a prompt cannot be asked, or an empty string."""
    if isinstance(encoded, PromptError):
        return str(encoded.reason)
    if candidate.ids is None:
        return ""
    text, target, foil = candidate.ids
    ids = encoded.tokens[0].tolist()
    # BOS, or [CLS] and [SEP], may stand around the tokens that the candidate was found by.
    around = [i for i in range(len(ids) - len(text) + 1) if tuple(ids[i : i + len(text)]) == text]
    same = around and (encoded.target_ids, encoded.foil_ids) == (target, foil)
    return "" if same else "does not re-encode to the same tokens"
