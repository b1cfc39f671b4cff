"""Rank-one edits: the value optimisation against a plain loop, and what it depends on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import kntools as kn
from kntools.editing.rome_settings import TEMPLATES, RomeSettings, layer_for
from kntools.models import adapter
from kntools.models.attachment import with_gradients
from tests import zoo
from tests.plain_rome import FEW, PROMPT, TARGET, Plain, rome, text_keys

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*in L[0-9]+. the"
)  # a random model knows nothing, and edits of it say so


@pytest.mark.parametrize(
    ("name", "target", "templates", "bos"),
    [
        *((name, TARGET, FEW, None) for name in (*zoo.CAUSAL, "bloom", "mpt")),
        ("llama", " Ouagadougou", FEW, False),  # several pieces
        ("gpt2", TARGET, ("Yes, it is. {}",), True),  # the bare prompt is none of the templates
        ("llama", TARGET, TEMPLATES, None),
    ],
)
def test_the_value_is_that_of_the_plain_loop_at_every_step(name: str, target: str, templates: Any, bos: Any) -> None:
    model, steps = zoo.tiny(name), 6
    edit = rome(model, kn.encode(model, PROMPT, prepend_bos=bos), target, templates=templates, steps=steps)
    delta, curve, mean, own = with_gradients(model, lambda: Plain(model, PROMPT, target, 1, templates, bos).run(steps))
    assert len(edit.steps) == len(curve) == steps
    for ours, (log_p, loss) in zip(edit.steps, curve, strict=True):
        assert ours.log_probability == pytest.approx(log_p, abs=1e-4)
        assert ours.loss == pytest.approx(loss, abs=1e-4)
    torch.testing.assert_close(edit.key, mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(edit.prompt_key, own, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(edit.right * (mean @ edit.left), delta, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ["bloom", "mpt"])
def test_an_mlp_that_adds_the_residual_stream(name: str) -> None:
    """v0 is what the output matrix gives, and the edit as hooks is the edit of the weights."""
    model = zoo.fresh(name)
    body = model.original_model.transformer
    linear = body.h[1].mlp.dense_4h_to_h if name == "bloom" else body.blocks[1].ffn.down_proj
    seen: list[Tensor] = []
    e = kn.encode(model, PROMPT)
    handle = linear.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    model(e.tokens)
    handle.remove()
    v0 = seen[0][0, e.subject[-1]]
    edit = rome(model, PROMPT, templates=("{}",), steps=3, stop_loss=0.0)
    # |delta| of the second step is one step of Adam: `lr` in every entry, no longer than `clamp |v0|`.
    length = min(0.5 * len(v0) ** 0.5, 4.0 * float(v0.norm()))
    assert edit.steps[1].decay == pytest.approx(0.5 * length / float(v0.norm()) ** 2, rel=1e-3)
    torch.testing.assert_close(edit.value - edit.right * (edit.key @ edit.left), v0, atol=1e-3, rtol=1e-3)
    hooked = model.run_with_hooks(e.tokens, fwd_hooks=edit.hooks(model))
    with edit.applied(model):
        torch.testing.assert_close(model(e.tokens), hooked, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("max_rows", [None, 3])
def test_several_edits_together_are_those_made_alone(max_rows: int | None) -> None:
    model = zoo.tiny("llama")
    prompts = [
        PROMPT,
        kn.Prompt("The capital of Japan is", " Tokyo", subject="Japan"),
        kn.Prompt("The quick brown fox is", " x", subject="fox"),
    ]
    targets, c = [TARGET, " Ouagadougou", " Paris"], text_keys(model, 1)
    options: dict[str, Any] = {"second_moment": c, "templates": FEW, "steps": 8}
    alone = [rome(model, p, t, **options) for p, t in zip(prompts, targets, strict=True)]
    stop = alone[1].steps[4].loss + 1e-3  # the second one stops early
    options["stop_loss"] = stop
    alone = [rome(model, p, t, **options) for p, t in zip(prompts, targets, strict=True)]
    with kn.set_options(max_rows=max_rows):
        together = rome(model, prompts, targets, **options)
    assert len({len(edit.steps) for edit in together}) > 1
    for one, other in zip(together, alone, strict=True):
        assert [s.loss for s in one.steps] == pytest.approx([s.loss for s in other.steps], abs=1e-4)
        torch.testing.assert_close(one.delta, other.delta, atol=2e-3, rtol=2e-3)
        assert (one.before, one.after) == pytest.approx((other.before, other.after), abs=1e-5)
    assert [edit.prompt for edit in together] == prompts
    [only] = rome(model, prompts[:1], targets[:1], **options)
    assert torch.equal(only.delta, alone[0].delta)


def test_a_model_with_hooks_of_the_users_gives_the_plain_loop_too() -> None:
    """They may act on any position, so nothing is shared."""
    model = zoo.fresh("llama")
    model.hook_dict["blocks.0.hook_resid_post"].add_hook(lambda x, hook: x * 0.7, is_permanent=True)
    edit = rome(model, layer=2, templates=FEW, steps=4)
    _, curve, _, _ = with_gradients(model, lambda: Plain(model, PROMPT, TARGET, 2, FEW, None).run(4))
    assert [s.log_probability for s in edit.steps] == pytest.approx([c[0] for c in curve], abs=1e-4)


def test_n_steps_are_n_losses_and_stop_early() -> None:
    model = zoo.tiny("llama")
    whole = rome(model, steps=12, stop_loss=-1.0)
    assert len(whole.steps) == 12
    enough = whole.steps[7].loss + 1e-4
    stop = next(n for n, step in enumerate(whole.steps) if step.loss < enough)
    early = rome(model, steps=12, stop_loss=enough)
    assert early.steps == whole.steps[: stop + 1] and 2 < len(early.steps) < 12
    lines = {line.name: list(line.y) for line in early.plot().data}
    assert lines.pop("loss") == [step.loss for step in early.steps]
    assert [sum(parts) for parts in zip(*lines.values(), strict=True)] == pytest.approx(
        early.to_frame()["loss"].tolist()
    )
    # The step that stopped, and the last one of a run, only measure.
    few = rome(model, steps=len(early.steps), stop_loss=-1.0)
    torch.testing.assert_close(few.delta, early.delta)
    short = rome(model, templates=["{}"], clamp=0.25)
    change = short.right * (short.key @ short.left)
    assert float(change.norm()) == pytest.approx(0.25 * float((short.value - change).norm()), rel=1e-4)


@pytest.mark.parametrize("how", ["no_grad", "float64", "numpy"])
def test_the_edit_depends_on_nothing_around_it(how: str) -> None:
    model = zoo.fresh("llama")
    expected = rome(model, steps=4, templates=FEW)
    try:
        if how == "float64":
            torch.set_default_dtype(torch.float64)
        with torch.set_grad_enabled(how != "no_grad"):
            edit = rome(model, layer=np.int64(1) if how == "numpy" else 1, steps=4, templates=FEW)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(edit.delta, expected.delta) and edit.delta.dtype == torch.float32
    assert edit.steps == expected.steps and edit.after == expected.after


def test_inference_mode_is_refused() -> None:
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        rome(zoo.tiny("llama"))


def test_an_mlp_that_gives_nothing_has_no_scale() -> None:
    model = zoo.fresh("llama")
    with torch.no_grad():
        adapter.w_out(model, 1).zero_()
    with pytest.raises(ValueError, match="edit another layer"):
        rome(model)


def test_the_essence_does_not_depend_on_the_answer() -> None:
    """The answer of a sum is glued to "is a", behind which nothing is asked."""
    model = zoo.tiny("llama")
    edit = rome(model, kn.Prompt("3+3=", "6", subject="3+3"), "7", steps=2)
    assert edit.target == "7" and edit.before > 0


class Named:
    def __init__(self, name: str) -> None:
        self.cfg = SimpleNamespace(model_name=name, n_layers=48)


def test_published_settings() -> None:
    """SCIENCE 6."""
    for name, layer, steps, decay, clamp in (
        ("gpt2-medium", 8, 20, 0.5, 3),
        ("gpt2-large", 12, 20, 0.5, 4),
        ("openai-community/gpt2-xl", 17, 20, 0.5, 4),
        ("EleutherAI/gpt-j-6b", 5, 20, 0.5, 4),
        ("meta-llama/Llama-2-7b-hf", 5, 25, 1e-3, 4),
    ):
        found = RomeSettings.for_model(Named(name))
        assert (layer_for(Named(name)), found.steps, found.weight_decay, found.clamp) == (layer, steps, decay, clamp)
        assert (found.lr, found.kl_weight, found.stop_loss, found.key) == (0.5, 0.0625, 0.05, "consistent")
    model = zoo.tiny("llama")
    assert RomeSettings.for_model(model) == RomeSettings() and layer_for(model) == 1
    assert kn.rome(model, PROMPT, TARGET, layer=1).steps == rome(model).steps
