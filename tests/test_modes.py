"""Every public function under `torch.no_grad()`, `torch.inference_mode()` and a default dtype of float64.

It gives the same bytes as without; what needs gradients says that inference mode has none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import kntools as kn
from kntools.editing.planting import planted
from kntools.editing.rome_settings import RomeSettings
from kntools.models import adapter
from tests import zoo
from tests.leaks import nothing_leaks

PROMPT = kn.Prompt("The capital of Canada is", " Ottawa", subject="Canada")
OTHER = kn.Prompt("The capital of Japan is", " Tokyo", subject="Japan")
MASKED = kn.Prompt("The capital of Canada is [MASK].", "Ottawa", subject="Canada")
FEW = RomeSettings(steps=2, templates=("{}",))
TEXTS = zoo.SENTENCES * 3


def edit(model: Any) -> Any:
    return kn.rome(model, PROMPT, " Rome", layer=1, settings=FEW)


def moment(model: Any, layer: int = 1) -> Any:
    return kn.second_moment(model, layer, TEXTS)


def plant(model: Any) -> Any:
    with planted(model, PROMPT, [(1, 3), (1, 5)], steps=2) as found:
        return found.probability, model(kn.encode(model, PROMPT).tokens).detach().clone()


def under(edit: Any, model: Any) -> Tensor:
    with edit.applied(model):
        return kn.sweep(model, PROMPT, [[]])


def panels(model: Any) -> list[list[Any]]:
    saved: dict[str, Tensor] = {}
    clean = kn.activation(model, [PROMPT, OTHER]).scores
    kn.sweep(model, PROMPT, [kn.capture("z", 1, saved)])
    return [
        kn.scale_neurons("L1.N5", 0.3),
        kn.enhance_neurons("L1.N5"),
        kn.scale_heads("L1.H1", 0.5),
        kn.scale_site("z", 1, 0.5),
        kn.set_neurons("L1.N5", 1.5),
        kn.mean_ablate_neurons("L1.N5", clean.mean(0)),
        kn.resample_neurons("L1.N5", clean),
        kn.ablate_heads("L1.H1"),
        kn.add_vector("resid_post", 1, torch.ones(32)),
        kn.patch("z", 1, saved, pos=-1),
        kn.freeze("z", 1, saved),
        kn.corrupt([1], torch.ones(1, 32)),
    ]


Call = Callable[[Any], Any]
CALLS: dict[str, Call] = {
    "encode": lambda m: kn.encode(m, PROMPT),
    "sweep": lambda m: kn.sweep(m, PROMPT, panels(m)),
    "sweep prompts": lambda m: kn.sweep(m, [PROMPT, OTHER], [kn.Intervention((), prompt=n) for n in (0, 1)]),
    "activation": lambda m: kn.activation(m, [PROMPT, OTHER]),
    "direct_logit_attribution": lambda m: kn.direct_logit_attribution(m, PROMPT),
    "log_probability_increase": lambda m: kn.log_probability_increase(m, PROMPT),
    "query_neurons": lambda m: kn.query_neurons(m, PROMPT),
    "neuron_scan": lambda m: kn.neuron_scan(m, PROMPT, layers=1),
    "neuron_scan mean": lambda m: kn.neuron_scan(m, [PROMPT, OTHER], ["L1.N5"], ablation="mean"),
    "knowledge_neurons": lambda m: kn.knowledge_neurons(kn.activation(m, PROMPT)),
    "faithfulness": lambda m: kn.faithfulness(m, PROMPT, kn.activation(m, PROMPT)),
    "neuron_card": lambda m: kn.neuron_card(m, "L1.N5", TEXTS),
    "activation_patch": lambda m: kn.activation_patch(m, PROMPT, OTHER, site="z"),
    "path_patch": lambda m: kn.path_patch(m, PROMPT, OTHER, sender="L0.H1", receiver="logits"),
    "causal_trace": lambda m: kn.causal_trace(m, PROMPT, samples=2, window=1),
    "causal_trace corrupted": lambda m: kn.causal_trace(m, PROMPT, corrupted=OTHER, window=1),
    "second_moment": moment,
    "edit_values": lambda m: kn.edit_values(m, "L1.N5", " Ottawa", " Rome"),
    "erase_values": lambda m: kn.erase_values(m, "L1.N5"),
    "applied": lambda m: under(kn.edit_values(m, "L1.N5", " Ottawa", " Rome"), m),
    "generate": lambda m: kn.generate(m, PROMPT, hooks=kn.ablate_neurons("L1.N5"), max_new_tokens=3),
    "generate drawn": lambda m: kn.generate(m, PROMPT.text, temperature=1.0, max_new_tokens=3),
    "metrics": lambda m: [
        kn.sweep(m, PROMPT, [[]], metric=metric)
        for metric in (kn.kl_divergence(torch.ones(m.cfg.d_vocab)), kn.log_probability(5), kn.logit_difference(5, 6))
    ],
}
WITH_GRADIENTS: dict[str, Call] = {
    "sweep_gradients": lambda m: kn.sweep_gradients(
        m, PROMPT, [kn.Intervention((), wrt=[("blocks.1.mlp.hook_post", -1)])], kn.probability(5)
    )[0].wrt["blocks.1.mlp.hook_post"].gradient,
    "integrated_gradients": lambda m: kn.integrated_gradients(m, PROMPT),
    "integrated_gradients fixed": lambda m: kn.integrated_gradients(m, [PROMPT, OTHER], rule="midpoint", steps=3),
    "activation_x_gradient": lambda m: kn.activation_x_gradient(m, PROMPT),
    "neuron_card of a prompt": lambda m: kn.neuron_card(m, "L1.N5", prompt=PROMPT),
    "attribution_patch": lambda m: kn.attribution_patch(m, PROMPT, OTHER, site="z"),
    "attribution_patch integrated": lambda m: kn.attribution_patch(m, PROMPT, OTHER, site="z", method="integrated"),
    "attribution_patch AtP*": lambda m: kn.attribution_patch(
        m, PROMPT, OTHER, site="z", heads=True, method="atp_star"
    ),
    "rome": edit,
    "rome with C": lambda m: kn.rome(m, PROMPT, " Rome", layer=1, settings=FEW, second_moment=moment(m)),
    "rome applied": lambda m: under(edit(m), m),
    "emmet": lambda m: kn.emmet(m, PROMPT, " Rome", layers=1, settings=FEW),
    "memit": lambda m: kn.memit(
        m, PROMPT, " Rome", layers=[1, 2], settings=FEW, second_moments={n: moment(m, n) for n in (1, 2)}
    ),
    "alpha_edit": lambda m: kn.alpha_edit(
        m, PROMPT, " Rome", layers=1, settings=FEW, second_moments={1: moment(m)}, threshold=2.0
    ),
    "fine_tune": lambda m: kn.fine_tune(m, PROMPT, " Rome", layer=1, steps=2),
    "planted": plant,
}  # fmt: skip
# They run no model, or load it (tests/models).
NO_RUN = {"coarse_sets", "load", "load_model", "r1_squared", "save_model"}


@contextmanager
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


MODES: dict[str, Callable[[], Any]] = {"no_grad": torch.no_grad, "inference": torch.inference_mode, "float64": float64}


def content(found: Any, folder: Path) -> Any:
    """What can be compared: of a result the file that `save` writes, of a tensor its bytes, shape and dtype."""
    if isinstance(found, tuple | list):
        return [content(part, folder) for part in found]
    if isinstance(found, Tensor):
        return found.dtype, found.shape, found.detach().numpy().tobytes()
    return found.save(folder / "found.safetensors").read_bytes() if isinstance(found, kn.Result) else found


@pytest.fixture(scope="module")
def model() -> Any:
    model = zoo.fresh("llama")
    model(kn.encode(model, PROMPT).tokens)  # a bridge attaches some hooks of its own in its first run
    return model


@pytest.mark.parametrize("name", CALLS | WITH_GRADIENTS)
def test_the_numbers_are_the_same(name: str, model: Any, tmp_path: Path) -> None:
    call = (CALLS | WITH_GRADIENTS)[name]
    expected = content(call(model), tmp_path)
    for mode, entered in MODES.items():
        with nothing_leaks(model), entered():
            if mode == "inference" and name in WITH_GRADIENTS:
                with pytest.raises(RuntimeError, match=r"inference_mode\(\) has no gradients.*no_grad"):
                    call(model)
            else:
                assert content(call(model), tmp_path) == expected, mode
    # ... and nothing that was learnt or kept there disturbs what comes after.
    assert content(call(model), tmp_path) == expected


@pytest.mark.parametrize("name", CALLS | WITH_GRADIENTS)
def test_another_default_device_is_an_error(name: str, model: Any) -> None:
    """Results, and the generators of random numbers, are on the CPU; tensors of the two do not mix."""
    with nothing_leaks(model), torch.device("meta"), pytest.raises(ValueError, match=r"set_default_device\(None\)"):
        (CALLS | WITH_GRADIENTS)[name](model)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["integrated_gradients", "activation", "sweep"])
def test_a_masked_model(name: str, mode: str, tmp_path: Path) -> None:
    call: Call = {
        "sweep": lambda m: kn.sweep(m, MASKED, [[], kn.ablate_neurons("L1.N5")]),
        "activation": lambda m: kn.activation(m, MASKED),
    }.get(name, lambda m: kn.integrated_gradients(m, MASKED))
    model = zoo.fresh("bert")
    expected = content(call(model), tmp_path)
    with MODES[mode]():
        if mode == "inference" and name == "integrated_gradients":
            with pytest.raises(RuntimeError, match="inference_mode"):
                call(model)
        else:
            assert content(call(model), tmp_path) == expected


def test_every_public_function_is_tried() -> None:
    functions = {name for name in kn.__all__ if type(getattr(kn, name)).__name__ == "function"}
    tried = set(re.findall(r"\bkn\.(\w+)\(", Path(__file__).read_text()))
    assert functions - tried == NO_RUN


def test_what_was_made_in_inference_mode_is_used_outside() -> None:
    model = zoo.fresh("llama")
    with torch.inference_mode():
        encoded, c = kn.encode(model, PROMPT), moment(model)
        scores, erased = kn.activation(model, [PROMPT, OTHER]).scores, kn.erase_values(model, "L1.N5")
        saved: dict[str, Tensor] = {}
        kn.sweep(model, PROMPT, [kn.capture("z", 1, saved)])
    att = kn.integrated_gradients(model, encoded)
    assert torch.equal(att.scores, kn.integrated_gradients(model, PROMPT).scores)
    expected = kn.rome(model, PROMPT, " Rome", layer=1, settings=FEW, second_moment=moment(model))
    found = kn.rome(model, encoded, " Rome", layer=1, settings=FEW, second_moment=c)
    assert torch.equal(found.delta, expected.delta)
    with erased.applied(model):
        kn.integrated_gradients(model, PROMPT)
    name = "blocks.2.mlp.hook_post"
    for hooks in (kn.mean_ablate_neurons("L1.N5", scores.mean(0)), kn.freeze("z", 1, saved)):
        kn.sweep_gradients(model, PROMPT, [kn.Intervention(hooks, wrt=[(name, -1)])], kn.probability(5))


def test_a_model_that_was_made_in_inference_mode() -> None:
    """It has no gradients, and says so; all else works, also edits of its weights."""
    expected = zoo.fresh("llama")
    with torch.inference_mode():
        model = zoo.fresh("llama")
        for module in model.modules():
            for name, parameter in list(module._parameters.items()):
                if parameter is not None:
                    module._parameters[name] = torch.nn.Parameter(parameter.detach().clone(), requires_grad=False)
    assert adapter.w_out(model, 1).is_inference()
    assert torch.equal(kn.activation(model, PROMPT).scores, kn.activation(expected, PROMPT).scores)
    erased = kn.erase_values(model, "L1.N5")
    assert torch.equal(under(erased, model), under(kn.erase_values(expected, "L1.N5"), expected))
    for call in (WITH_GRADIENTS["integrated_gradients"], edit, WITH_GRADIENTS["fine_tune"], plant):
        with pytest.raises(RuntimeError, match="made within torch"):
            call(model)
