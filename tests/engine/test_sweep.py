"""A sweep is the plain loop, only faster: every architecture, every site, mixed positions, any hooks."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import kntools as kn
from kntools.engine import runner as runner_module
from kntools.engine.capability import capability
from kntools.engine.inputs import as_batch
from tests import zoo
from tests.loop import ALL, CAUSAL, gradient_by_loop, one_by_one, sites_of, tokens_for


def assert_equal_to_loop(model: Any, tokens: Tensor, interventions: list[Any], pos: int = -1) -> None:
    ours = kn.sweep(model, tokens, interventions, pos=pos).softmax(-1)
    theirs = one_by_one(model, tokens, interventions, pos=pos)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ALL)
def test_every_architecture_shares_its_passes(name: str) -> None:
    model = zoo.tiny(name)
    found = capability(model, tokens_for(model))
    assert found.fork
    assert found.prefix == (name in CAUSAL)


@pytest.mark.parametrize("name", ALL)
def test_sweep_equals_loop_at_every_site(name: str) -> None:
    model = zoo.tiny(name)
    tokens = tokens_for(model)
    last = model.cfg.n_layers - 1
    interventions = []
    for site in sites_of(name):
        for layer in range(last + 1):
            interventions += [
                kn.scale_site(site, layer, 0.3, pos=1),
                kn.scale_site(site, layer, 1.7, pos=-1) + kn.scale_site("resid_post", last, 0.5, pos=2),
                kn.scale_site(site, layer, 0.5, pos=None),
            ]
    interventions += [
        kn.ablate_neurons([(layer, n) for layer in range(last + 1) for n in range(0, 48, 3)], pos=p)
        for p in (0, -1, None)
    ]
    ours = kn.sweep(model, tokens, interventions, pos=-1).softmax(-1)
    theirs = one_by_one(model, tokens, interventions)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    clean = one_by_one(model, tokens, [[]])
    moved = (theirs - clean).abs().amax(-1)
    assert (moved > 1e-4).float().mean() > 0.5, "the interventions hardly do anything: the comparison is empty"


@pytest.mark.parametrize("name", ALL)
def test_hooks_of_your_own_anywhere(name: str) -> None:
    """Plain functions: outside the blocks, looking at all positions, several at one point, returning None."""
    model = zoo.tiny(name)
    tokens = tokens_for(model)

    def halve(x: Tensor, hook: Any) -> Tensor:
        return x * 0.5

    def reverse(x: Tensor, hook: Any) -> Tensor:
        return x.flip(1)

    def look(x: Tensor, hook: Any) -> None:
        assert x.shape[0] == 1

    interventions: list[Any] = [
        [],
        [("hook_embed", halve)],
        [("hook_embed", halve), ("blocks.1.hook_resid_post", reverse)],
        [("blocks.1.hook_resid_post", reverse), ("blocks.1.hook_resid_post", halve)],
        [("blocks.2.hook_resid_pre", look), ("blocks.0.attn.hook_z", halve)],
        [("unembed.hook_in", halve)],
        [("ln_final.hook_in", reverse)],
        [("unembed.hook_out", halve), ("blocks.0.mlp.hook_post", halve)],
    ]
    assert_equal_to_loop(model, tokens, interventions)
    assert_equal_to_loop(model, tokens, interventions[:-1], pos=2)


def test_shared_tensors_fall_back_to_the_loop() -> None:
    """Rotary tables have one row for the whole batch: an intervention on them cannot share a pass."""
    model = zoo.tiny("llama")
    tokens = tokens_for(model)
    twist = [("blocks.1.attn.hook_cos", lambda x, hook: x * 0.5)]
    assert_equal_to_loop(model, tokens, [twist, kn.scale_site("resid_post", 0, 0.5), twist])


HOOKS = st.builds(
    lambda site, layer, factor, pos: (site, layer, factor, pos),
    st.sampled_from(["resid_pre", "resid_post", "attn_out", "z", "q", "k", "v", "mlp_out", "mlp.hook_post"]),
    st.integers(0, 2),
    st.sampled_from([0.0, 0.5, 2.0]),
    st.one_of(st.none(), st.integers(-5, 4), st.lists(st.integers(0, 4), min_size=1, max_size=3, unique=True)),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    name=st.sampled_from(ALL),
    drawn=st.lists(st.lists(HOOKS, min_size=0, max_size=3), min_size=1, max_size=12),
    opaque=st.booleans(),
    pos=st.sampled_from([-1, 2]),
    max_rows=st.sampled_from([None, 1, 3]),
)
def test_any_interventions(name: str, drawn: list[Any], opaque: bool, pos: int, max_rows: int | None) -> None:
    model = zoo.tiny(name)
    tokens = tokens_for(model)
    interventions = [
        [h for site, layer, factor, at in hooks for h in kn.scale_site(site, layer, factor, pos=at)] for hooks in drawn
    ]
    if opaque:
        interventions.append([("blocks.1.hook_resid_post", lambda x, hook: x.roll(1, dims=1))])
    with kn.set_options(max_rows=max_rows):
        assert_equal_to_loop(model, tokens, interventions, pos=pos)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "opt", "bert"])
def test_prompts_of_equal_length_share_passes(name: str) -> None:
    model = zoo.tiny(name)
    each = [
        tokens_for(model, text)
        for text in ("The capital of Canada is", "The capital of Japan is", "The city of Paris is")
    ]
    tokens = torch.cat(each)
    hooks = [
        kn.scale_site("mlp.hook_post", 1, 0.0, pos=-1),
        kn.corrupt([1, 2], torch.ones(2, 32)),
        kn.scale_site("k", 0, 0.3, pos=1),
    ]
    given_ = [kn.Intervention(h, prompt=p) for p in (2, 0, 1) for h in hooks]
    ours = kn.sweep(model, tokens, given_, pos=-1).softmax(-1)
    theirs = torch.cat([one_by_one(model, each[p], hooks) for p in (2, 0, 1)])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_positions_asked_for(name: str) -> None:
    model = zoo.tiny(name)
    tokens = tokens_for(model)
    hooks = kn.scale_site("resid_post", 0, 0.5, pos=3)
    with torch.no_grad():
        whole = model.run_with_hooks(tokens, fwd_hooks=hooks)
    torch.testing.assert_close(kn.sweep(model, tokens, [hooks], pos=slice(None))[0], whole[0], atol=1e-4, rtol=1e-4)
    for pos in ([1, 4], [*reversed(range(tokens.shape[1]))]):
        torch.testing.assert_close(kn.sweep(model, tokens, [hooks], pos=pos)[0], whole[0, pos], atol=1e-4, rtol=1e-4)
    two = kn.sweep(
        model, tokens.repeat(2, 1), [kn.Intervention(hooks), kn.Intervention(hooks, prompt=1)], pos=[[4], [2]]
    )
    torch.testing.assert_close(two[:, 0], whole[0, [4, 2]], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["gemma2", "mistral", "phi3"])
def test_prompts_longer_than_a_sliding_window(name: str) -> None:
    """Gemma-2's is 16 tokens here, in every other layer: a kept beginning must not forget, nor attend, too much."""
    model = zoo.tiny(name)
    tokens = torch.randint(5, 50, (2, 25), generator=torch.Generator().manual_seed(0))
    hooks = [kn.scale_site("mlp.hook_post", layer, 0.3, pos=p) for layer in (0, 1) for p in (-1, 20, 3)]
    interventions = [kn.Intervention(h, prompt=n % 2) for n, h in enumerate(hooks)]
    ours = kn.sweep(model, tokens, interventions, pos=-1).softmax(-1)
    theirs = [one_by_one(model, tokens[n % 2 : n % 2 + 1], [h]) for n, h in enumerate(hooks)]
    torch.testing.assert_close(ours, torch.cat(theirs), atol=1e-5, rtol=0)


