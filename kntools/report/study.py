"""One model, and what its figures share: prompts that are chosen once, searches and shifts that are made once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from kntools import data
from kntools.analyses.fig02_pair_search import PairSearch, pairs_of
from kntools.analyses.fig03_localisation import Localisation, localisation
from kntools.analyses.fig07_probability_shift import ProbabilityShift, probability_shift
from kntools.analyses.neuron_search import SearchSettings, local_seed, open_run
from kntools.analyses.prompt_groups import PromptGroup
from kntools.data import sample, sources
from kntools.editing.rome_settings import settings_for
from kntools.editing.second_moment import SecondMoment, second_moment
from kntools.engine.generation import sample_texts
from kntools.models import adapter
from kntools.prompts import Prompt
from kntools.report import choices
from kntools.report.choices import NotPossible
from kntools.report.sizes import Size
from kntools.results import processes
from kntools.results.result import load
from kntools.results.run_store import RunStore
from kntools.sites import Neuron

# Texts that the model writes together, their tokens, and how many of these make an item of a run: fewer than all, for
# some texts end early, and a second batch for the rest would take as long as the first.
_ROWS, _LENGTH, _PER_ITEM = 64, 63, 3_072


@dataclass(frozen=True, eq=False)
class Study:
    """A model, how much to look at, and the folder where everything is kept.

    ```python
    study = Study(model, QUICK, out="out/report", prepend_bos=False)
    study.pair_search           # made now, or read from out/report/runs
    ```

    Arguments:
        model: masked or causal.
        size: `QUICK`, `FULL` or your own.
        out: a folder; that of another model, size or seed is refused.
        seed: of samples, nulls, noise and generated text.
        prepend_bos: as in `kn.encode`.
        max_rows: rows per forward pass.
        progress: show a bar for each analysis.

    Raises:
        ValueError: the folder holds another report.
    """

    model: Any
    size: Size
    out: str | Path
    seed: int = 0
    prepend_bos: bool | None = None
    max_rows: int | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        _ = self._choices  # a folder of another report is told now, not after an hour

    def run(self, name: str) -> Path:
        """The run of an analysis."""
        return Path(self.out) / "runs" / name

    @property
    def masked(self) -> bool:
        return adapter.is_masked(self.model)

    @property
    def neurons_per_layer(self) -> int:
        return adapter.d_mlp(self.model)

    @cached_property
    def paradigms(self) -> tuple[str, ...]:
        """The first one is that of numbers: what figures 1, 2 and 5 to 8 are about."""
        return choices.paradigms(self.model)[: self.size.paradigms]

    @property
    def sampled(self) -> bool:
        """Are the pairs those of the built-in sample?"""
        return self.paradigms[0] in sample.PARADIGMS

    @cached_property
    def stand_ins(self) -> tuple[str, ...]:
        """Data sets that are not at hand, for which the built-in sample stands in."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=sources.STANDS_IN)
            found = {
                "BLiMP": data.blimp(choices.CAUSAL[0]).source,
                "ParaRel": data.pararel(choices.RELATIONS[0]).source,
                "known facts": data.known_facts().source,
                "CounterFact": data.counterfact().source,
            }
        return tuple(name for name, source in found.items() if source.startswith("built-in"))

    @property
    def relations(self) -> tuple[str, ...]:
        return choices.RELATIONS[: self.size.relations]

    @property
    def search(self) -> SearchSettings:
        return SearchSettings(prepend_bos=self.prepend_bos, max_rows=self.max_rows)

    # What is looked at.

    @cached_property
    def _choices(self) -> RunStore:
        settings = {"size": asdict(self.size), "seed": self.seed, "prepend_bos": self.prepend_bos}
        return open_run(self.run("report"), "report", self.model, **settings)

    @property
    def header(self) -> dict[str, Any]:
        """Model, weights, settings and versions."""
        return self._choices.header

    def choose(self, name: str, make: Callable[[], Sequence[Any]], read: Callable[[dict[str, Any]], Any]) -> list[Any]:
        """What `make` chooses, kept in the folder: started again, a report does not ask the model anew.

        Raises:
            NotPossible: nothing can be chosen, with the reason.
        """
        [payload] = self._choices.each([name], key=str, make=lambda _: choices.answered(make), progress=False)
        if "why" in payload:
            raise NotPossible(payload["why"])
        return [read(one) for one in payload["chosen"]]

    def groups(self, name: str, limit: int) -> list[PromptGroup]:
        """Groups of a paradigm or relation that the model gets right."""
        return self.choose(
            f"groups/{name}",
            lambda: choices.groups(self.model, name, limit, self.size.frames, self.seed, self.prepend_bos),
            choices.read_group,
        )

    @cached_property
    def pairs(self) -> list[PromptGroup]:
        """Determiner-noun pairs."""
        size = self.size
        return self.choose(
            "pairs",
            lambda: choices.pairs(
                self.model, self.paradigms[0], size.pairs, size.frames, self.seed, self.prepend_bos, self.max_rows
            ),
            choices.read_group,
        )  # fmt: skip

    # What several figures show.

    def localise(self, groups: Sequence[PromptGroup]) -> Localisation:
        return localisation(
            self.model, groups, settings=self.search, seed=self.seed, run=self.run("localisation"),
            progress=self.progress,
        )  # fmt: skip

    @cached_property
    def pair_search(self) -> PairSearch:
        return pairs_of(self.localise(self.pairs), self.pairs)

    @cached_property
    def localised(self) -> tuple[Localisation, dict[str, str]]:
        """All groups, and the paradigms and relations that have none, with the reason."""
        size, first = self.size, self.paradigms[0]
        found, missing = choices.each_possible(
            (*self.paradigms, *self.relations),
            lambda name: self.pairs if name == first else self.groups(name, size.groups),
        )
        return self.localise([group for some in found.values() for group in some]), missing

    def leading(self, number: str) -> Neuron:
        """The neuron of one number (figure 2)."""
        found = self.pair_search.leading(number)
        if not found:
            raise NotPossible(f"no neuron is found in more pairs of the {number} than of the other number (figure 2)")
        return found[0]

    @cached_property
    def _shifts(self) -> dict[str, ProbabilityShift]:
        return {}

    def shift(self, number: str) -> ProbabilityShift:
        """Words before and after the neuron of one number is suppressed."""
        if number not in self._shifts:
            neuron, (prompts, words) = self.leading(number), self.nouns
            self._shifts[number] = probability_shift(
                self.model, prompts, [neuron], words=words, prepend_bos=self.prepend_bos, max_rows=self.max_rows,
                run=self.run(f"probability_shift_{number}"), progress=self.progress,
            )  # fmt: skip
        return self._shifts[number]

    @cached_property
    def nouns(self) -> tuple[dict[str, list[Prompt]], dict[str, tuple[str, ...]]]:
        """Prompts by the number of their noun, and the words that can be put beside it."""
        with choices.possible():
            prompts = choices.nouns(self.model, self.paradigms[0], self.size.nouns, self.seed)
            return prompts, choices.words(self.model, prompts)

    # What edits of weights need.

    @property
    def layer(self) -> int:
        """The layer to edit."""
        return int(settings_for(self.model)["layer"])

    def written(self, tokens: int) -> list[str]:
        """Text of about so many tokens that the model writes."""
        if self.masked:
            raise NotPossible("a masked model does not write texts")
        start = "The" if self.model.tokenizer.bos_token_id is None else None
        folder = open_run(self.run("written"), "written text", self.model, seed=self.seed)

        def write(number: int) -> list[str]:
            seed = local_seed(self.seed, number)
            return list(sample_texts(self.model, _PER_ITEM, seed=seed, start=start, length=_LENGTH, rows=_ROWS))

        parts = folder.each(
            range(-(-tokens // _PER_ITEM)), key=str, make=write, unit="batch of texts", progress=self.progress
        )
        return [text for part in parts for text in part]

    @cached_property
    def second_moment(self) -> SecondMoment:
        """C of the layer to edit, measured on text that the model writes."""
        texts = self.written(max(self.size.moment, 2 * self.neurons_per_layer))
        file = self.run(f"second_moment/C{self.layer}.safetensors")
        with processes.main_first():
            if not file.exists():
                second_moment(self.model, self.layer, texts, prepend_bos=self.prepend_bos, progress=self.progress).save(
                    file
                )
        return load(file, SecondMoment)
