"""Which layer to edit: what causal traces propose, and what a sweep over layers finds.

    python -m kntools.analyses.layer_choice --layers 1 3 5 8 11 --tokens 50000 --out results/layers

`--out` names a table (`.csv`); `--moments` a folder for the second moments of the layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from kntools import data
from kntools.analyses import command
from kntools.analyses.edit_cases import Case, Question, counterfact_cases
from kntools.analyses.edit_methods import rome_method
from kntools.analyses.edit_scores import ask
from kntools.analyses.fig11_edit_consistency import edit_consistency
from kntools.editing.second_moment import SecondMoment, second_moment
from kntools.engine.generation import sample_texts
from kntools.files import write
from kntools.prompts import Prompt
from kntools.results import processes
from kntools.results.result import load
from kntools.tracing.causal_tracing import causal_trace
from kntools.tracing.token_roles import ROLES

_SCORES = ("efficacy", "efficacy magnitude", "paraphrase", "neighborhood", "neighborhood magnitude")


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
    prepend_bos: bool | None = None,
    progress: bool = True,
) -> Proposal:
    """The layer around which restored MLPs at the subject's last token bring most of the answer back.

    ```python
    propose_layer(model, facts).layer
    ```

    That is how Meng et al. 2022 (section 2.2) chose: the middle of the range of MLPs with the largest average indirect
    effect there. It is cheap, and only a proposal: what is read at a layer need not be best written there (Hase et al.
    2023). `sweep_layers` measures.

    Arguments:
        prompts: facts with subjects that the model knows.
        window: MLPs restored together; `None` is a third of the layers, at most 10.
        samples: of noise per prompt; prompt i draws them with `seed + i`.
    """
    if not prompts:
        raise ValueError("no prompts given; traces of at least one fact that the model knows are needed")
    size = max(1, min(10, model.cfg.n_layers // 3)) if window is None else window
    last = ROLES.index("last subject token")
    rows = [
        causal_trace(
            model, prompt, kind="mlp", window=size, samples=samples, seed=seed + n, multi_token="first",
            prepend_bos=prepend_bos, progress=False,
        ).by_role()[last]
        for n, prompt in enumerate(tqdm(prompts, disable=not progress, unit="prompt", leave=False))
    ]  # fmt: skip
    effects = torch.stack(rows).nanmean(0)
    return Proposal(int(effects.argmax()), effects, len(prompts))


def sweep_layers(
    model: Any,
    cases: Sequence[Case],
    layers: Sequence[int],
    *,
    second_moments: Mapping[int, SecondMoment] | None = None,
    run: str | Path | None = None,
    prepend_bos: bool | None = None,
    progress: bool = True,
    **options: Any,
) -> pd.DataFrame:
    """Edit the same facts in each of several layers, and measure what changes and what should not have.

    ```python
    sweep_layers(model, counterfact_cases(model, records), [2, 4, 8], second_moments=C)
    ```

    Arguments:
        cases: from `counterfact_cases`.
        second_moments: layer -> C; a layer that is not in it is edited with C = I.
        run: as in `edit_consistency`.
        options: of `kn.rome`.

    Returns:
        One row per layer: `layer`, the scores of `EditConsistency`, and `score`, the harmonic mean of efficacy,
        paraphrase and neighborhood (Meng et al. 2022, S).
    """
    moments = dict(second_moments or {})
    methods = {
        str(layer): rome_method(layer, moments.get(layer), prepend_bos=prepend_bos, **options) for layer in layers
    }
    settings = {
        "options": {k: str(v) for k, v in options.items()},
        "C": {str(n): c.title() for n, c in moments.items()},
    }
    found = edit_consistency(
        model, cases, methods, run=run, settings=settings, prepend_bos=prepend_bos, progress=progress
    )
    rows = []
    for layer in layers:
        scores = {score: found.value(str(layer), score) for score in _SCORES}
        parts = [scores[s] for s in ("efficacy", "paraphrase", "neighborhood")]
        harmonic = len(parts) / sum(1 / p for p in parts) if min(parts) > 0 else 0.0
        rows.append({"layer": layer, "n": len(found.cases), **scores, "score": harmonic})
    return pd.DataFrame(rows)


def main(argv: Sequence[str] | None = None) -> None:
    """The command; see the top of the module."""
    parser = command.parser("edit_layer", "Which layer to edit.")
    add = parser.add_argument
    add("--layers", type=int, nargs="+", required=True)
    add("--limit", type=int, default=12, help="facts to edit in every layer")
    add("--traced", type=int, default=10, help="facts that the model knows, to be traced for the proposal")
    add("--tokens", type=int, default=50_000, help="drawn from the model itself for the second moments; 0: C = I")
    add("--moments", type=Path, help="folder for the second moments: C3.safetensors, ...")
    o = parser.parse_args(argv)
    model = command.load(o)
    facts = data.known_facts(known_only=model, limit=o.traced, seed=o.seed, prepend_bos=o.bos, progress=False)
    prompts = list(facts.prompts(model, multi_token="first"))
    proposal = propose_layer(model, prompts, seed=o.seed, prepend_bos=o.bos)
    print(f"causal traces of {proposal.prompts} facts propose layer {proposal.layer}", flush=True)
    moments = measure(model, o.layers, tokens=o.tokens, seed=o.seed, folder=o.moments, prepend_bos=o.bos)
    cases = cases_for_choice(model, o.limit, prepend_bos=o.bos)
    table = sweep_layers(model, cases, o.layers, second_moments=moments, run=o.run, prepend_bos=o.bos)
    table["traced effect"] = [float(proposal.effects[layer]) for layer in o.layers]
    if processes.is_main():
        write(o.out.with_name(o.out.name + ".csv"), table.to_csv(index=False, float_format="%.4f"))
    print(table.to_string(index=False))


def cases_for_choice(model: Any, limit: int, *, prepend_bos: bool | None) -> list[Case]:
    """CounterFact records on which a layer may be chosen, for they are not those that edits are evaluated on.

    The model prefers their answer to the new one, and yet would say something else.
    """
    prompts = data.counterfact().prompts(model, role="rewrite", multi_token="sum")
    some = prompts[: 16 * limit]  # as many as are needed, and more
    questions = [Question("rewrite", p.text, a) for p in some for a in (p.target, str(p.foil))]
    answers = ask(model, questions, prepend_bos=prepend_bos)
    chosen = [
        record
        for record, true, new in zip(prompts.records, answers[::2], answers[1::2], strict=False)
        if true.p > new.p and not true.first and not new.exact
    ]
    return counterfact_cases(model, chosen[:limit])


def measure(
    model: Any,
    layers: Sequence[int],
    *,
    tokens: int,
    seed: int,
    folder: Path | None,
    prepend_bos: bool | None = None,
    progress: bool = True,
) -> dict[int, SecondMoment]:
    """Second moments of some layers on text that the model writes; those that are in the folder are read."""
    if tokens == 0:
        return {}
    files = {n: folder / f"C{n}.safetensors" for n in layers} if folder is not None else {}
    done = {n: load(file, SecondMoment) for n, file in files.items() if file.exists()}
    todo = [n for n in layers if n not in done]
    if todo:
        found = second_moment(
            model, todo, _written(model, tokens, seed), tokens=tokens, prepend_bos=prepend_bos, progress=progress,
            checkpoint=None if folder is None else folder / "sums.part.safetensors",
        )  # fmt: skip
        for n, c in found.items():
            if n in files:
                c.save(files[n])
        done |= found
    return {n: done[n] for n in layers}


def _written(model: Any, tokens: int, seed: int) -> Iterator[str]:
    """Text of `tokens` tokens as they were drawn; read again it may have fewer, so more follows."""
    while True:
        yield from sample_texts(model, tokens, seed=seed, rows=64, length=63)
        tokens, seed = tokens // 10 + 1, seed + 1


if __name__ == "__main__":
    main()
