"""Every hook factory against loops over tensors, inside a run of TransformerLens and inside a sweep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import kntools as kn
from kntools.engine.plan import Intervention
from kntools.sites import hook_name
from tests import zoo
from tests.loop import tokens_for

NAMES = ["llama", "gpt2", "bert"]
POSITIONS: list[Any] = [-1, 0, 2, [1, -2], range(1, 4), slice(1, None, 2), None]
LAYERS, WIDTH = 2, 48
VECTOR = torch.linspace(-2, 2, zoo.D_MODEL)
MEAN = torch.linspace(-1, 1, LAYERS * WIDTH).view(LAYERS, WIDTH)

OTHERS = torch.randn(5, LAYERS, WIDTH, generator=torch.Generator().manual_seed(1))
DRAWN = int(torch.randint(5, (), generator=torch.Generator().manual_seed(4)))


def at(pos: Any, length: int) -> list[int]:
    """Positions as Python's own indexing gives them."""
    every = list(range(length))
    if pos is None or isinstance(pos, slice):
        return every[pos] if pos else every
    return [every[p] for p in ([pos] if isinstance(pos, int) else pos)]


def three_prompts(model: Any) -> Tensor:
    """A batch of three different prompts, `[3 pos]`."""
    ids = tokens_for(model).expand(3, -1).clone()
    ids[1, 2], ids[2, 3] = ids[0, 3], ids[0, 2]
    return ids


def observe(model: Any, tokens: Tensor, hooks: list[kn.Hook], name: str) -> tuple[Tensor, Tensor]:
    """The activation at `name` before and after `hooks`; the one that came in must not have been written to."""
    seen: list[Tensor] = []

    def look(x: Tensor, hook: Any) -> None:
        seen.extend([x, x.detach().clone()])

    with torch.no_grad():
        model.run_with_hooks(tokens, fwd_hooks=[(name, look), *hooks, (name, look)])
    itself, before, _, after = seen
    assert torch.equal(itself, before), "a hook wrote into the activation that it was given"
    assert after.dtype == before.dtype and after.device == before.device
    return before, after


@dataclass
class Case:
    """A factory called with `pos`, and what it does to the vector at one position."""

    label: str
    site: str
    make: Callable[[Any], list[kn.Hook]]
    expected: Callable[[Tensor], Tensor]


def with_entries(x: Tensor, new: dict[int, Any]) -> Tensor:
    """A copy of a vector with some entries replaced (or computed from the old ones)."""
    out = x.clone()
    for i, value in new.items():
        out[i] = value(x[i]) if callable(value) else value
    return out


POST, SOME = "mlp.hook_post", [(1, 3), kn.Neuron(1, 40)]
CASES = [
    Case("scale", POST, lambda p: kn.scale_neurons(SOME, -0.5, pos=p),
         lambda x: with_entries(x, {3: lambda v: v * -0.5, 40: lambda v: v * -0.5})),
    Case("ablate", POST, lambda p: kn.ablate_neurons(SOME, pos=p), lambda x: with_entries(x, {3: 0, 40: 0})),
    Case("enhance", POST, lambda p: kn.enhance_neurons([(1, 7)], pos=p),
         lambda x: with_entries(x, {7: lambda v: v + v})),
    Case("set all", POST, lambda p: kn.set_neurons(SOME, 1.5, pos=p),
         lambda x: with_entries(x, {3: 1.5, 40: 1.5})),
    Case("set each", POST, lambda p: kn.set_neurons(SOME, [1.5, -3.0], pos=p),
         lambda x: with_entries(x, {3: 1.5, 40: -3.0})),
    Case("mean", POST, lambda p: kn.mean_ablate_neurons(SOME, MEAN, pos=p),
         lambda x: with_entries(x, {3: MEAN[1, 3], 40: MEAN[1, 40]})),
    Case("scale site", "resid_post", lambda p: kn.scale_site("resid_post", 1, 0.25, pos=p), lambda x: x * 0.25),
    Case("scale z", "z", lambda p: kn.scale_site("z", 1, 2.0, pos=p), lambda x: x + x),
    Case("scale pattern", "pattern", lambda p: kn.scale_site("pattern", 1, 0.5, pos=p), lambda x: x / 2),
    Case("heads", "z", lambda p: kn.scale_heads([(1, 2), "L1.H0"], -0.5, pos=p),
         lambda x: with_entries(x, {0: lambda v: v * -0.5, 2: lambda v: v * -0.5})),
    Case("no heads", "z", lambda p: kn.ablate_heads([(1, 3)], pos=p), lambda x: with_entries(x, {3: 0})),
    Case("heads of a pattern", "pattern", lambda p: kn.scale_heads([(1, 1)], 3.0, site="pattern", pos=p),
         lambda x: with_entries(x, {1: lambda v: v * 3})),
    Case("resample", POST, lambda p: kn.resample_neurons(SOME, OTHERS, seed=4, pos=p),
         lambda x: with_entries(x, {3: OTHERS[DRAWN, 1, 3], 40: OTHERS[DRAWN, 1, 40]})),
    Case("add", "attn_out", lambda p: kn.add_vector("attn_out", 1, VECTOR, p, scale=0.5),
         lambda x: x + 0.5 * VECTOR.to(x)),
]  # fmt: skip
BY_LABEL = pytest.mark.parametrize("case", CASES, ids=lambda c: c.label)


