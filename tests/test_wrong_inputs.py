"""What people give by mistake, at every public name: it is taken where it can mean one thing, else the error is ours.

An error is ours where a `raise` of kntools made it, in words; one of Python's own from inside is a failure here.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kntools as kn
from kntools.analyses import layer_choice
from kntools.analyses.edit_measures import Continuations
from kntools.analyses.neuron_search import SearchSettings
from tests import zoo

TEXT = "this book is"
PROMPT = kn.Prompt(TEXT, " book", subject="book")
OTHER = kn.Prompt("that book is", " books", subject="book")
ERRORS = (ValueError, TypeError, IndexError, KeyError, FileNotFoundError)

# Results of another kind, containers of the wrong depth, numbers and texts in the place of objects.
NEURONS = ["24.1005", [(1.0, 5)], [(-1, 5)], [(99, 5)], [(1, 9999)], 5, None, [(1, 2, 3)], PROMPT, torch.ones(3)]
HEADS = ["L1.N5", [(-1, 0)], [(1.5, 0)], (1, 99), (99, 0), 3, None, kn.Neuron(1, 5)]
LAYERS = [-1, 99, 1.5, "1", None, "L1", [1.5], [-1]]
GIVEN = [-1, 1.5, "2", [2]]
COUNTS = [*GIVEN, None]
PROMPTS = [[TEXT], {"text": TEXT}, None, 3, [], [[PROMPT]], kn.Neuron(1, 5), 1.5, torch.ones(1, 3)]
METRICS = ["prob", 5, [], 1.5]
SITES = ["hook_pos", None, 3, "zz"]
SCORES = [None, "scores", PROMPT, [[1.0], [1.0, 2.0]], torch.zeros(4), torch.full((1, 2, 3), torch.nan)]
IDS = [" Ottawa", [" Ottawa"], 1.5, None, -1, 10**9, PROMPT, []]
TEXTS = ["one text", 3, [1, 2], [["a"]], torch.ones(2, 3), PROMPT, []]
RUNS = [5, None, "L1.N5", [lambda x, hook: x], [[("blocks.1.hook_resid_post", 3)]], [{"a": 1}], []]


@pytest.fixture(scope="module")
def model() -> Any:
    return zoo.fresh("llama")


@pytest.fixture(scope="module")
def att(model: Any) -> kn.Attribution:
    return kn.activation(model, PROMPT)


def run(model: Any, hooks: Any) -> Any:
    return kn.sweep(model, PROMPT, [hooks])


Call = Callable[[Any, kn.Attribution, Any], Any]
VECTOR = torch.ones(32)
CALLS: dict[str, tuple[Call, list[Any]]] = {
    "scale_neurons": (lambda m, a, x: run(m, kn.scale_neurons(x, 0.5)), NEURONS),
    "ablate_neurons": (lambda m, a, x: run(m, kn.ablate_neurons(x)), NEURONS),
    "set_neurons": (lambda m, a, x: run(m, kn.set_neurons(x, 1.0)), NEURONS),
    "set_neurons to": (lambda m, a, x: run(m, kn.set_neurons("L1.N5", x)), ["x", None, [1, 2], PROMPT]),
    "mean_ablate_neurons": (lambda m, a, x: run(m, kn.mean_ablate_neurons("L1.N5", x)), [*SCORES, 3]),
    "resample_neurons": (lambda m, a, x: run(m, kn.resample_neurons("L1.N5", x)), [*SCORES, 3]),
    "factor": (lambda m, a, x: run(m, kn.scale_neurons("L1.N5", x)), ["2", None, torch.ones(3), [1]]),
    "position": (lambda m, a, x: run(m, kn.ablate_neurons("L1.N5", pos=x)), [1.5, "book", 99, [], [1.5]]),
    "ablate_heads": (lambda m, a, x: run(m, kn.ablate_heads(x)), HEADS),
    "site of heads": (lambda m, a, x: run(m, kn.ablate_heads((1, 0), site=x)), [*SITES, "mlp_out"]),
    "add_vector": (lambda m, a, x: run(m, kn.add_vector("resid_post", 1, x)), [None, "x", torch.ones(5), PROMPT]),
    "add_vector site": (lambda m, a, x: run(m, kn.add_vector(x, 1, VECTOR)), SITES),
    "add_vector layer": (lambda m, a, x: run(m, kn.add_vector("resid_post", x, VECTOR)), LAYERS),
    "scale_site": (lambda m, a, x: run(m, kn.scale_site("z", 1, x)), ["x", None, PROMPT]),
    "patch": (lambda m, a, x: run(m, kn.patch("z", 1, x)), [None, "x", VECTOR, {}]),
    "freeze": (lambda m, a, x: run(m, kn.freeze("z", x, {})), [1.5, None, "1", -1]),
    "capture": (lambda m, a, x: run(m, kn.capture("z", 1, x)), [None, [], "x"]),
    "corrupt": (lambda m, a, x: run(m, kn.corrupt([0], x)), [0.5, None, "x", PROMPT, torch.ones(1, 5)]),
    "corrupt where": (lambda m, a, x: run(m, kn.corrupt(x, torch.ones(1, 32))), [PROMPT, "book", 1.5, 99]),
    "integrated_gradients": (lambda m, a, x: kn.integrated_gradients(m, x), [*PROMPTS, TEXT]),
    "attribution site": (lambda m, a, x: kn.integrated_gradients(m, PROMPT, site=x), [*SITES, "z", "resid_pre"]),
    "attribution metric": (lambda m, a, x: kn.integrated_gradients(m, PROMPT, metric=x), METRICS),
    "tol": (lambda m, a, x: kn.integrated_gradients(m, PROMPT, tol=x), ["0.1", 0, 2]),
    "steps": (lambda m, a, x: kn.integrated_gradients(m, PROMPT, rule="midpoint", steps=x), GIVEN),
    "rule": (lambda m, a, x: kn.integrated_gradients(m, PROMPT, rule=x), ["adaptve", None, 3]),
    "activation": (lambda m, a, x: kn.activation(m, x), [*PROMPTS, TEXT]),
    "activation site": (lambda m, a, x: kn.activation(m, PROMPT, site=x), [*SITES, "z", "resid_pre"]),
    "activation_x_gradient": (lambda m, a, x: kn.activation_x_gradient(m, x), [*PROMPTS, TEXT]),
    "direct_logit_attribution": (lambda m, a, x: kn.direct_logit_attribution(m, x), [*PROMPTS, TEXT]),
    "neuron_scan": (lambda m, a, x: kn.neuron_scan(m, x, layers=1), [*PROMPTS, TEXT]),
    "scanned neurons": (lambda m, a, x: kn.neuron_scan(m, PROMPT, x), NEURONS),
    "scanned layers": (lambda m, a, x: kn.neuron_scan(m, PROMPT, layers=x), LAYERS),
    "knowledge_neurons": (lambda m, a, x: kn.knowledge_neurons(x), SCORES),
    "coarse_sets": (lambda m, a, x: kn.coarse_sets(x), SCORES),
    "r1_squared": (lambda m, a, x: kn.r1_squared(x), SCORES),
    "target_count": (
        lambda m, a, x: kn.knowledge_neurons(a, target_count=x),
        [(), (2.5, 5), "3", None, (1, 2, 3), (5, 2), -1],
    ),
    "threshold": (lambda m, a, x: kn.knowledge_neurons(a, threshold=x), ["x", None, 2, 0]),
    "negatives": (lambda m, a, x: kn.knowledge_neurons(a, negatives=x), ["x", [], torch.zeros(2, 3)]),
    "faithfulness": (lambda m, a, x: kn.faithfulness(m, PROMPT, x), SCORES),
    "shares": (lambda m, a, x: kn.faithfulness(m, PROMPT, a, shares=x), [5, "all", [2], [], ["x", 1]]),
    "neuron_card": (lambda m, a, x: kn.neuron_card(m, x), NEURONS),
    "card texts": (lambda m, a, x: kn.neuron_card(m, "L1.N5", x), TEXTS),
    "card prompt": (lambda m, a, x: kn.neuron_card(m, "L1.N5", prompt=x), [TEXT, [PROMPT, OTHER], 3]),
    "top": (lambda m, a, x: a.top(x), [*COUNTS, 10**9]),
    "score_of": (lambda m, a, x: a.score_of(x), [99, 1.5, None, "x", (99, 0)]),
    "to_frame": (lambda m, a, x: a.to_frame(top=x), [-1, 1.5, "2", [2]]),
    "activation_patch": (lambda m, a, x: kn.activation_patch(m, x, OTHER, site="z"), [*PROMPTS, TEXT]),
    "corrupted": (lambda m, a, x: kn.activation_patch(m, PROMPT, x, site="z"), [None, 3, [], [[OTHER]], torch.ones(2)]),
    "texts of a patch": (lambda m, a, x: kn.activation_patch(m, TEXT, x), ["that book is"]),
    "patched site": (lambda m, a, x: kn.activation_patch(m, PROMPT, OTHER, site=x), SITES),
    "patched layers": (lambda m, a, x: kn.activation_patch(m, PROMPT, OTHER, site="z", layers=x), [[9], -1, 1.5, "1"]),
    "window": (lambda m, a, x: kn.activation_patch(m, PROMPT, OTHER, site="z", window=x), [*COUNTS, 99]),
    "attribution_patch": (lambda m, a, x: kn.attribution_patch(m, x, OTHER, site="z"), [*PROMPTS, TEXT]),
    "sender": (
        lambda m, a, x: kn.path_patch(m, PROMPT, OTHER, sender=x, receiver="logits"),
        ["foo", None, 3, "L99.H0", []],
    ),
    "causal_trace": (lambda m, a, x: kn.causal_trace(m, x, samples=1, window=1), [*PROMPTS, TEXT]),
    "noise": (lambda m, a, x: kn.causal_trace(m, PROMPT, samples=1, noise=x), ["3sgma", None, -1, [1], torch.ones(2)]),
    "samples": (lambda m, a, x: kn.causal_trace(m, PROMPT, samples=x), GIVEN),
    "seed": (lambda m, a, x: kn.causal_trace(m, PROMPT, samples=1, seed=x), [1.5, "x", None]),
    "rome": (lambda m, a, x: kn.rome(m, x, " cat", layer=1), [*PROMPTS, TEXT]),
    "rome layer": (lambda m, a, x: kn.rome(m, PROMPT, " cat", layer=x), [*LAYERS, [1]]),
    "rome target": (lambda m, a, x: kn.rome(m, PROMPT, x, layer=1), [PROMPT, None, 5, "", [" cat"], "cat"]),
    "rome C": (lambda m, a, x: kn.rome(m, PROMPT, " cat", layer=1, second_moment=x), [torch.eye(48), "C.npz", [], 3]),
    "rome settings": (lambda m, a, x: kn.rome(m, PROMPT, " cat", layer=1, settings=x), ["x", {"lr": 1}, 3]),
    "emmet": (lambda m, a, x: kn.emmet(m, x, " cat", layers=1), [*PROMPTS, TEXT]),
    "emmet layers": (lambda m, a, x: kn.emmet(m, PROMPT, " cat", layers=x), [*LAYERS, []]),
    "memit C": (lambda m, a, x: kn.memit(m, PROMPT, " cat", layers=1, second_moments=x), [torch.eye(48), "C", 3, {}]),
    "alpha_edit C": (lambda m, a, x: kn.alpha_edit(m, PROMPT, " cat", layers=1, second_moments=x), ["C", 3, {}]),
    "fine_tune layer": (lambda m, a, x: kn.fine_tune(m, PROMPT, " cat", layer=x, steps=1), [*LAYERS, [1]]),
    "second_moment": (lambda m, a, x: kn.second_moment(m, x, [TEXT]), LAYERS),
    "second_moment texts": (lambda m, a, x: kn.second_moment(m, 1, x), [*TEXTS, None]),
    "edit_values": (lambda m, a, x: kn.edit_values(m, x, " book", " cat"), NEURONS),
    "edit_values to": (lambda m, a, x: kn.edit_values(m, "L1.N5", " book", x), [PROMPT, None, [" cat"], 1.5, ""]),
    "erase_values": (lambda m, a, x: kn.erase_values(m, x), NEURONS),
    "applied": (lambda m, a, x: kn.erase_values(m, "L1.N5").applied(x).__enter__(), [None, "x", PROMPT]),
    "undo": (lambda m, a, x: kn.erase_values(m, "L1.N5").undo(x), [None, "x", PROMPT]),
    "hooks of an edit": (lambda m, a, x: kn.erase_values(m, "L1.N5").hooks(x), [None, "x", PROMPT]),
    "generate": (lambda m, a, x: kn.generate(m, x, max_new_tokens=1), [None, 3, [], 1.5, torch.ones(2), [[PROMPT]]]),
    "max_new_tokens": (lambda m, a, x: kn.generate(m, TEXT, max_new_tokens=x), [*COUNTS, 10**6]),
    "temperature": (lambda m, a, x: kn.generate(m, TEXT, temperature=x, max_new_tokens=1), ["1", None, -1]),
    "stop": (lambda m, a, x: kn.generate(m, TEXT, stop=x, max_new_tokens=1), [3, [""], [3]]),
    "hooks": (lambda m, a, x: kn.generate(m, TEXT, hooks=x, max_new_tokens=1), ["L1.N5", 3, [kn.Neuron(1, 5)]]),
    "sweep": (lambda m, a, x: kn.sweep(m, x, [[]]), [*PROMPTS, TEXT]),
    "interventions": (lambda m, a, x: kn.sweep(m, PROMPT, x), RUNS),
    "intervention": (lambda m, a, x: kn.sweep(m, PROMPT, [kn.Intervention(x)]), ["L1.N5", 3, [3]]),
    "rows": (lambda m, a, x: kn.sweep(m, PROMPT, [kn.Intervention((), rows=x)]), [0, 1.5, "1"]),
    "wrt": (
        lambda m, a, x: kn.sweep_gradients(m, PROMPT, [kn.Intervention((), wrt=x)], kn.probability(5)),
        ["blocks.1.hook_resid_post", ["blocks.1.hook_resid_post"], [3]],
    ),
    "sweep metric": (lambda m, a, x: kn.sweep(m, PROMPT, [[]], metric=x), [*METRICS, lambda logits: 3.0]),
    "sweep pos": (lambda m, a, x: kn.sweep(m, PROMPT, [[]], pos=x), [99, 1.5, "1"]),
    "probability": (lambda m, a, x: kn.sweep(m, PROMPT, [[]], metric=kn.probability(x)), IDS),
    "log_probability": (lambda m, a, x: kn.sweep(m, PROMPT, [[]], metric=kn.log_probability(x)), IDS),
    "logit_difference": (lambda m, a, x: kn.sweep(m, PROMPT, [[]], metric=kn.logit_difference(3, x)), IDS),
    "kl_divergence": (lambda m, a, x: kn.sweep(m, PROMPT, [[]], metric=kn.kl_divergence(x)), ["x", 3, None, VECTOR]),
    "encode": (lambda m, a, x: kn.encode(m, x), [*PROMPTS, TEXT]),
    "Neuron": (lambda m, a, x: kn.Neuron(x, 5), [-1, 1.5, "1", None]),
    "load": (lambda m, a, x: kn.load(x), [3, None, "no such file", PROMPT]),
    "save": (lambda m, a, x: a.save(x), [3, None, "."]),
    "trace_panels": (lambda m, a, x: kn.plots.trace_panels(x), [None, torch.ones(2, 3), [torch.ones(2, 3)]]),
    "neuron_heatmap": (lambda m, a, x: kn.plots.neuron_heatmap(x), SCORES[:4]),
    "heatmap": (lambda m, a, x: kn.plots.heatmap(x), SCORES),
}


@pytest.fixture(autouse=True)
def without_type_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user's installation does: the types of the signatures are not checked."""
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)


