"""What cannot be meant, or would change nothing: an error that says what to type, and no number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import kntools as kn
from kntools.analyses import layer_choice
from kntools.analyses.edit_measures import Continuations
from kntools.analyses.neuron_search import SearchSettings
from tests import zoo
from tests.test_wrong_inputs import ERRORS, OTHER, PROMPT, TEXT


@pytest.fixture(scope="module")
def model() -> Any:
    return zoo.fresh("llama")


@pytest.fixture(autouse=True)
def without_type_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user's installation does: the types of the signatures are not checked."""
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)


def _twice(m: Any) -> Any:
    group = kn.analyses.PromptGroup("g", "P36", "factual", (PROMPT, OTHER))
    return kn.analyses.localisation(m, [group, group])


def _other_tokens(m: Any) -> Any:
    return kn.activation(m, kn.encode(m, PROMPT)) - kn.activation(m, kn.encode(m, PROMPT, prepend_bos=False))


def _of_another_depth(m: Any) -> Any:
    rows = [{"source": "P36", "kind": "factual", "group": "g", "neurons": [[1, 5]]}]
    found = kn.analyses.Localisation.of(rows, {"model": "m"}, widths=[48] * 4)
    assert len(kn.analyses.layer_distribution(found).to_frame()) == 4
    return kn.analyses.layer_distribution(found, n_layers=300)


def _sent(sender: str, receiver: str) -> Callable[[Any], Any]:
    return lambda m: kn.path_patch(m, PROMPT, OTHER, sender=sender, receiver=receiver)


CONTRADICTIONS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "prepend_bos": (lambda m: kn.encode(m, PROMPT, prepend_bos="no"), "prepend_bos='no'; give True or False or None"),
    "load": (lambda m: kn.load_model("tiny-bert", prepend_bos="no"), "prepend_bos='no'"),
    "hooked": (lambda m: kn.load_model("tiny-bert", hooked=1), "hooked=1; give True or False"),
    "noising": (lambda m: kn.activation_patch(m, PROMPT, OTHER, noising="no"), "noising='no'; give True or False"),
    "known_only": (lambda m: kn.analyses.prompt_groups(m, "P36", known_only="yes"), "known_only='yes'"),
    "drop_zero": (lambda m: kn.r1_squared(torch.ones(2, 4, 48), drop_zero="no"), "drop_zero='no'"),
    "two_way": (lambda m: kn.data.known(m, [PROMPT], two_way="no"), "two_way='no'; give True or False or None"),
    "paper": (lambda m: kn.analyses.suppression_effect(m, {"a": [PROMPT, OTHER]}, "L1.N5", paper="no"), "paper='no'"),
    "correct_only": (lambda m: kn.analyses.reliability(m, {"a": [PROMPT]}, correct_only="no"), "correct_only='no'"),
    "trace known_only": (lambda m: kn.analyses.tracing_profile(m, [PROMPT], known_only="no"), "known_only='no'"),
    "other tokens": (_other_tokens, "prepend_bos is True in one attribution and False in the other"),
    "a group twice": (_twice, "is given 2 times and would count as often"),
    "depth": (_of_another_depth, "n_layers=300, but the model has 4 layers"),
    "no verb for it": (
        lambda m: kn.analyses.prompt_groups(m, "sample_determiner_noun_agreement_2", path="sample"),
        "before it reads the noun.*determiner_noun_agreement_1",
    ),
    "severed nothing": (lambda m: kn.causal_trace(m, PROMPT, sever_at="all"), "nothing is severed; give sever="),
    "occurrence of nothing": (lambda m: kn.Prompt(TEXT, " book", occurrence=1), "there is no subject"),
    "device": (lambda m: kn.load_model("tiny-bert", device="meta:x"), "is not a device"),
    "a folder": (lambda m: kn.load("."), "it is a folder"),
    "head to an earlier head": (_sent("L2.H1", "L1.H1.q"), "no sender stands before a receiver"),
    "head to its own layer's": (_sent("L2.H1", "L2.H0.q"), "no sender stands before a receiver"),
    "MLP to its own layer's head": (_sent("L2.MLP", "L2.H0"), "there is no path"),
    "neuron to an earlier MLP": (_sent("L2.N3", "L1.MLP"), "there is no path"),
}


def _edited_in_one_layer(m: Any) -> Any:
    c = kn.second_moment(m, 1, ["this book is good", "that book is here"])
    return kn.emmet(m, PROMPT, " cat", layers=[1], second_moments={2: c})


