"""Rank-one edits: the algebra, the value optimisation against a plain loop, and what goes wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import kntools as kn
from kntools.editing.rome_rows import ESSENCE
from kntools.editing.rome_settings import TEMPLATES, RomeSettings, layer_for
from kntools.models import adapter
from kntools.models.gradients import with_gradients
from kntools.sites import hook_name
from tests import zoo

PROMPT = kn.Prompt("The capital of Canada is", " Ottawa", subject="Canada")
TARGET = " Rome"
FEW = ("{}", "Yes, it is. {}", "{}", "The dog and the cat are near the table. {}")
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*in L[0-9]+. the"
)  # a random model knows nothing, and edits of it say so


def rome(
    model: Any,
    prompt: Any = PROMPT,
    target: Any = TARGET,
    *,
    layer: int = 1,
    second_moment: Any = None,
    **settings: Any,
) -> Any:
    return kn.rome(model, prompt, target, layer=layer, second_moment=second_moment, settings=RomeSettings(**settings))


def text_keys(model: Any, layer: int, seed: int = 0) -> kn.SecondMoment:
    generator = torch.Generator().manual_seed(seed)
    texts = [
        " ".join(zoo.SENTENCES[int(i)] for i in torch.randint(len(zoo.SENTENCES), (2,), generator=generator))
        for _ in range(30)
    ]
    return kn.second_moment(model, layer, texts)


# --- the plain loop ---------------------------------------------------------------------------------


class Plain:
    """SCIENCE as it is written: every template a forward and a backward pass of its own, over the whole text."""

    def __init__(self, model: Any, prompt: kn.Prompt, target: str, layer: int, templates: Sequence[str], bos: Any):
        self.model, self.layer = model, layer
        # The residual stream is added inside the MLP of BLOOM and MPT.
        inside = type(model.original_model).__name__ in ("BloomForCausalLM", "MptForCausalLM")
        self.site = "mlp.out.hook_out" if inside else "mlp.hook_out"

        def encoded(text: str, multi: Any) -> kn.Encoded:
            return kn.encode(model, kn.Prompt(text, target, prompt.subject, multi_token=multi), prepend_bos=bos)

        self.rows = [encoded(t.replace("{}", prompt.text), "sum") for t in templates]
        self.bare = encoded(prompt.text, "sum")
        self.essence = encoded(ESSENCE.replace("{}", str(prompt.subject)), "first")

    def logits(self, e: kn.Encoded, delta: Tensor) -> Tensor:
        def add(x: Tensor, hook: Any) -> Tensor:
            x = x.clone()
            x[0, e.subject[-1]] = x[0, e.subject[-1]] + delta.to(x.dtype)
            return x

        return self.model.run_with_hooks(e.tokens, fwd_hooks=[(hook_name(self.site, self.layer), add)])[0].float()

    def log_p(self, e: kn.Encoded, delta: Tensor) -> Tensor:
        log_p = self.logits(e, delta)[list(e.positions)].log_softmax(-1)
        return log_p[range(len(e.target_ids)), list(e.target_ids)].sum()

    def read(self, e: kn.Encoded, site: str) -> Tensor:
        _, cache = self.model.run_with_cache(e.tokens)
        return cache[hook_name(site, self.layer)][0, e.subject[-1]].detach().float()

    def run(self, steps: int = 20, lr: float = 0.5, decay: float = 0.5, clamp: float = 4.0, kl: float = 0.0625):
        v0 = self.read(self.bare, self.site)
        delta = torch.zeros_like(v0, requires_grad=True)
        adam = torch.optim.Adam([delta], lr=lr)
        at = self.essence.subject[-1]
        before = self.logits(self.essence, torch.zeros_like(v0))[at].log_softmax(-1).detach()
        curve = []
        for step in range(steps):
            nll = -torch.stack([self.log_p(e, delta) for e in self.rows]).mean()
            after = self.logits(self.essence, delta)[at].log_softmax(-1)
            loss = nll + kl * (after.exp() * (after - before)).sum() + decay * delta.norm() / v0.norm() ** 2
            curve.append((-float(nll.detach()), float(loss.detach())))
            if float(loss.detach()) < 0.05 or step == steps - 1:
                break
            adam.zero_grad()
            loss.backward(inputs=[delta])
            adam.step()
            with torch.no_grad():
                if delta.norm() > clamp * v0.norm():
                    delta.mul_(clamp * v0.norm() / delta.norm())
        keys = torch.stack([self.read(e, "mlp.hook_post") for e in self.rows])
        return delta.detach(), curve, keys.mean(0), self.read(self.bare, "mlp.hook_post")


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


# --- settings ---------------------------------------------------------------------------------------


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


# --- algebra ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("key", ["consistent", "published"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_algebra(name: str, key: Any, real: bool) -> None:
    model = zoo.tiny(name)
    c = text_keys(model, 2) if real else None
    edit = rome(model, layer=2, second_moment=c, key=key, steps=5, templates=FEW)
    old = adapter.w_out(model, 2).detach().clone()
    b = adapter.b_out(model, 2)
    with edit.applied(model):
        new = adapter.w_out(model, 2).detach().clone()
    k = edit.key if key == "consistent" else edit.prompt_key
    value = k @ new + (0 if b is None else b.detach())
    assert float((value - edit.value).norm() / edit.value.norm()) < 1e-4
    assert float((k @ new - k @ old).norm()) > 0.1
    change = (new - old).double()
    assert float((change - edit.delta).abs().max()) < 1e-6
    singular = torch.linalg.svdvals(edit.delta.double())
    assert singular[0] > 1e-3 and singular[1] < 1e-6 * singular[0]
    # Keys that are orthogonal to k in the metric of C^-1 are unchanged: those with k C^-1 x = 0.
    u = (
        edit.key.double()
        if c is None
        else torch.linalg.solve(c.matrix.double() + edit.ridge * torch.eye(zoo.D_MLP).double(), edit.key.double())
    )
    x = torch.randn(20, zoo.D_MLP, generator=torch.Generator().manual_seed(0)).double()
    orthogonal = x - (x @ u)[:, None] * u / (u @ u)
    assert float((orthogonal @ edit.delta.double()).abs().max()) < 1e-4 * float((x @ edit.delta.double()).abs().max())


def test_a_second_moment_protects_the_keys_it_was_measured_on() -> None:
    """What C is for: of all updates with k W' = v it changes those keys least (Meng et al. 2022, equation 1)."""
    model = zoo.tiny("llama")
    c = text_keys(model, 1)
    with_c, without = (rome(model, second_moment=m, steps=5) for m in (c, None))
    harm = [float((e.delta.T @ c.matrix @ e.delta).trace()) for e in (with_c, without)]
    assert harm[0] < 0.9 * harm[1]
    assert with_c.uses_second_moment and not without.uses_second_moment
    assert "C = I" in repr(without) and "C of L1" in repr(with_c) and "ridge" in with_c._repr_html_()