def is_ours(error: BaseException) -> bool:
    """Was it raised by kntools, and not by Python or torch from inside of it?"""
    last = traceback.extract_tb(error.__traceback__)[-1]
    lines = (last.line or "").strip()
    return "/kntools/" in last.filename and lines.startswith("raise") and len(str(error)) > 12


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_input_says_what_to_type(name: str, model: Any, att: kn.Attribution) -> None:
    call, wrong = CALLS[name]
    for given in wrong:
        with pytest.raises(ERRORS) as caught:
            call(model, att, given)
        assert is_ours(caught.value), (given, caught.getrepr(style="short"))


@pytest.mark.parametrize("given", [None, "smollm2-135m", PROMPT, 3])
def test_what_is_no_model_is_said(given: Any, att: kn.Attribution) -> None:
    calls: list[Callable[[], Any]] = [
        *(
            lambda f=f: f(given, PROMPT)  # type: ignore[misc]
            for f in (kn.integrated_gradients, kn.activation, kn.direct_logit_attribution, kn.encode, kn.generate)
        ),
        lambda: kn.sweep(given, PROMPT, [[]]),
        lambda: kn.neuron_scan(given, PROMPT, layers=1),
        lambda: kn.neuron_card(given, "L1.N5"),
        lambda: kn.faithfulness(given, PROMPT, att),
        lambda: kn.activation_patch(given, PROMPT, OTHER),
        lambda: kn.causal_trace(given, PROMPT),
        lambda: kn.rome(given, PROMPT, " cat", layer=1),
        lambda: kn.emmet(given, PROMPT, " cat", layers=1),
        lambda: kn.fine_tune(given, PROMPT, " cat", layer=1),
        lambda: kn.erase_values(given, "L1.N5"),
        lambda: kn.second_moment(given, 1, [TEXT]),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="load_model"):
            call()


