"""Which layer to edit: what causal traces propose, and what a sweep over layers finds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import harmonic_mean
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from kntools import data
from kntools.analyses.edit_cases import Case, cases_of
from kntools.analyses.edit_measures import Continuations
from kntools.analyses.edit_methods import rome_method
from kntools.analyses.edit_result import SCORES, interval_of
from kntools.analyses.fig11_edit_consistency import edit_consistency
from kntools.analyses.neuron_search import beside, open_run
from kntools.analyses.prompt_group import prompt_item
from kntools.arguments import check_distinct, check_list, whole, whole_numbers, without_effect
from kntools.editing.rome_settings import RomeSettings
from kntools.editing.second_moment import SecondMoment, second_moment
from kntools.engine.answers import ask
from kntools.engine.generation import sample_texts
from kntools.models import adapter
from kntools.models.neuron_layers import layers_of
from kntools.prompts import Prompt
from kntools.results.result import load
from kntools.results.statistics import holm, sign_flip_test
from kntools.results.table import Row, Table
from kntools.tracing.causal_tracing import causal_trace
from kntools.tracing.weak_corruption import unwarned, warn_of_weak_corruption

_JOINED = ("efficacy", "paraphrase", "neighborhood")  # in the score of a layer
_MEASURED = (*_JOINED, "efficacy magnitude", "neighborhood magnitude")

_FACTS = "kn.data.known_facts(known_only=model).prompts(model)"


@dataclass(frozen=True)
class Proposal:
    """A layer, and the mean indirect effects `[layer]` of MLP outputs at the subject's last token that point to it."""

    layer: int
    effects: Float[Tensor, " layer"]
    prompts: int