def test_the_edited_weights_do_what_the_hooks_and_the_diagnostics_say() -> None:
    model = zoo.tiny("gemma2")
    edit = rome(model)
    e = kn.encode(model, kn.Prompt(PROMPT.text, TARGET))
    hooked = kn.sweep(model, e.tokens, [edit.hooks(model)]).softmax(-1)[0]
    with edit.applied(model):
        weights = model(e.tokens)[0, -1].softmax(-1)
    torch.testing.assert_close(hooked, weights, atol=1e-5, rtol=1e-4)
    assert edit.after == pytest.approx(float(weights[e.target_ids[0]]), abs=1e-5)
    assert edit.before == pytest.approx(float(model(e.tokens)[0, -1].softmax(-1)[e.target_ids[0]]), abs=1e-5)
    assert edit.after > 1.5 * edit.before


def test_templates_are_shipped_given_or_written_by_the_model() -> None:
    model = zoo.tiny("llama")
    assert TEMPLATES[0] == "{}" and len(set(TEMPLATES)) == len(TEMPLATES) > 5
    shipped = rome(model, steps=2)
    assert shipped.provenance["settings"]["templates"] == list(TEMPLATES)
    drawn = [rome(model, steps=2, templates=4, seed=s).provenance["settings"]["templates"] for s in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and len(drawn[0]) == 4 and drawn[0][0] == "{}"


def test_warnings() -> None:
    model = zoo.tiny("llama")
    with pytest.warns(UserWarning, match="has not taken"):
        rome(model, layer=3, steps=2)
    edit = rome(model, steps=2)
    good = replace(edit, after=0.9, ridge=1e-6)
    assert edit.relative_norm < 0.5 < edit.key_cosine and good.warnings() == []
    turned = torch.roll(edit.prompt_key, 7)
    assert "If the subject opens the text" in replace(good, prompt_key=turned - edit.key).warnings()[0]
    assert "expect other facts to change" in replace(good, weight_norm=edit.weight_norm / 1e3).warnings()[0]
    assert "warning" in repr(edit) and "cosine" in repr(edit)


def test_save_and_load(tmp_path: Path) -> None:
    model = zoo.tiny("llama")
    edit = rome(model, second_moment=text_keys(model, 1), steps=3)
    again = kn.load(edit.save(tmp_path / "edit.safetensors"), kn.WeightEdit)
    assert isinstance(again, kn.RankOneEdit) and torch.equal(again.delta, edit.delta)
    assert again == edit and again.prompt == PROMPT and repr(again) == repr(edit)
    assert edit.to_frame().columns.tolist() == ["step", "loss", "target", "kl", "decay"] and len(edit.to_frame()) == 3
    with again.applied(model):
        assert not torch.equal(adapter.w_out(model, 1), adapter.w_out(zoo.tiny("gpt2"), 1))
