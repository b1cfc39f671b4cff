"""What people give by mistake, at every public name: it is taken where it can mean one thing, else the error is ours.

An error is ours where a `raise` of kntools made it, in words; one of Python's own from inside is a failure here.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import kntools as kn
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
    "ablation": (
        lambda m, a, x: kn.neuron_scan(m, PROMPT, layers=1, ablation=x),
        ["zer", None, 3, np.zeros(2), np.full((4, 48), np.nan)],
    ),
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
    "kind": (lambda m, a, x: kn.causal_trace(m, PROMPT, kind=x), ["hiden", None, 3, np.zeros(2), ["mlp"]]),
    "samples": (lambda m, a, x: kn.causal_trace(m, PROMPT, samples=x), GIVEN),
    "seed": (lambda m, a, x: kn.causal_trace(m, PROMPT, samples=1, seed=x), [1.5, "x", None, 2**70]),
    "rome": (lambda m, a, x: kn.rome(m, x, " cat", layer=1), [*PROMPTS, TEXT]),
    "rome layer": (lambda m, a, x: kn.rome(m, PROMPT, " cat", layer=x), [*LAYERS, [1]]),
    "rome target": (lambda m, a, x: kn.rome(m, PROMPT, x, layer=1), [PROMPT, None, 5, "", [" cat"], "cat"]),
    "rome C": (lambda m, a, x: kn.rome(m, PROMPT, " cat", layer=1, second_moment=x), [torch.eye(48), "C.npz", [], 3]),
    "rome settings": (lambda m, a, x: kn.rome(m, PROMPT, " cat", layer=1, settings=x), ["x", {"lr": 1}, 3]),
    "emmet": (lambda m, a, x: kn.emmet(m, x, " cat", layers=1), [*PROMPTS, TEXT]),
    "emmet layers": (lambda m, a, x: kn.emmet(m, PROMPT, " cat", layers=x), [*LAYERS, []]),
    "memit C": (lambda m, a, x: kn.memit(m, PROMPT, " cat", layers=1, second_moments=x), [torch.eye(48), "C", 3, {}]),
    "alpha_edit C": (lambda m, a, x: kn.alpha_edit(m, PROMPT, " cat", layers=1, second_moments=x), ["C", 3, {}]),
    "alpha_edit threshold": (
        lambda m, a, x: kn.alpha_edit(
            m, PROMPT, " cat", layers=1, second_moments=kn.second_moment(m, 1, [TEXT]), threshold=x
        ),
        ["0.02", None, np.zeros(2), np.nan],
    ),
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
