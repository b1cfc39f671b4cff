"""Which layer to edit: what causal traces propose, and what a sweep over layers finds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
from kntools.analyses.fig11_edit_consistency import edit_consistency
from kntools.arguments import check_list, whole, whole_numbers, without_effect
from kntools.editing.rome_settings import RomeSettings
from kntools.editing.second_moment import SecondMoment, second_moment
from kntools.engine.answers import ask
from kntools.engine.generation import sample_texts
from kntools.models import adapter
from kntools.models.neuron_layers import layers_of
from kntools.options import progress_bar
from kntools.prompts import Prompt
from kntools.results.result import load
from kntools.tracing.causal_tracing import causal_trace
from kntools.tracing.token_roles import ROLES
from kntools.tracing.weak_corruption import unwarned, warn_of_weak_corruption

_MEASURED = ("efficacy", "efficacy magnitude", "paraphrase", "neighborhood", "neighborhood magnitude")


@dataclass(frozen=True)
class Proposal:
    """A layer, and the mean indirect effects `[layer]` of MLP outputs at the subject's last token that point to it."""

    layer: int
    effects: Float[Tensor, " layer"]
    prompts: int


def propose_layer(
    model: Any, prompts: Sequence[Prompt], *, window: int | None = None, samples: int = 3, seed: int = 0
) -> Proposal:
    """The layer around which restored MLPs at the subject's last token restore most of the answer.

    ```python
    propose_layer(model, facts).layer
    ```

    That is how Meng et al. 2022 (section 2.2) chose. It is only a proposal: what is read at a layer need not be best
    written there (Hase et al. 2023). `sweep_layers` measures.

    Arguments:
        prompts: facts with subjects that the model knows.
        window: MLPs restored together; `None` is a third of the layers, at most 10.
        samples: of noise per prompt; prompt i draws them with `seed + i`.
    """
    check_list("prompts", prompts, Prompt, "kn.data.known_facts(known_only=model).prompts(model)")
    size = max(1, min(10, adapter.n_layers(model) // 3)) if window is None else window
    last, traces = ROLES.index("last subject token"), []
    with progress_bar(len(prompts), "prompt") as bar:
        for n, prompt in enumerate(prompts):
            asked = replace(prompt, multi_token="first")
            with unwarned():
                traces.append(causal_trace(model, asked, kind="mlp", window=size, samples=samples, seed=seed + n))
            bar.update()
    warn_of_weak_corruption([(p.text, t.clean, t.corrupted) for p, t in zip(prompts, traces, strict=True)])
    mean = torch.stack([trace.by_role()[last] for trace in traces]).nanmean(0)
    editable = layers_of(model, "mlp.hook_post")
    return Proposal(max(editable, key=lambda layer: float(mean[layer])), mean, len(prompts))


def sweep_layers(
    model: Any,
    cases: Sequence[Case],
    layers: Sequence[int],
    *,
    second_moments: Mapping[int, SecondMoment] | None = None,
    settings: RomeSettings | None = None,
    run: str | Path | None = None,
) -> pd.DataFrame:
    """Edit the same facts in each of several layers, and measure efficacy and locality.

    ```python
    sweep_layers(model, make_cases(model, "counterfact", 20), [2, 4, 8], second_moments=C)
    ```

    Arguments:
        cases: of CounterFact.
        second_moments: layer -> C; a layer that is not in it is edited with C = I.
        settings: of `kn.rome`; `None` takes `RomeSettings.for_model(model)`.

    Returns:
        One row per layer: `layer`, the scores of `EditConsistency`, and `score`, the harmonic mean of efficacy,
        paraphrase and neighborhood (Meng et al. 2022, S).
    """
    chosen = settings or RomeSettings.for_model(model)
    moments = {whole("a layer of second_moments", n): c for n, c in (second_moments or {}).items()}
    layers = whole_numbers("layers", layers)
    methods = {str(layer): rome_method(layer, moments.get(layer), chosen) for layer in layers}
    alone = Continuations(answer=0, unrelated=())  # the table has no measure of generated text
    found = edit_consistency(model, cases, methods, continuations=alone, run=run)
    rows = []
    for layer in layers:
        scores = {name: found.value(str(layer), name) for name in _MEASURED}
        harmonic = harmonic_mean([scores[name] for name in ("efficacy", "paraphrase", "neighborhood")])
        rows.append({"layer": layer, "n": len(found.cases), **scores, "score": harmonic})
    return pd.DataFrame(rows)


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