def test_hooks_that_treat_several_rows_at_once() -> None:
    model = zoo.tiny("llama")
    tokens = tokens_for(model)
    factors = torch.tensor([0.0, 0.5, 2.0])
    together = kn.sweep(
        model,
        tokens,
        [kn.Intervention(kn.scale_site("mlp_out", 1, factors), rows=3), kn.scale_site("z", 2, 0.0)],
    )
    apart = kn.sweep(
        model, tokens, [*[kn.scale_site("mlp_out", 1, float(f)) for f in factors], kn.scale_site("z", 2, 0.0)]
    )
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)


def test_metric_reduces_at_once() -> None:
    model = zoo.tiny("llama")
    tokens = tokens_for(model)
    hooks = [kn.scale_site("resid_post", layer, 0.5) for layer in range(4)]
    p = kn.sweep(model, tokens, hooks, metric=kn.probability(7))
    torch.testing.assert_close(p, one_by_one(model, tokens, hooks)[:, 7], atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="one value per row"):
        kn.sweep(model, tokens, hooks, metric=lambda logits: logits)
    with pytest.raises(FloatingPointError, match="float32"):
        kn.sweep(model, tokens, hooks, metric=lambda logits: logits[:, 0] * float("nan"))


def test_out_of_memory_halves_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.tiny("llama")
    tokens = tokens_for(model)
    hooks = [kn.scale_site("resid_post", layer, f) for layer in range(4) for f in (0.0, 0.5, 2.0)]
    expected = kn.sweep(model, tokens, hooks)
    sizes: list[int] = []

    class Small(runner_module.ForwardPass):
        def run(self) -> Any:
            sizes.append(len(self.items))
            if len(self.items) > 4:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().run()

    monkeypatch.setattr(runner_module, "ForwardPass", Small)
    torch.testing.assert_close(kn.sweep(model, tokens, hooks), expected, atol=1e-5, rtol=1e-5)
    assert sizes == [12, 6, 3, 3, 3, 3]