@pytest.mark.parametrize("pos", POSITIONS, ids=str)
@BY_LABEL
@pytest.mark.parametrize("name", [*NAMES, "bfloat16"])
def test_right_values_at_right_positions(name: str, case: Case, pos: Any) -> None:
    model = zoo.tiny("llama", torch.bfloat16) if name == "bfloat16" else zoo.tiny(name)
    point = hook_name(case.site, 1)
    before, after = observe(model, three_prompts(model), case.make(pos), point)
    axis = 2 if case.site == "pattern" else 1
    expected = before.movedim(axis, 1).clone()
    for row in range(3):
        for p in at(pos, expected.shape[1]):
            expected[row, p] = case.expected(expected[row, p].clone())
    torch.testing.assert_close(after, expected.movedim(1, axis))  # also the same dtype


@pytest.mark.parametrize("name", NAMES)
def test_the_same_in_a_sweep(name: str) -> None:
    model = zoo.tiny(name)
    tokens = tokens_for(model)
    _, cache = model.run_with_cache(three_prompts(model)[1:2])
    runs = [case.make(pos) for case in CASES for pos in POSITIONS]
    runs += [kn.patch(cache, site, 1, pos) for site in ("z", "q", "k", "v", "pattern") for pos in (2, None)]
    runs += [kn.patch(cache, "z", 1, heads=[1, 3]), kn.patch(cache, POST, 1, 2, neurons=[5])]
    runs += [kn.freeze(cache, ["mlp_out", "attn_out"], [1, 2]), kn.corrupt([1, 2], 0.1 * torch.ones(2, 32))]
    runs.append(kn.add_vector("resid_pre", 2, VECTOR, 1) + kn.ablate_neurons(SOME, pos=-1) + kn.patch(cache, "v", 2, 2))
    with torch.no_grad():
        one_by_one = torch.cat([model.run_with_hooks(tokens, fwd_hooks=hooks)[:, -1] for hooks in runs])
    ours = kn.sweep(model, tokens, runs, pos=-1)
    torch.testing.assert_close(ours.softmax(-1), one_by_one.softmax(-1), atol=1e-5, rtol=0)


def test_a_factor_per_row() -> None:
    model = zoo.tiny("gpt2")
    hooks = kn.scale_site("mlp_out", 0, torch.tensor([0.5, 0.0, 2.0]), pos=2)
    before, after = observe(model, three_prompts(model), hooks, "blocks.0.hook_mlp_out")
    expected = before.clone()
    for row, factor in enumerate([0.5, 0.0, 2.0]):
        expected[row, 2] *= factor
    torch.testing.assert_close(after, expected)
    rows = kn.sweep(model, tokens_for(model), [Intervention(hooks, rows=3)])
    with torch.no_grad():
        expected = model.run_with_hooks(tokens_for(model).expand(3, -1), fwd_hooks=hooks)[:, -1]
    torch.testing.assert_close(rows.softmax(-1), expected.softmax(-1), atol=1e-5, rtol=0)


def test_a_scale_per_row() -> None:
    model, scales = zoo.tiny("gpt2"), torch.tensor([0.5, 0.0, -2.0])
    hooks = kn.add_vector("mlp_out", 0, VECTOR, 2, scale=scales)
    before, after = observe(model, three_prompts(model), hooks, "blocks.0.hook_mlp_out")
    expected = before.clone()
    for row, scale in enumerate(scales):
        expected[row, 2] += scale * VECTOR
    torch.testing.assert_close(after, expected)
    rows = kn.sweep(model, tokens_for(model), [Intervention(hooks, rows=3)])
    with torch.no_grad():
        expected = model.run_with_hooks(tokens_for(model).expand(3, -1), fwd_hooks=hooks)[:, -1]
    torch.testing.assert_close(rows.softmax(-1), expected.softmax(-1), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=r"3 scales for a batch of 1 rows.*Intervention\(hooks, rows="):
        kn.sweep(model, tokens_for(model), [hooks])