def _forgetting(m: Any) -> Any:
    case = kn.analyses.Case("a", "a", PROMPT, " cat", ())
    return kn.analyses.forgetting_curve(m, [case], ["rome"], layer=1, counts=[1], continuations=Continuations(cases=2))


CONTRADICTIONS |= {
    f"no effect: {name}": (call, "has no effect .*; omit it")
    for name, call in {
        "steps": lambda m: kn.integrated_gradients(m, PROMPT, steps=9),
        "tol": lambda m: kn.integrated_gradients(m, PROMPT, rule="dai", tol=0.1),
        "steps of a search": lambda m: SearchSettings(steps=9),
        "tol of a search": lambda m: SearchSettings(rule="midpoint", tol=0.1),
        "steps of an estimate": lambda m: kn.attribution_patch(m, PROMPT, OTHER, site="z", steps=5),
        "samples of given noise": lambda m: kn.causal_trace(m, PROMPT, noise=torch.zeros(1, 1, 32), samples=3),
        "samples of a prompt": lambda m: kn.causal_trace(m, PROMPT, corrupted=OTHER, samples=3),
        "run of a card": lambda m: kn.neuron_card(m, "L1.N5", run="card.safetensors"),
        "top_k": lambda m: kn.generate(m, TEXT, top_k=3),
        "by": lambda m: kn.analyses.prompt_groups(m, "P36", by=kn.data.number),
        "among": lambda m: kn.analyses.make_cases(m, "counterfact", 1, among=3),
        "folder of moments": lambda m: layer_choice.measure(m, [1], tokens=0, folder=Path()),
        "entropy of a forgetting curve": _forgetting,
        "path of the sample": lambda m: kn.data.blimp("sample_subject_verb_agreement", path="x"),
        "tokens of a trace": lambda m: kn.plots.trace_heatmap(kn.causal_trace(m, PROMPT, samples=1), tokens=["a"]),
        "scores of effects": lambda m: kn.plots.trace_heatmap(torch.zeros(2, 2), scores=True),
        "labels of a grid": lambda m: kn.plots.patch_heatmap(kn.activation_patch(m, PROMPT, OTHER), labels=["a"]),
        "normalized effects": lambda m: kn.plots.patch_heatmap(torch.zeros(2, 2), normalized=True),
        "prompt of neurons": lambda m: kn.plots.neuron_bars(kn.knowledge_neurons(kn.activation(m, PROMPT)), prompt=0),
    }.items()
} | {
    "wrt in a sweep": (
        lambda m: kn.sweep(m, PROMPT, [kn.Intervention((), wrt=[("blocks.1.mlp.hook_post", -1)])]),
        "use kn.sweep_gradients",
    ),
    "rows of a text": (lambda m: kn.generate(m, TEXT, hooks=kn.Intervention((), rows=3)), "give those of the Interv"),
    "encoded otherwise": (
        lambda m: kn.encode(m, kn.encode(m, PROMPT, prepend_bos=False), prepend_bos=True),
        "was encoded with prepend_bos=False; give the Prompt",
    ),
    "C under another layer": (_edited_in_one_layer, "has the C of layer 1 under 2; give {1: C}"),
    "C under a text": (
        lambda m: layer_choice.edit_layer(m, [], [1], second_moments={"1": None}),
        "a layer of second_moments='1'; give a whole number",
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_what_cannot_be_meant_is_an_error_and_no_number(name: str, model: Any) -> None:
    call, message = CONTRADICTIONS[name]
    with pytest.raises(ERRORS, match=message):
        call(model)


def test_a_path_within_a_layer_goes_from_heads_to_the_mlp_that_reads_them(model: Any) -> None:
    sent = {"sender": "L2.H1", "receiver": "L2.MLP"}
    assert kn.path_patch(model, PROMPT, OTHER, **sent).effect.abs().max() > 0
    for name in ("neox", "gptj"):  # both read what enters the layer
        with pytest.raises(ValueError, match="there is no path"):
            kn.path_patch(zoo.tiny(name), PROMPT, OTHER, **sent)


def test_a_run_is_never_written_beside_a_file_of_another_kind(model: Any, tmp_path: Any) -> None:
    (tmp_path / "notes.md").write_text("mine")
    for path in (tmp_path, tmp_path / "notes.md"):
        with pytest.raises(ValueError, match=r"is no run; give the name of a run: FILE\.jsonl"):
            kn.analyses.attribution_profile(model, {"a": [PROMPT, OTHER]}, run=path)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "notes.md"]
