"""One model, and what its figures share: prompts that are chosen once, searches and shifts that are made once."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from kntools import analyses, data
from kntools.analyses.neuron_search import local_seed, open_run
from kntools.data.blimp_pairs import SAMPLES
from kntools.data.records import Loaded
from kntools.data.sources import SampleWarning
from kntools.editing.rome_settings import layer_for
from kntools.editing.second_moment import SecondMoment, second_moment
from kntools.engine.generation import sample_texts
from kntools.models import neuron_layers
from kntools.models.causality import is_masked
from kntools.prompts import Prompt
from kntools.report import choices
from kntools.report.choices import NotPossible, possible
from kntools.report.sizes import Size
from kntools.results import processes
from kntools.results.encoding import decode
from kntools.results.result import load
from kntools.results.run_store import RunStore
from kntools.results.table import Row
from kntools.sites import Neuron

# Texts that the model writes together, their tokens, and how many of these make an item of a run: fewer than all, for
# some texts end early, and a second batch for the rest would take as long as the first.
_ROWS, _LENGTH, _PER_ITEM = 64, 63, 3_072
UNKNOWN = "the model answers no prompt correctly"

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Study:
    """A model, how much to look at, and the folder where everything is kept; that of another report is a `ValueError`.

    ```python
    study = Study(model, QUICK, out="out/report")
    study.pair_search           # made now, or read from out/report/runs
    ```
    """

    model: Any
    size: Size
    out: str | Path
    seed: int = 0

    def __post_init__(self) -> None:
        _ = self._choices  # the folder of another report is an error now, not after an hour

    def run(self, name: str) -> Path:
        """The run of an analysis."""
        return Path(self.out) / "runs" / name

    @property
    def header(self) -> dict[str, Any]:
        return self._choices.header

    @property
    def masked(self) -> bool:
        return is_masked(self.model)

    @property
    def layer(self) -> int:
        return layer_for(self.model)

    @cached_property
    def paradigms(self) -> tuple[str, ...]:
        """The first one is that of numbers: what figures 1, 2 and 5 to 8 are about."""
        return choices.paradigms(self.model)[: self.size.paradigms]

    @property
    def relations(self) -> tuple[str, ...]:
        return choices.RELATIONS[: self.size.relations]

    @property
    def sampled(self) -> bool:
        """Are the pairs those of the built-in sample?"""
        return self.paradigms[0] in SAMPLES

    @cached_property
    def stand_ins(self) -> tuple[str, ...]:
        """Data sets that are not at hand, for which the built-in sample stands in."""
        with warnings.catch_warnings(action="ignore", category=SampleWarning):
            loaded: dict[str, Loaded[Any]] = {
                "BLiMP": data.blimp(choices.CAUSAL[0]),
                "ParaRel": data.pararel(choices.RELATIONS[0]),
                "known facts": data.known_facts(),
                "CounterFact": data.counterfact(),
            }
        return tuple(name for name, records in loaded.items() if records.is_sample)

    # Prompts.

    @cached_property
    def _choices(self) -> RunStore:
        # What is chosen is kept by name: from other data, it would be something else.
        asked: dict[str, Any] = {"size": asdict(self.size), "seed": self.seed, "stand_ins": list(self.stand_ins)}
        return open_run(self.run("report"), "report", self.model, **asked)

    def choose(self, name: str, kind: type[T], make: Callable[[], Sequence[T]], nothing: str = UNKNOWN) -> list[T]:
        """What `make` chooses (or why nothing), kept in the folder: a resumed report does not ask the model again."""

        def choose(_: str) -> Row:
            try:
                with possible():
                    chosen = list(make())
            except NotPossible as why:
                return {"why": str(why)}
            return {"chosen": chosen} if chosen else {"why": nothing}

        [payload] = self._choices.each([name], key=str, make=choose)
        if "why" in payload:
            raise NotPossible(payload["why"])
        return [decode(row, kind, {}) for row in payload["chosen"]]

    @cached_property
    def pairs(self) -> list[analyses.PromptGroup]:
        asked = (self.model, self.paradigms[0], self.size.pairs, self.size.frames, self.seed)
        return self.choose("pairs", analyses.PromptGroup, lambda: choices.probable_pairs(*asked))

    def groups(self, name: str) -> list[analyses.PromptGroup]:
        """Groups that the model gets right, of a paradigm or relation: a wrong answer has no knowledge neurons."""
        if name == self.paradigms[0]:
            return self.pairs
        how: dict[str, Any] = {"frames": self.size.frames, "limit": self.size.groups, "seed": self.seed}
        make = partial(analyses.prompt_groups, self.model, name, **how, known_only=True)
        return self.choose(f"groups/{name}", analyses.PromptGroup, make)

    @cached_property
    def nouns(self) -> tuple[dict[str, list[Prompt]], dict[str, tuple[str, ...]]]:
        """Prompts by the number of nouns by which no candidate was chosen, and the words to put beside them."""
        paradigm, others = self.paradigms[0], self.pair_search.nouns("selection")
        with possible():
            prompts = analyses.noun_prompts(self.model, paradigm, limit=self.size.nouns, without=others, seed=self.seed)
            if len(prompts) < 2 or min(map(len, prompts.values())) < 2:  # for a test
                raise ValueError(f"{paradigm} has fewer than 2 prompts of a number that fit this model")
            return prompts, choices.words(self.model, prompts)

    # What several figures show.

    def localise(self, groups: Sequence[analyses.PromptGroup]) -> analyses.Localisation:
        return analyses.localisation(self.model, groups, seed=self.seed, run=self.run("localisation"))

    @cached_property
    def pair_search(self) -> analyses.PairSearch:
        return analyses.pairs_of(self.localise(self.pairs), self.pairs, seed=self.seed)

    @cached_property
    def localised(self) -> tuple[analyses.Localisation, dict[str, str]]:
        """All groups, and the paradigms and relations that have none, with the reason."""
        found, missing = choices.each_possible((*self.paradigms, *self.relations), self.groups)
        return self.localise([group for listed in found.values() for group in listed]), missing

    def candidate(self, number: str) -> Neuron:
        """The neuron whose share of the pairs of one number is farthest above the other's (figure 2)."""
        found = self.pair_search.leading(number)
        if not found:
            raise NotPossible(f"no neuron is found in more pairs of the {number} than of the other number (figure 2)")
        return found[0]

    def shift(self, number: str) -> analyses.ProbabilityShift:
        """Words before and after the candidate of one number is suppressed."""
        neuron, (prompts, words), run = self.candidate(number), self.nouns, self.run(f"probability_shift_{number}")
        return analyses.probability_shift(self.model, prompts, [neuron], words=words, run=run)

    def transfer(self, number: str) -> tuple[analyses.Transfer, dict[str, str]]:
        """The candidate of one number, suppressed in pairs of all paradigms; and those that are left out, with why."""
        neuron, others = self.candidate(number), self.pair_search.nouns("selection")
        names = (*self.paradigms, *analyses.NUMBER_PARADIGMS) if not (self.masked or self.sampled) else self.paradigms

        def choose(name: str) -> dict[str, list[Prompt]]:
            how: dict[str, Any] = {"limit": self.size.transferred, "number": number, "without": others}
            with possible():
                return analyses.number_prompts(self.model, [name], **how, seed=self.seed)

        found, missing = choices.each_possible(dict.fromkeys(names), choose)
        prompts = {name: listed for own in found.values() for name, listed in own.items()}
        run = self.run(f"transfer_{number}")
        return analyses.transfer(self.model, prompts, [neuron], seed=self.seed, run=run), missing

    # Text that the model writes.

    def written(self, tokens: int) -> list[str]:
        """About so many tokens, in texts."""
        if self.masked:
            raise NotPossible("a masked model does not generate text")
        start = "The" if self.model.tokenizer.bos_token_id is None else None
        folder = open_run(self.run("written"), "written text", self.model, seed=self.seed)

        def write(number: int) -> list[str]:
            seed = local_seed(self.seed, number)
            return list(sample_texts(self.model, _PER_ITEM, seed=seed, start=start, length=_LENGTH, rows=_ROWS))

        parts = folder.each(range(-(-tokens // _PER_ITEM)), key=str, make=write, unit="batch of texts")
        return [text for part in parts for text in part]

    @cached_property
    def second_moment(self) -> SecondMoment:
        """C of the layer to edit, measured on text that the model writes."""
        texts = self.written(max(self.size.moment, 2 * neuron_layers.width(self.model, self.layer)))
        file = self.run(f"second_moment/C{self.layer}.safetensors")
        with processes.main_first():
            if not file.exists():
                second_moment(self.model, self.layer, texts).save(file)
        return load(file, SecondMoment)