def test_the_order_of_arguments() -> None:
    """Site and layer first; another order is taken where it is unambiguous."""
    model = zoo.tiny("llama")
    _, cache = model.run_with_cache(three_prompts(model)[1:2])
    same = [
        (kn.patch("z", 1, cache, 2), kn.patch(cache, "z", 1, 2), kn.patch(1, "z", cache, pos=2)),
        (kn.freeze(["z"], [1], cache), kn.freeze(cache, ["z"], [1]), kn.freeze([1], ["z"], cache)),
        (kn.scale_site("mlp_out", 1, 0.5), kn.scale_site(1, "mlp_out", 0.5)),
        (kn.add_vector("mlp_out", 1, VECTOR, -1), kn.add_vector(1, "mlp_out", VECTOR, -1)),  # type: ignore[arg-type] # swapped
        (
            kn.ablate_neurons([(1, 3)]),
            kn.ablate_neurons("L1.N3"),
            kn.ablate_neurons((1, 3)),
            kn.ablate_neurons(["L1.N3"]),
        ),
        (kn.ablate_heads([(1, 3)]), kn.ablate_heads("L1.H3"), kn.ablate_heads((1, 3)), kn.ablate_heads(["L1.H3"])),
    ]
    for first, *others in same:
        rows = kn.sweep(model, tokens_for(model), [first, *others])
        torch.testing.assert_close(rows[1:], rows[:1].expand(len(others), -1), atol=1e-5, rtol=1e-5)
    seen: list[dict[str, Tensor]] = [{}, {}, {}]
    captures = [kn.capture(["z"], [1], seen[0]), kn.capture(seen[1], ["z"], [1]), kn.capture([1], ["z"], seen[2])]
    kn.sweep(model, tokens_for(model), captures)
    assert all(torch.equal(s["blocks.1.attn.hook_z"], seen[0]["blocks.1.attn.hook_z"]) for s in seen)


def test_heads_that_do_not_exist() -> None:
    model = zoo.tiny("llama")
    for heads, error, said in (
        ([(1, 4)], IndexError, "head 4 does not exist"),
        ([(9, 0)], KeyError, "does not exist on this model"),
        (["L1"], TypeError, "'L5.H3'"),
        ([(-1, 0)], ValueError, "layer=-1"),
    ):
        with pytest.raises(error, match=said):
            kn.sweep(model, tokens_for(model), [kn.ablate_heads(heads)])  # type: ignore[arg-type] # wrong on purpose
    with pytest.raises(IndexError, match="head 2 does not exist"):  # grouped queries
        kn.sweep(model, tokens_for(model), [kn.ablate_heads([(1, 2)], site="k")])
    with pytest.raises(ValueError, match="has no heads"):
        kn.ablate_heads([(1, 0)], site="mlp_out")
    assert kn.ablate_heads([]) == []


def test_plus_composes_in_order() -> None:
    model = zoo.tiny("llama")
    hooks = kn.set_neurons([(1, 3)], 2.0, pos=-1) + kn.scale_neurons([(1, 3)], 3.0, pos=-1)
    hooks += kn.ablate_neurons(["L1.N4"], pos=0)
    _, after = observe(model, three_prompts(model), hooks, "blocks.1.mlp.hook_post")
    assert after[:, -1, 3].tolist() == [6.0, 6.0, 6.0] and after[:, 0, 4].tolist() == [0.0, 0.0, 0.0]
    assert kn.ablate_neurons([]) == [] and kn.set_neurons([], 1.0) == [] and kn.mean_ablate_neurons([], MEAN) == []


# --- patching, freezing, capturing, noise ---------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("site", ["resid_pre", "mlp_out", "z", "k", "pattern"])
@pytest.mark.parametrize("pos", [2, [0, -1], None], ids=str)
def test_patch_takes_the_other_runs_values(name: str, site: str, pos: Any) -> None:
    model, point = zoo.tiny(name), hook_name(site, 2)
    tokens = three_prompts(model)
    _, cache = model.run_with_cache(tokens[2:])
    axis = 2 if site == "pattern" else 1
    before, after = observe(model, tokens, kn.patch(cache, site, 2, pos), point)
    expected, source = before.movedim(axis, 1).clone(), cache[point].movedim(axis, 1)
    for p in at(pos, expected.shape[1]):
        expected[:, p] = source[0, p]
    assert torch.equal(after, expected.movedim(1, axis))


