"""Is a neuron about number, or about a pattern of words? Found in one paradigm, suppressed in all others."""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from kntools import data
from kntools.analyses.fig02_pair_search import NUMBERS
from kntools.analyses.neuron_search import as_pairs, check_neurons, control, open_run
from kntools.analyses.prompt_group import NamedPrompts, PromptGroup, check_prompts, each_part, sample
from kntools.analyses.words import pairs_of_number
from kntools.arguments import several
from kntools.engine.answers import answer_values
from kntools.engine.inputs import check_choice
from kntools.engine.metric_choice import contrast
from kntools.hooks.neurons import ablate_neurons
from kntools.prompts import Prompt
from kntools.randomness import python_random
from kntools.results.statistics import holm, mean_interval, share_interval, t_test
from kntools.results.table import Row, Table
from kntools.sites import ANSWER, Neuron, NeuronLike

_TOGETHER = 16  # prompts of one item of a run, which share their random neurons

#: Where neurons are suppressed.
EDITS = {"at the answer": ANSWER, "at all positions": None}

#: Agreement of a noun with its determiner (next to it, or with an adjective in between), of a verb with its subject
#: (next to it, or with another noun or a relative clause in between), of a pronoun with its antecedent.
NUMBER_PARADIGMS = (
    "determiner_noun_agreement_1",
    "determiner_noun_agreement_irregular_1",
    "determiner_noun_agreement_with_adjective_1",
    "determiner_noun_agreement_with_adj_irregular_1",
    "regular_plural_subject_verb_agreement_1",
    "irregular_plural_subject_verb_agreement_1",
    "distractor_agreement_relational_noun",
    "distractor_agreement_relative_clause",
    "anaphor_number_agreement",
)


class Transfer(Table):
    """One row per prompt and edit: `source, edit, text, target, before, after, random`.

    The last three are the contrast of the prompt as it is, with the neurons suppressed, and with random ones
    suppressed.
    """

    def summary(self) -> pd.DataFrame:
        """Per source and edit: what is overturned, and how far the contrast moves.

        Returns:
            `source, edit, n, right` (prompts that the model gets right), `share` of these that is overturned with
            Wilson's interval `low, high`, `random` (the same of random neurons); the mean `change` of the contrast with
            a 95 % interval, `random_change`; `p` of a paired t-test of the two changes, and `p_holm` over the
            table.
        """
        rows = []
        for (source, edit), own in self.to_frame().groupby(["source", "edit"], sort=False):
            before, after, chance = (
                torch.tensor(own[name].tolist(), dtype=torch.float32) for name in ("before", "after", "random")
            )
            right = before > 0
            overturned, by_chance = ((side[right] <= 0).double() for side in (after, chance))
            low, high = share_interval(int(overturned.sum()), len(overturned))
            shares = float(overturned.mean()), low, high, float(by_chance.mean())  # the mean of none is nan
            p = t_test(chance - before, after - before)[1] if len(own) > 1 else float("nan")
            changes = *mean_interval(after - before).values(), float((chance - before).mean()), p
            rows.append((source, edit, len(own), len(overturned), *shares, *changes))
        columns = ["source", "edit", "n", "right", "share", "low", "high", "random"]
        columns += ["change", "change_low", "change_high", "random_change", "p"]
        return pd.DataFrame(rows, columns=columns).assign(p_holm=lambda frame: holm(frame["p"]))

    def tables(self) -> dict[str, pd.DataFrame]:
        return {"summary": self.summary()}

    def plot(self, **look: Any) -> Any:
        """Heatmap of the share of right predictions that each edit overturns, beside random neurons."""
        from kntools.plots.heatmaps import heatmap

        summary = self.summary()
        chance = summary.assign(edit=summary["edit"] + ", random neurons", share=summary["random"])
        frame = pd.concat([summary, chance])
        table = frame.pivot(index="source", columns="edit", values="share")
        table = table.loc[frame["source"].unique(), frame["edit"].unique()]
        options: dict[str, Any] = {"x": "suppressed", "y": "paradigm", "unit": "share overturned", "say": True}
        return heatmap(table, **options, limits=(0.0, 1.0), **{"title": self.describe(), **look})

    def describe(self) -> str:
        every = [repr(Neuron(*pair)) for pair in self.provenance["settings"]["neurons"]]
        neurons = ", ".join(every) if len(every) <= 5 else f"{', '.join(every[:4])} and {len(every) - 4} more neurons"
        return f"{neurons} suppressed in {self.frame['source'].nunique()} sets of pairs ({self.provenance['model']})"


