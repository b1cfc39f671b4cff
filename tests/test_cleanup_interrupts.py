"""Ctrl-C at every source line of the code that changes a model for a while: hooks, gradients, options, edits, bars."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformer_lens.hook_points import HookPoint

import kntools as kn
from kntools import options as options_module
from kntools import scopes
from kntools.editing import changes, fine_tuning, weight_edits
from kntools.engine import forward, from_layer, runner
from kntools.models import adapter, attachment, causality, modules, neuron_layers
from tests import zoo
from tests.leaks import PROMPTS
from tests.line_interrupts import interrupted_runs

CLEAN, _ = PROMPTS
ABLATION = kn.ablate_neurons([(1, 3)])
NOISE = kn.corrupt([1], torch.ones(1, 32))
CLEANUP = (adapter, attachment, options_module, scopes)
EDITING = (changes, weight_edits, scopes)


def scoped(model: Any) -> None:
    with edit_of(model).applied(model):
        pass


def edit_of(model: Any) -> kn.WeightEdit:
    return kn.erase_values(model, [(1, 3), (0, 5)])


def with_options(model: Any) -> None:
    with kn.set_options(max_rows=2):
        kn.sweep(model, CLEAN, [ABLATION, []])


def asked(model: Any) -> None:
    """What is learnt of a model once."""
    modules._asked.pop(model, None)
    kn.sweep(model, CLEAN, [ABLATION])


OPERATIONS: dict[str, tuple[tuple[Any, ...], Callable[[Any], Any]]] = {
    "sweep": ((*CLEANUP, from_layer), lambda m: kn.sweep(m, CLEAN, [ABLATION, kn.capture(["z"], [1], {})])),
    "gradients": (CLEANUP, lambda m: kn.activation_x_gradient(m, CLEAN)),
    "embedding": ((*CLEANUP, runner), lambda m: kn.sweep(m, CLEAN, [[]], embedding=[NOISE])),
    "second_moment": (CLEANUP, lambda m: kn.second_moment(m, 1, ["The quick brown fox", "jumps over the lazy dog"])),
    "generate": (CLEANUP, lambda m: kn.generate(m, CLEAN, max_new_tokens=2)),
    "fine_tune": ((fine_tuning, scopes), lambda m: kn.fine_tune(m, CLEAN, " Rome", layer=1, steps=2)),
    "plain": ((*CLEANUP, forward), lambda m: kn.sweep(m, CLEAN, [ABLATION])),
    "asked": ((causality, modules, neuron_layers, attachment, scopes), asked),
    "options": (CLEANUP, with_options),
    "edit": (EDITING, scoped),
}  # fmt: skip


def everything(model: Any, tokens: torch.Tensor) -> dict[str, Any]:
    points = {id(p): p for p in model.modules() if isinstance(p, HookPoint)}.values()
    return {
        "hooks": [(p.name, list(p._forward_hooks), [h.hook.id for h in p.fwd_hooks]) for p in points],
        "hooks of modules": [list(m._forward_hooks) for m in model.modules()],
        "requires_grad": [(p.requires_grad, p.grad is None) for p in model.parameters()],
        "weights": zoo.bits(model),
        "gradients": torch.is_grad_enabled(),
        "logits": model(tokens).detach().numpy().tobytes(),
        "options": options_module.options(),
        "bars": list(options_module._bars),
        "filters": list(warnings.filters),
        "random state": torch.random.get_rng_state().tolist(),
    }


@pytest.fixture(scope="module")
def models() -> list[Any]:
    """One without hooks, and one with a hook of the user's, where no pass is shared.

    Of two layers: they run thousands of times, and no line of a function is there for a third layer.
    """
    models = [zoo.fresh("llama", num_hidden_layers=2) for _ in range(2)]
    for model in models:
        for parameter in list(model.parameters())[::3]:
            parameter.requires_grad_(False)
    models[1].hook_dict["blocks.0.hook_resid_post"].add_hook(lambda x, hook: x * 0.7, is_permanent=True)
    return models


@pytest.mark.parametrize("name", OPERATIONS)
def test_nothing_is_left_behind(name: str, models: list[Any]) -> None:
    (modules, operation), model = OPERATIONS[name], models[name == "plain"]
    operation(model)
    tokens = kn.encode(model, CLEAN).tokens
    before, struck = everything(model, tokens), 0
    with kn.set_options(progress=False):
        for code, line in interrupted_runs({str(inspect.getsourcefile(m)) for m in modules}, lambda: operation(model)):
            after = everything(model, tokens)
            torch.set_grad_enabled(True)
            after["options"] = before["options"] if after["options"].max_rows is None else after["options"]
            changed = [what for what in before if after[what] != before[what]]
            assert not changed, f"{code.co_name}, line {line}"
            struck += 1
    assert struck > 20