@pytest.mark.parametrize(
    ("site", "chosen"),
    [("z", {"heads": [0, 3]}), ("k", {"heads": [1]}), ("pattern", {"heads": [2]}), (POST, {"neurons": [5, 9]})],
)
def test_patch_some_heads_or_neurons(site: str, chosen: dict[str, list[int]]) -> None:
    model, point = zoo.tiny("llama"), hook_name(site, 1)
    tokens = three_prompts(model)
    _, cache = model.run_with_cache(tokens[1:2])
    before, after = observe(model, tokens, kn.patch(cache, site, 1, 3, **chosen), point)
    expected = before.clone()
    [indices] = chosen.values()
    for i in indices:
        if site == "pattern":  # [batch head query key]
            expected[:, i, 3] = cache[point][0, i, 3]
        else:
            expected[:, 3, i] = cache[point][0, 3, i]
    assert torch.equal(after, expected)


@pytest.mark.parametrize("name", NAMES)
def test_with_all_outputs_frozen_the_other_run_comes_out(name: str) -> None:
    """... at every token that is the same in both: its residual stream starts there, and gets the same additions."""
    model = zoo.tiny(name)
    tokens = three_prompts(model)
    logits, cache = model.run_with_cache(tokens[1:2])
    hooks = kn.freeze(cache, iter(["mlp_out", "attn_out"]), iter(range(model.cfg.n_layers)))
    with torch.no_grad():
        frozen = model.run_with_hooks(tokens[:1], fwd_hooks=hooks)
    same = [p for p in range(tokens.shape[1]) if p not in (2, 3)]
    torch.testing.assert_close(frozen[:, same], logits[:, same], atol=1e-4, rtol=1e-4)
    if name != "bert":  # where a layer's whole output is hook_mlp_out
        assert (frozen - logits)[:, 2].abs().max() > 0.1


@pytest.mark.parametrize("site", ["resid_post", "z", POST, "pattern"])
@pytest.mark.parametrize("name", NAMES)
def test_capture_copies_and_can_be_patched_back(name: str, site: str) -> None:
    model, point = zoo.tiny(name), hook_name(site, 1)
    tokens = three_prompts(model)
    for length in (4, tokens.shape[1]):  # with as many tokens as heads, swapped axes would go unnoticed
        logits, cache = model.run_with_cache(tokens[:, :length])
        seen: dict[str, Tensor] = {}
        same = model.run_with_hooks(tokens[:, :length], fwd_hooks=kn.capture(seen, [site], [0, 1]))
        assert torch.equal(same, logits) and set(seen) == {hook_name(site, 0), point}
        assert torch.equal(seen[point], cache[point]) and not seen[point].requires_grad
        source = {point: seen[point][1:2]}
        _, after = observe(model, tokens[:1, :length], kn.patch(source, site, 1), point)
        assert torch.equal(after, cache[point][1:2])
    if site != "pattern":
        model.run_with_hooks(tokens, fwd_hooks=kn.capture(seen, [site], [1], pos=[1, -1]))
        assert torch.equal(seen[point], cache[point][:, [1, -1]])


@pytest.mark.parametrize("name", NAMES)
def test_corrupt_adds_noise_to_the_span(name: str) -> None:
    model = zoo.tiny(name)
    noise = torch.arange(3 * 2 * 32).view(3, 2, 32) / 100
    for given in (noise[0], noise):
        before, after = observe(model, three_prompts(model), kn.corrupt([3, 1], given), "hook_embed")
        expected = before.clone()
        for row, sample in enumerate(given.expand(3, 2, 32)):
            expected[row, 3] += sample[0]
            expected[row, 1] += sample[1]
        torch.testing.assert_close(after, expected)


def test_float64_values_are_not_rounded() -> None:
    [(_, hook)] = kn.set_neurons([(0, 1)], [1 / 3], pos=-1)
    point = zoo.tiny("gpt2").blocks[0].mlp.hook_post
    assert hook(torch.zeros(1, 2, 4, dtype=torch.float64), hook=point)[0, -1, 1].item() == 1 / 3