def transfer(
    model: Any, prompts: NamedPrompts, neurons: Iterable[NeuronLike], *, seed: int = 0, run: str | Path | None = None
) -> Transfer:
    """Suppress neurons that were found in one paradigm in the minimal pairs of others.

    ```python
    found = pair_search(model, prompt_groups(model, "determiner_noun_agreement_1", limit=100))
    prompts = number_prompts(model, NUMBER_PARADIGMS, limit=50, without=found.nouns("selection"))
    transfer(model, prompts, found.leading("plural", 3)).summary()
    ```

    A neuron of number moves verbs and pronouns as it moves nouns; one of a pattern of words moves only what it was
    found in. `"at the answer"` suppresses where the answer is predicted, `"at all positions"` also where the subject is
    read.

    Arguments:
        prompts: name -> minimal pairs (prompts with a foil), other ones than the neurons were chosen by.
        neurons: which are suppressed, all together.
        seed: of the random neurons.

    Raises:
        ValueError: no prompts or neurons, a prompt without a foil of one token, a neuron of another model.
    """
    check_prompts(prompts)
    wanted = check_neurons(model, neurons)
    folder = open_run(run, "transfer", model, neurons=as_pairs(wanted), metric="contrast", seed=seed)

    def measure(part: PromptGroup) -> list[list[float]]:
        others = control(model, wanted, seed, part.item)
        edits = [ablate_neurons(chosen, pos=pos) for pos in EDITS.values() for chosen in (wanted, others)]
        return answer_values(model, part.prompts, [[], *edits], contrast).T.tolist()

    rows: list[Row] = []
    for part, values in each_part(folder, prompts, _TOGETHER, measure):
        for prompt, (before, *after) in zip(part.prompts, values, strict=True):
            about = {"source": part.source, "text": prompt.text, "target": prompt.target, "before": before}
            both = zip(EDITS, after[::2], after[1::2], strict=True)
            rows += [{**about, "edit": edit, "after": own, "random": chance} for edit, own, chance in both]
    return Transfer.of(rows, folder.header)


def number_prompts(
    model: Any,
    paradigms: Sequence[str] = NUMBER_PARADIGMS,
    *,
    limit: int | None = None,
    number: str | None = None,
    without: Iterable[str] = (),
    seed: int = 0,
    path: Any = None,
) -> dict[str, list[Prompt]]:
    """`paradigm, number` -> minimal pairs of that number, `limit` of each.

    ```python
    number_prompts(model, ["determiner_noun_agreement_1", "anaphor_number_agreement"], limit=50, number="plural")
    ```

    Arguments:
        number: `"plural"` or `"singular"`: only these; `None` means both.
        without: nouns to leave out: those that selected the neurons.

    A paradigm without a pair that this model can be asked is left out with a warning.

    Raises:
        ValueError: a relation, or no pair of any paradigm.
    """
    if number is not None:
        check_choice("number", number, NUMBERS)
    found: dict[str, list[Prompt]] = {}
    missing: list[str] = []
    nouns = several("without", without, "found.nouns('selection')")
    for paradigm in (paradigms := several("paradigms", paradigms, "NUMBER_PARADIGMS")):
        asked = pairs_of_number(model, paradigm, nouns, path)
        numbered = zip(map(data.number, asked.records), asked.prompts, strict=True)
        kept = [(own, prompt) for own, prompt in numbered if number in (None, own)]
        for own, prompt in kept:
            found.setdefault(f"{paradigm}, {own}", []).append(prompt)
        missing += [] if kept else [paradigm]
    why = f"{', '.join(missing)}: no pair of a number is left that this model can be asked"
    if not found:
        raise ValueError(why)
    if missing:
        warnings.warn(f"{why}; left out", stacklevel=2)
    rng = python_random(seed)
    return {name: sample(listed, limit, rng) for name, listed in found.items()}