def test_a_model_of_transformers_is_said(model: Any) -> None:
    with pytest.raises(TypeError, match="load_model"):
        kn.integrated_gradients(model.original_model, PROMPT)


def test_what_can_mean_one_thing_is_taken(model: Any, att: kn.Attribution) -> None:
    same = [
        [kn.ablate_neurons(x) for x in ("L1.N5", ["L1.N5"], (1, 5), [[1, 5]], kn.Neuron(1, 5), torch.tensor([[1, 5]]))],
        [kn.ablate_heads(x) for x in ("L1.H0", ["L1.H0"], (1, 0))],
        [kn.add_vector(*x) for x in (("resid_post", 1, VECTOR), (1, "resid_post", VECTOR.numpy()))]
        + [kn.add_vector("resid_post", np.int64(1), VECTOR.tolist())],
        [kn.scale_site("z", 1, 0.5), kn.scale_site(1, "z", 0.5)],  # type: ignore[arg-type]
    ]
    for several in same:
        first, *others = (run(model, hooks) for hooks in several)
        assert all(torch.equal(first, other) for other in others)
    seen: list[dict[str, Any]] = [{}, {}, {}]
    for into, (sites, layers) in zip(seen, ((["z"], [1]), ("z", 1), (1, "z")), strict=True):
        run(model, kn.capture(sites, layers, into))
    assert all(torch.equal(into["blocks.1.attn.hook_z"], seen[0]["blocks.1.attn.hook_z"]) for into in seen)
    assert len(kn.knowledge_neurons(att, threshold=0.9, target_count=1)) == 1
    assert kn.knowledge_neurons(att.scores.tolist()).neurons == kn.knowledge_neurons(att).neurons
    ids = kn.encode(model, PROMPT).target_ids
    for given in (ids[0], ids, list(ids), torch.tensor(ids[0]), np.int64(ids[0])):
        assert run_metric(model, kn.probability(given)) == pytest.approx(float(att.probability[0]), abs=1e-6)


def run_metric(model: Any, metric: Any) -> float:
    return float(kn.sweep(model, PROMPT, [[]], metric=metric))


def test_a_name_that_is_nearly_right_is_offered() -> None:
    with pytest.raises(AttributeError, match="integrated_gradients"):
        kn.integrated_gradient  # noqa: B018


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
    "a group twice": (_twice, "is given twice and would count twice"),
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
        lambda m: layer_choice.sweep_layers(m, [], [1], second_moments={"1": None}),
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