def test_a_model_that_cannot_fork_gives_the_same_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.fresh("llama")
    tokens = tokens_for(model)
    hooks = [kn.scale_site("resid_post", layer, 0.5, pos=2) for layer in range(4)]

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("this architecture notes its batch size elsewhere")

    monkeypatch.setattr("kntools.engine.capability.ForwardPass", broken)
    with pytest.warns(UserWarning, match="same numbers, but slower") as caught:
        assert_equal_to_loop(model, tokens, hooks)
        assert_equal_to_loop(model, tokens, hooks)
    assert len([w for w in caught if "slower" in str(w.message)]) == 1


def test_errors_say_what_to_type() -> None:
    model = zoo.tiny("llama")
    tokens = tokens_for(model)
    with pytest.raises(KeyError, match="it has layers 0 to 3"):
        kn.sweep(model, tokens, [[("blocks.9.hook_resid_post", lambda x, hook: x)]])
    with pytest.raises(RuntimeError, match="never fired"):
        kn.sweep(model, tokens, [[("blocks.1.attn.hook_result", lambda x, hook: x)]])
    with pytest.raises(IndexError, match="there are 1"):
        kn.sweep(model, tokens, [kn.Intervention((), prompt=1)])
    with pytest.raises(IndexError, match="out of range for 6 tokens"):
        kn.sweep(model, tokens, [kn.scale_site("z", 1, 0.0, pos=6)])
    with pytest.raises(IndexError, match="out of range"):
        kn.sweep(model, tokens, [[]], pos=9)
    with pytest.raises(ValueError, match="no interventions"):
        kn.sweep(model, tokens, [])
    with pytest.raises(ValueError, match="context holds"):
        kn.sweep(model, torch.ones(1, 99, dtype=torch.long), [[]])
    with pytest.raises(ValueError, match="max_rows"):
        kn.set_options(max_rows=0)
    with pytest.raises(ValueError, match="token ids"):
        as_batch(model, torch.zeros(1, 4))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_hook_returns_what_its_activation_is_like(dtype: torch.dtype, rows: int) -> None:
    """Put together with those of other runs, rows of another type would change the type of all."""
    model, early, name = zoo.fresh("llama", dtype), ("blocks.0.hook_mlp_out", -1), "blocks.1.hook_mlp_out"
    tokens = torch.arange(3, 9)[None]
    prompt = kn.Prompt("The capital of Canada is", " Ottawa")
    asks: list[Callable[[Any], Any]] = [
        lambda hook: kn.sweep(model, tokens, [*[[]] * (rows - 1), [hook]]),
        lambda hook: kn.sweep_gradients(
            model, prompt, [kn.Intervention([hook], wrt=[early])] * rows, lambda x: x[:, 5]
        ),
        lambda hook: kn.generate(model, ["The dog"] * rows, max_new_tokens=2, hooks=[hook]),
    ]
    other = torch.float32 if dtype == torch.bfloat16 else torch.float64
    wrong: dict[str, Callable[[Tensor], Any]] = {
        str(other): lambda x: x.to(other),
        r"\(1, 2, 32\)": lambda x: x[:, :2],
        r"\(32,\)": lambda x: x[0, 0],
        "on meta for .* on cpu": lambda x: x.to("meta"),
        "returned 3; return a tensor, or None": lambda x: 3,
    }
    for ask in asks:
        for says, edit in wrong.items():
            with pytest.raises((ValueError, TypeError), match=f"^the hook on '{name}'.*{says}"):
                ask((name, lambda x, hook, edit=edit: edit(x)))
        ask((name, lambda x, hook: None))
        ask((name, lambda x, hook: (x.to(other) * 1.5).to(x)))