def propose_layer(
    model: Any,
    prompts: Sequence[Prompt],
    *,
    window: int | None = None,
    samples: int = 3,
    seed: int = 0,
    run: str | Path | None = None,
) -> Proposal:
    """The layer around which restored MLPs at the subject's last token restore most of the answer.

    ```python
    propose_layer(model, facts).layer
    ```

    That is how Meng et al. 2022 (section 2.2) chose. It is only a proposal: what is read at a layer need not be best
    written there (Hase et al. 2023). `edit_layer` measures.

    Arguments:
        prompts: facts with subjects that the model knows.
        window: MLPs restored together; `None` is a third of the layers, at most 10.
        samples: of noise per prompt; prompt i draws them with `seed + i`.

    Raises:
        ValueError: no prompts, a prompt without a subject, or the file of another run.
    """
    check_list("prompts", prompts, Prompt, _FACTS)
    size = max(1, min(10, adapter.n_layers(model) // 3)) if window is None else window
    how: dict[str, Any] = {"window": size, "samples": samples}
    folder = open_run(run, "traces for the choice of a layer", model, **how, seed=seed)

    def trace(numbered: tuple[int, Prompt]) -> tuple[list[float], float, float]:
        number, prompt = numbered
        with unwarned():
            found = causal_trace(model, replace(prompt, multi_token="first"), kind="mlp", seed=seed + number, **how)
        return found.effect[:, found.subject[-1]].tolist(), found.clean, found.corrupted

    numbered = list(enumerate(prompts))
    traces = folder.each(numbered, key=lambda n: f"{n[0]}/{prompt_item(n[1])}", make=trace, unit="prompt")
    warn_of_weak_corruption([(p.text, *values) for p, (_, *values) in zip(prompts, traces, strict=True)])
    mean = torch.tensor([effects for effects, _, _ in traces]).mean(0)
    editable = layers_of(model, "mlp.hook_post")
    return Proposal(max(editable, key=lambda layer: float(mean[layer])), mean, len(prompts))


class EditLayer(Table):
    """One row per layer and case: `layer, case`, and its scores `efficacy, paraphrase, neighborhood, efficacy
    magnitude, neighborhood magnitude`; nan where the case has no such question.
    """

    def summary(self) -> pd.DataFrame:
        """One row per layer: `layer, n`, the means of the scores with 95 % intervals (`..._low`, `..._high`), `score`,
        the harmonic mean of efficacy, paraphrase and neighborhood (Meng et al. 2022, S), and the `traced effect`.
        """
        rows = []
        for layer, own in self.frame.groupby("layer", sort=False):
            row: Row = {"layer": layer, "n": len(own)}
            for name in _MEASURED:
                found = interval_of(name, own[name].dropna().tolist())
                row |= {name: found["mean"], f"{name}_low": found["low"], f"{name}_high": found["high"]}
            row["score"] = harmonic_mean([row[name] for name in _JOINED])
            if self.details["effects"]:
                row["traced effect"] = self.details["effects"][layer]
            rows.append(row)
        return pd.DataFrame(rows)

    def differences(self) -> pd.DataFrame:
        """Are two layers told apart? A sign-flip test over cases, with Holm's correction over the table.

        Returns:
            `one, other` (layers), `measure, difference` (other minus one), `n, p, p_holm`.
        """
        rows: list[Row] = []
        for name in _JOINED:
            wide = self.frame.pivot(index="case", columns="layer", values=name)
            for one, other in combinations(self.frame["layer"].unique(), 2):
                both = wide[[one, other]].dropna()
                change = torch.tensor((both[other] - both[one]).tolist(), dtype=torch.float64)
                tested = {"difference": float(change.mean()), "n": len(change), "p": sign_flip_test(change)}
                rows.append({"one": one, "other": other, "measure": name, **tested})
        columns = ["one", "other", "measure", "difference", "n", "p"]
        return pd.DataFrame(rows, columns=columns).assign(p_holm=lambda frame: holm(frame["p"]))

    def tables(self) -> dict[str, pd.DataFrame]:
        return {"summary": self.summary(), "differences": self.differences()}

    def plot(self, **look: Any) -> Any:
        """A panel each for efficacy, paraphrase and neighborhood, with intervals, and for traced effects."""
        from kntools.plots.charts import line_chart

        means, effects = self.summary().sort_values("layer"), self.details["effects"]
        panels = [{"panel": name, "layer": means["layer"], "value": means[name]} for name in _JOINED]
        for name, panel in zip(_JOINED, panels, strict=True):
            panel |= {"low": means[f"{name}_low"], "high": means[f"{name}_high"]}
        if effects:
            panels.append({"panel": "traced effect", "layer": range(len(effects)), "value": effects})
        options = {"facet_col": "panel", "facet_col_wrap": 2, "one_scale": False, "markers": True}
        options |= {"labels": {"value": ""}, "title": self.describe(), **look}
        figure = line_chart(pd.concat(map(pd.DataFrame, panels)), "layer", "value", **options)
        return figure.update_yaxes(rangemode="tozero")

    def describe(self) -> str:
        cases, model = self.frame["case"].nunique(), self.provenance["model"]
        traced = self.details["traced"]
        proposed = f"; causal traces of {traced} facts propose layer {self.details['proposed']}" if traced else ""
        return f"{cases} edits by layer ({model}){proposed}"


def edit_layer(
    model: Any,
    cases: Sequence[Case],
    layers: Sequence[int],
    *,
    traced: Sequence[Prompt] | None = None,
    second_moments: Mapping[int, SecondMoment] | None = None,
    settings: RomeSettings | None = None,
    seed: int = 0,
    run: str | Path | None = None,
) -> EditLayer:
    """Edit the same facts in each of several layers, and measure efficacy and locality.

    ```python
    cases = make_cases(model, "counterfact", 20)
    found = edit_layer(model, cases, [2, 4, 8], traced=facts, second_moments=C)
    found.summary(), found.differences(), found.plot()
    ```

    Arguments:
        cases: of CounterFact.
        traced: facts that the model knows, for `propose_layer`: what their traces say is shown beside what is measured.
        second_moments: layer -> C; a layer that is not in it is edited with C = I.
        settings: of `kn.rome`; `None` takes `RomeSettings.for_model(model)`.
        seed: of the noise in traces.
        run: traces are kept beside it, in a file whose name ends in `-traces`.

    Raises:
        ValueError: no cases or layers, a layer that does not exist or is given twice, or the file of another run.
    """
    chosen = settings or RomeSettings.for_model(model)
    moments = {whole("a layer of second_moments", n): c for n, c in (second_moments or {}).items()}
    layers = tuple(adapter.check_layer(model, layer) for layer in whole_numbers("layers", layers))
    check_distinct("layer", layers)
    if not layers:
        raise ValueError("layers is empty; give those to edit, e.g. [2, 4, 8]")
    methods = {str(layer): rome_method(layer, moments.get(layer), chosen) for layer in layers}
    about: dict[str, Any] = {"proposed": None, "traced": 0, "effects": []}
    if traced is not None:
        check_list("traced", traced, Prompt, _FACTS)
        proposal = propose_layer(model, traced, seed=seed, run=beside(run, "traces"))
        about = {"proposed": proposal.layer, "traced": proposal.prompts, "effects": proposal.effects.tolist()}
    alone = Continuations(answer=0, unrelated=())  # the result has no measure of generated text
    found = edit_consistency(model, cases, methods, continuations=alone, run=run)
    rows = [
        {"layer": layer, "case": case, **{name: SCORES[name](answers) for name in _MEASURED}}
        for layer in layers
        for case, answers in zip(found.cases, found.after[str(layer)], strict=True)
    ]
    return EditLayer.of(rows, found.provenance, skipped=found.skipped, **about)


def cases_for_choice(model: Any, limit: int) -> list[Case]:
    """CounterFact records to choose a layer on, which are not those that edits are evaluated on: the model prefers
    their answer to the new one, and yet would say something else.
    """
    cases = cases_of(model, data.counterfact()[: 16 * limit])  # as many as are needed, and more
    pairs = [(case.prompt.text, answer) for case in cases for answer in (case.prompt.target, case.target)]
    answers = ask(model, [Prompt(text, answer, multi_token="sum") for text, answer in pairs])
    return [
        case
        for case, true, new in zip(cases, answers[::2], answers[1::2], strict=True)
        if true.probability > new.probability and not true.first and not new.exact
    ][:limit]


def measure(
    model: Any, layers: Sequence[int], *, tokens: int, seed: int = 0, folder: Path | None = None
) -> dict[int, SecondMoment]:
    """Second moments of some layers on text that the model writes; those that are in the folder are read.

    With `tokens=0` there are none.
    """
    if tokens == 0:
        without_effect("with tokens=0, which edits without second moments", folder=folder)
        return {}
    files = {n: folder / f"C{n}.safetensors" for n in layers} if folder is not None else {}
    done = {n: load(file, SecondMoment) for n, file in files.items() if file.exists()}
    for n, c in done.items():
        if c.count < tokens:
            raise ValueError(
                f"{files[n]} was measured on {c.count} tokens, not {tokens}; name another folder, or ask for {c.count}"
            )
    missing = [n for n in layers if n not in done]
    if missing:
        checkpoint = None if folder is None else folder / "sums.part.safetensors"
        done |= second_moment(model, missing, _written(model, tokens, seed), tokens=tokens, checkpoint=checkpoint)
        for n in files.keys() & missing:
            done[n].save(files[n])
    return {n: done[n] for n in layers}


def _written(model: Any, tokens: int, seed: int) -> Iterator[str]:
    """Text of `tokens` tokens as they were drawn; read again it may have fewer, so more follows."""
    rows, length = 64, 63
    while True:
        yield from sample_texts(model, tokens, seed=seed, rows=rows, length=length)
        tokens, seed = max(tokens // 10 + 1, rows * length), seed + 1
