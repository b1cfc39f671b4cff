"""Ctrl-C, wherever a model happens to be: the model is as it was, and what a long run had finished is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import kntools as kn
from kntools.analyses import neuron_search
from kntools.analyses.edit_methods import rome_method, values_method
from kntools.analyses.fig01_attribution_profile import attribution_profile
from kntools.analyses.fig02_pair_search import pair_search
from kntools.analyses.fig03_localisation import localisation
from kntools.analyses.fig05_suppression_effect import suppression_effect
from kntools.analyses.fig08_reliability import reliability
from kntools.analyses.fig09_tracing_profile import tracing_profile
from kntools.analyses.fig10_edit_examples import edit_examples
from kntools.analyses.fig11_edit_consistency import edit_consistency
from kntools.analyses.method_comparison import selection_methods
from kntools.analyses.planted_knowledge import planted_facts
from kntools.analyses.prompt_group import PromptGroup
from kntools.editing.rome_settings import RomeSettings
from tests import zoo
from tests.analyses.test_edit_consistency import SHORT, cases
from tests.leaks import PROMPTS, nothing_leaks, prepared

CLEAN, CORRUPTED = PROMPTS
GROUPS = [
    PromptGroup(
        key=f"this {noun}",
        source="agreement",
        kind="linguistic",
        prompts=tuple(kn.Prompt(f"{start} this", f" {noun}") for start in ("Is Italy near", "The dog and")),
        labels=(("determiner", "this"), ("noun", noun), ("number", "singular")),
    )
    for noun in ("book", "cat", "field")
]
BY_NOUN = {g.key: g.prompts for g in GROUPS}
WORDS = ["book", "cat", "table"]


@contextmanager
def counted(stop_at: int | None = None) -> Iterator[list[int]]:
    """Count the calls of all modules; at the `stop_at`-th raise what Ctrl-C raises."""
    seen = [0]

    def count(*_: Any) -> None:
        seen[0] += 1
        if seen[0] == stop_at:
            raise KeyboardInterrupt

    handle = torch.nn.modules.module.register_module_forward_pre_hook(count)
    try:
        yield seen
    finally:
        handle.remove()


def fine_tuned(model: Any) -> kn.WeightEdit:
    return kn.fine_tune(model, CLEAN, " Rome", layer=1, steps=2)


def in_small_passes(run: Callable[[], Any]) -> Any:
    with kn.set_options(max_rows=4):
        return run()


FEW_STEPS = RomeSettings(steps=3, templates=["{}", "Yes. {}"])
OPERATIONS: dict[str, Callable[[Any], Any]] = {
    "neuron_scan": lambda m: in_small_passes(lambda: kn.neuron_scan(m, CLEAN, layers=[0, 1])),
    "activation_patch": lambda m: kn.activation_patch(m, CLEAN, CORRUPTED, site="resid_pre"),
    "path_patch": lambda m: kn.path_patch(m, CLEAN, CORRUPTED, sender=["L0.H1"], receiver="L1.H0.q"),
    "attribution_patch": lambda m: kn.attribution_patch(m, CLEAN, CORRUPTED, site="z", heads=True),
    "causal_trace": lambda m: kn.causal_trace(m, CLEAN, samples=2, sever="mlp"),
    "tracing_profile": lambda m: tracing_profile(m, PROMPTS, window=2, samples=1, known_only=False),
    "second_moment": lambda m: in_small_passes(lambda: kn.second_moment(m, 1, [p.text for p in PROMPTS] * 20)),
    "rome": lambda m: kn.rome(m, CLEAN, " Rome", layer=1, settings=FEW_STEPS),
    "fine_tune": fine_tuned,
    "edit_examples": lambda m: edit_examples(m, fine_tuned(m), {"edited": [CLEAN.text]}, max_new_tokens=4),
    "generate": lambda m: kn.generate(m, CLEAN, max_new_tokens=4),
    "selection_methods": lambda m: selection_methods(m, {"capitals": PROMPTS}, methods={"activation": kn.activation}),
    "planted_facts": lambda m: planted_facts(m, [CLEAN], methods={"activation": kn.activation}, steps=3, draws=1),
}
EDITORS = {"rome": rome_method(1, settings=replace(FEW_STEPS, steps=2, templates=["{}"])), "values": values_method(3)}
#: Those that keep what is finished.
RUNS: dict[str, Callable[[Any, Path], Any]] = {
    "localisation": lambda m, run: localisation(m, GROUPS, run=run).rows,
    "pair_search": lambda m, run: pair_search(m, GROUPS, run=run).rows,
    "attribution_profile": lambda m, run: attribution_profile(m, BY_NOUN, run=run).scores.tolist(),
    "suppression_effect": lambda m, run: suppression_effect(m, BY_NOUN, [(1, 5)], words=WORDS, run=run).rows,
    "reliability": lambda m, run: reliability(m, {"capitals": PROMPTS}, correct_only=False, run=run).rows,
    "tracing_profile": lambda m, run: (
        tracing_profile(m, PROMPTS, window=2, samples=1, known_only=False, run=run).effects.nan_to_num().tolist()
    ),
    "edit_consistency": lambda m, run: edit_consistency(m, cases(2), EDITORS, continuations=SHORT, run=run).after,
}


@pytest.fixture(scope="module")
def model() -> Any:
    """Of two layers: what a run keeps and what an interrupt leaves behind is the same in deeper ones."""
    return prepared("llama", num_hidden_layers=2)


@pytest.mark.filterwarnings(
    "ignore:the corruption does not lower", "ignore:.*it has not taken"
)  # edits of a random model, in few steps
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_interrupted_model_is_clean(name: str, model: Any) -> None:
    OPERATIONS[name](model)  # what is learnt of a model once
    with counted() as total:
        OPERATIONS[name](model)
    for share in (0.2, 0.8):
        with nothing_leaks(model), pytest.raises(KeyboardInterrupt), counted(1 + int(share * total[0])):
            OPERATIONS[name](model)


@pytest.mark.filterwarnings("ignore:the corruption does not lower", "ignore:.*it has not taken")
@pytest.mark.parametrize("name", RUNS)
def test_an_interrupted_run_is_kept(name: str, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neuron_search, "TOGETHER", 1)  # several parts
    RUNS[name](model, tmp_path / "first")  # what is learnt of a model once
    with counted() as total:
        expected = RUNS[name](model, tmp_path / "whole")
    for share in (0.3, 0.95):
        folder = tmp_path / str(share)
        with nothing_leaks(model), pytest.raises(KeyboardInterrupt), counted(1 + int(share * total[0])):
            RUNS[name](model, folder)
        file = tmp_path / f"{share}.jsonl"
        kept, whole = file.read_bytes(), (tmp_path / "whole.jsonl").read_bytes()
        assert whole.startswith(kept) and kept.endswith(b"\n"), "half an item"
        assert len(kept.splitlines()) > 1 or share < 0.5, "nothing is finished near the end"
        with counted() as rest:
            assert RUNS[name](model, folder) == expected
        assert file.read_bytes() == whole, "a finished item was made again"
        assert rest[0] < total[0] or len(kept.splitlines()) == 1


def test_an_edit_is_undone_when_its_scope_is_interrupted() -> None:
    model = zoo.fresh("llama")
    edit = fine_tuned(model)
    with nothing_leaks(model), pytest.raises(KeyboardInterrupt), edit.applied(model), counted(5):
        model(kn.encode(model, CLEAN).tokens)