# --- metrics and hooks as others write them -----------------------------------------------------------------


def against(clean: Tensor) -> dict[str, Any]:
    """Metrics written for TransformerLens, `[row pos d_vocab]`, some of which compare with logits `[1 d_vocab]`."""
    reference, direction = clean.log_softmax(-1), clean[0] / clean.norm()
    f = torch.nn.functional
    return {
        "kl": lambda x: f.kl_div(x[:, -1].log_softmax(-1), reference, reduction="none", log_target=True).sum(-1),
        "variation": lambda x: (x[:, -1].softmax(-1) - reference.exp()).abs().sum(-1) / 2,
        "distance": lambda x: (x[:, -1] - clean).norm(dim=-1),
        "cosine": lambda x: f.cosine_similarity(x[:, -1], clean),
        "einsum": lambda x: torch.einsum("bv,v->b", x[:, -1], direction),
        "highest": lambda x: x[:, -1].topk(5).values.sum(-1),
        "entropy": lambda x: -(x[:, -1].softmax(-1) * x[:, -1].log_softmax(-1)).sum(-1),
        "loss": lambda x: f.cross_entropy(x[:, -1], torch.full(x.shape[:1], 7), reduction="none"),
    }


@pytest.mark.parametrize("rows", [None, 1])
def test_metrics_of_transformer_lens_that_compare_with_a_reference(rows: int | None) -> None:
    model = zoo.tiny("llama")
    tokens, hooks = tokens_for(model), [kn.scale_site("mlp_out", n, 0.0, pos=p) for n in (0, 2) for p in (1, -1)]
    with torch.no_grad(), kn.set_options(max_rows=rows):
        for name, metric in against(model(tokens)[:, -1]).items():
            expected = torch.cat([metric(model.run_with_hooks(tokens, fwd_hooks=h)) for h in hooks])
            found = kn.sweep(model, tokens, hooks, metric=metric)
            torch.testing.assert_close(
                found, expected, atol=1e-4, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
            )


def test_metrics_that_go_through_the_rows() -> None:
    model = zoo.tiny("llama")
    tokens, hooks = tokens_for(model), [kn.scale_site("mlp_out", n, 0.0, pos=1) for n in (0, 2)]
    logits = kn.sweep(model, tokens, hooks)
    for count in (1, 2):
        found = kn.sweep(model, tokens, hooks[:count], metric=lambda x: torch.stack([r.softmax(0).max() for r in x]))
        torch.testing.assert_close(found, logits[:count].softmax(-1).amax(-1))


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_what_is_written_in_place_on_positions_stays_in_its_row(name: str) -> None:
    """The rows of a batch have one embedding of positions in memory."""
    model = zoo.tiny(name)

    def zero(place: int) -> list[kn.Hook]:
        def write(x: Tensor, hook: Any) -> Tensor:
            x[:, place] = 0
            return x

        return [("hook_pos_embed", write)]

    runs = [[], kn.scale_site("resid_post", 1, 0.5, pos=1), zero(1), zero(2), zero(3)]
    assert_equal_to_loop(model, tokens_for(model), runs)


def test_what_is_written_in_place_and_what_is_returned_at_a_norm() -> None:
    """A bridge goes on with another tensor that a hook returns, and not with what it writes in place."""
    model = zoo.tiny("llama")

    def half(x: Tensor, hook: Any) -> Tensor:
        x *= 0.5
        return x

    name = "blocks.1.ln1.hook_scale"
    assert_equal_to_loop(model, tokens_for(model), [[(name, half)], [(name, lambda x, hook: 0.9 * x)], []])


def test_a_hook_that_fires_before_its_rows_are_there() -> None:
    """OPT 350M widens the embedding after it: a hook point of the embedding by its place, not by its name."""
    options = {**zoo.RECIPES["opt"].options, "word_embed_proj_dim": 16, "do_layer_norm_before": False}
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(zoo.RECIPES, "opt", replace(zoo.RECIPES["opt"], options=options))
        model = zoo.fresh("opt")
    tokens, name = tokens_for(model), "project_in.hook_out"
    assert_equal_to_loop(model, tokens, [[(name, lambda x, hook: 0 * x)], []])
    [rows] = kn.sweep_gradients(model, tokens, [kn.Intervention([], wrt=[(name, -1)])], kn.log_probability(7))
    expected = gradient_by_loop(model, tokens, [], name, kn.log_probability(7))[:, -1:]
    torch.testing.assert_close(rows.wrt[name].gradient, expected, atol=1e-5, rtol=1e-4)


def test_a_forward_of_somebodys_class_sees_all_positions() -> None:
    model = zoo.fresh("llama")

    class LastOnly(type(model.original_model)):  # type: ignore[misc] # a class that is known at run time
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            out = super().forward(*args, **kwargs)
            out.logits = torch.cat([out.logits[:, :-1], out.logits[:, -1:].flip(-1)], 1)
            return out

    model.original_model.__class__ = LastOnly
    hooks = [kn.scale_site("resid_post", 1, 0.5, pos=1), []]
    for pos in (-1, 2):
        assert_equal_to_loop(model, tokens_for(model), hooks, pos=pos)


def test_two_threads_share_a_model() -> None:
    """A run waits for the one of another thread, whose hooks would act on it too."""
    model, name, began, done = zoo.fresh("gpt2"), "blocks.1.hook_mlp_out", Event(), Event()
    tokens = tokens_for(model)
    clean, scaled = kn.sweep(model, tokens, [[], [(name, lambda x, hook: 2 * x)]])

    def slow(x: Tensor, hook: Any) -> Tensor:
        began.set()
        done.wait(0.3)  # in vain, unless the other run does not wait
        return 2 * x

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(kn.sweep, model, tokens, [[(name, slow)]])
        assert began.wait(60)
        own = kn.sweep(model, tokens, [kn.scale_site("mlp_out", layer, 1.0, pos=1) for layer in range(3)])
        torch.testing.assert_close(own, clean.expand_as(own))
        done.set()
        torch.testing.assert_close(other.result()[0], scaled)
