"""As many passes of as many rows as there should be, and as many rows as the memory holds."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations, pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import kntools as kn
from kntools.engine import memory
from kntools.engine.capability import capability
from kntools.engine.from_layer import grouped, row_groups
from kntools.engine.memory import MOST_ROWS, rows_that_fit
from kntools.engine.plan import PASS_OVERHEAD, pass_overhead
from kntools.models import adapter
from kntools.models.causality import is_causal
from kntools.models.neuron_layers import neurons_of
from tests import zoo
from tests.loop import one_by_one, overridden, tokens_for


@contextmanager
def counted(model: Any, tokens: Tensor) -> Iterator[list[tuple[int, int]]]:
    """`(rows, positions)` that enter the last block in each forward pass; rows include the untouched one.

    What is asked about the model for runs as long as `tokens` is no part of the count.
    """
    shapes: list[tuple[int, int]] = []

    def note(forward: Any, *args: Any, **kwargs: Any) -> Any:
        x = args[0] if args else kwargs["hidden_states"]
        shapes.append((x.shape[0], x.shape[1]))
        return forward(*args, **kwargs)

    with overridden(model.blocks[model.cfg.n_layers - 1], note):
        capability(model, tokens), neurons_of(model), is_causal(model)
        shapes.clear()
        yield shapes


def passes(model: Any, tokens: Tensor, runs: list[Any], max_rows: int | None = None) -> list[tuple[int, int]]:
    with counted(model, tokens) as shapes, kn.set_options(max_rows=max_rows):
        kn.sweep(model, tokens, runs, pos=-1)
    return shapes


def scaled(count: int, pos: int, layer: int = 1) -> list[list[kn.Hook]]:
    return [kn.scale_site("mlp_out", layer, n / count, pos=pos) for n in range(count)]


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt"])
def test_late_interventions_share_a_pass_and_the_tokens_before_them(name: str) -> None:
    model = zoo.tiny(name)
    tokens = tokens_for(model)
    n = tokens.shape[1]
    kept, many = (1, n - 1), PASS_OVERHEAD // (n - 1) + 1  # rows that keeping the beginning is worth a pass for
    assert passes(model, tokens, scaled(many, -1)) == [kept, (many + 1, 1)]
    assert passes(model, tokens, scaled(many, 0)) == [(many + 1, n)]
    assert passes(model, tokens, scaled(many, -1), max_rows=many) == [kept, (many, 1), (2, 1)]
    assert passes(model, tokens, scaled(many, -1), max_rows=many + 1) == [kept, (many + 1, 1)]
    assert passes(model, tokens, scaled(many, -1), max_rows=1) == [(1, n)] * many


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt"])
def test_a_beginning_is_kept_where_that_saves_more_positions_than_a_pass_costs(name: str) -> None:
    model = zoo.tiny(name)
    tokens = tokens_for(model)
    n = tokens.shape[1]
    few = PASS_OVERHEAD // (n - 1)
    assert few * (n - 1) < PASS_OVERHEAD <= (few + 1) * (n - 1)
    assert passes(model, tokens, scaled(1, -1)) == [(2, n)]
    assert passes(model, tokens, scaled(few, -1)) == [(few + 1, n)]
    assert passes(model, tokens, scaled(few, -1), max_rows=2) == [(2, n)] * few
    assert passes(model, tokens, scaled(few + 1, -1)) == [(1, n - 1), (few + 2, 1)]


def test_beginnings_are_kept_once_for_all_positions_and_prompts() -> None:
    """Those of a longer beginning hold those of a shorter one; not more prompts are run at once than rows may be."""
    model = zoo.tiny("llama")
    tokens = tokens_for(model)
    n, two = tokens.shape[1], torch.cat([tokens, tokens.roll(1, dims=1)])
    many = [[kn.Intervention(h, prompt=p) for h in scaled(PASS_OVERHEAD, pos)] for p, pos in ((0, 2), (1, 4))]
    runs = [run for part in many for run in part]
    full = PASS_OVERHEAD + 1
    assert passes(model, two, runs) == [(2, n - 1), (full, n - 2), (full, n - 4)]
    found = passes(model, two, runs, max_rows=PASS_OVERHEAD // 2 + 1)
    half = PASS_OVERHEAD // 2 + 1
    assert found == [(2, n - 1), *[(half, n - 2)] * 2, *[(half, n - 4)] * 2]
    three = torch.cat([two, tokens.roll(2, dims=1)])
    last = [kn.Intervention(h, prompt=2) for h in scaled(1, -1)]
    assert passes(model, three, [*runs, *last], max_rows=2)[:3] == [(2, n - 1), (1, n - 1), (2, n - 2)]
    expected = torch.cat([one_by_one(model, two[r.prompt][None], [r.hooks]) for r in runs])
    torch.testing.assert_close(kn.sweep(model, two, runs, pos=-1).softmax(-1), expected, atol=1e-5, rtol=0)


def test_beginnings_of_many_prompts_are_not_kept_for_few_of_them() -> None:
    model = zoo.tiny("llama")
    tokens = tokens_for(model)
    n, many = tokens.shape[1], torch.cat([tokens[:, :1].expand(100, 1), tokens[:, 1:] - torch.arange(100)[:, None]], 1)
    runs = [kn.Intervention(h, prompt=3) for h in scaled(PASS_OVERHEAD, -1)]
    assert PASS_OVERHEAD < PASS_OVERHEAD * (n - 1) < 99 * (n - 1)
    assert passes(model, many, runs) == [(PASS_OVERHEAD + 1, n)]


def test_prompts_that_begin_alike_share_their_beginning() -> None:
    """100 prompts that differ in their last tokens alone: one row of what comes before, and one token of each."""
    model = zoo.tiny("llama")
    tokens = tokens_for(model)
    n, alike = tokens.shape[1], tokens.repeat(100, 1)
    alike[:, -1] = torch.arange(100, 200)
    runs = [kn.Intervention((), prompt=p) for p in range(100)]
    assert passes(model, alike, runs) == [(1, n - 1), (100, 1)]
    found = kn.sweep(model, alike, runs, pos=-1)
    torch.testing.assert_close(found, model(alike)[:, -1], atol=1e-4, rtol=1e-4)
    unembedded = list[int]()
    with overridden(model.unembed.hook_out, lambda forward, x: unembedded.append(len(x)) or forward(x)):
        kn.sweep(model, alike, runs, pos=-1)
    assert unembedded[-1] == 100, "and no logits of the untouched rows"
    two = torch.cat([alike[:50], alike[50:].roll(1, dims=1)])  # another order of rows than that of the prompts
    two = two[torch.randperm(100, generator=torch.Generator().manual_seed(0))]
    torch.testing.assert_close(kn.sweep(model, two, runs, pos=-1), model(two)[:, -1], atol=1e-4, rtol=1e-4)


def test_a_masked_model_runs_whole_prompts() -> None:
    model = zoo.tiny("bert")
    tokens = tokens_for(model)
    n = tokens.shape[1]
    assert passes(model, tokens, scaled(12, -1), max_rows=5) == [(5, n), (5, n), (5, n)]


def test_interventions_of_several_rows_are_never_split() -> None:
    model = zoo.tiny("llama")
    tokens = tokens_for(model)
    threes = [kn.Intervention(kn.scale_site("mlp_out", 1, torch.linspace(0, 1, 3), pos=0), rows=3)] * 4
    n = tokens.shape[1]
    assert passes(model, tokens, threes, max_rows=7) == [(7, n), (7, n)]
    assert passes(model, tokens, threes, max_rows=6) == [(4, n)] * 4
    assert passes(model, tokens, threes, max_rows=5) == [(4, n)] * 4
    assert passes(model, tokens, threes, max_rows=2) == [(4, n)] * 4


def test_a_pass_of_its_own_must_save_more_positions_than_it_costs() -> None:
    """A late group joins an early one where the tokens that it runs in vain cost less than another pass."""
    model = zoo.tiny("llama")
    tokens = tokens_for(model)
    n = tokens.shape[1]
    assert PASS_OVERHEAD % 4 == 0
    enough = PASS_OVERHEAD // 4  # rows that would run the four tokens before theirs in vain
    early = scaled(1, 0)
    assert passes(model, tokens, scaled(enough - 1, 4) + early) == [(enough + 1, n)]
    assert passes(model, tokens, scaled(enough, 4) + early) == [(2, n), (1, n - 1), (enough + 1, n - 4)]


def test_on_a_gpu_a_pass_of_its_own_must_save_far_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """There Python launches the operations of a pass one by one, however small they are."""
    model = zoo.tiny("llama")
    tokens = tokens_for(model)
    n, runs = tokens.shape[1], [*scaled(PASS_OVERHEAD, 4), *scaled(1, 0)]
    texts, starts = [tokens[0, :3], *[tokens[0]] * PASS_OVERHEAD], [0, *[n - 1] * PASS_OVERHEAD]
    assert len(passes(model, tokens, runs)) == 3 and len(row_groups(model, texts, starts, 1)) == 2
    with monkeypatch.context() as on_gpu:
        on_gpu.setattr(adapter, "device_of", lambda model: torch.device("cuda"))
        wide = SimpleNamespace(cfg=SimpleNamespace(d_model=8192), parameters=lambda: iter([torch.zeros(1)]))
        gpu = pass_overhead(model)
        assert gpu > pass_overhead(wide) == PASS_OVERHEAD  # a wide model keeps the GPU busy
        assert pass_overhead(zoo.tiny("llama", torch.bfloat16)) > gpu  # products of 16 bits take less time
    assert pass_overhead(model) == PASS_OVERHEAD
    monkeypatch.setattr("kntools.engine.plan.PASS_OVERHEAD", gpu)
    assert passes(model, tokens, runs) == [(PASS_OVERHEAD + 2, n)]
    assert len(row_groups(model, texts, starts, 1)) == 1


@pytest.mark.parametrize("most", [2, 7])
def test_groups_are_the_cheapest_cut_of_their_order(most: int) -> None:
    """Of all cuts, tried one by one: a late start with a short text follows early starts with long ones."""
    draw = random.Random(0)
    for _ in range(20):
        starts = [draw.randrange(4) for _ in range(7)]
        lengths = [start + draw.randrange(1, 8) for start in starts]
        order = sorted(range(7), key=lambda n: (starts[n], lengths[n]))

        def cost(parts: list[list[int]], starts: list[int] = starts, lengths: list[int] = lengths) -> int:
            windows = [max(lengths[n] for n in part) - min(starts[n] for n in part) for part in parts]
            return sum(2 + len(part) * window for part, window in zip(parts, windows, strict=True))

        cuts = [[0, *inner, 7] for count in range(7) for inner in combinations(range(1, 7), count)]
        every = [[order[a:b] for a, b in pairwise(cut)] for cut in cuts]
        allowed = [parts for parts in every if max(map(len, parts)) <= most]
        found = grouped(starts, lengths, most, 2)
        assert found in allowed and cost(found) == min(map(cost, allowed))


def test_an_attribution_baseline_is_one_pass_for_prompts_of_equal_length() -> None:
    model = zoo.tiny("llama")
    prompts = [kn.Prompt(f"The capital of {c} is", " Paris") for c in ("Canada", "France", "Japan")]
    tokens = kn.encode(model, prompts[0]).tokens
    n = tokens.shape[1]
    with counted(model, tokens) as shapes:
        kn.activation_x_gradient(model, prompts)
    # The prompts' beginnings, the prompts as they are (the metric's value), and the rows with gradients.
    assert shapes == [(3, n - 1), (6, 1), (6, 1)]


def test_an_attribution_is_one_pass_per_round() -> None:
    """Every token before the last is run once; a fixed rule is a row per node and one for P(0)."""
    model = zoo.tiny("llama")
    prompts = [kn.Prompt(f"The capital of {c} is", " Paris") for c in ("Canada", "France", "Japan")]
    tokens = kn.encode(model, prompts[0]).tokens
    n, layers = tokens.shape[1], model.cfg.n_layers
    with counted(model, tokens) as shapes:
        kn.integrated_gradients(model, prompts, rule="midpoint", steps=4)
    # Rows of the last block's own line join behind where rows are counted.
    assert shapes == [(3, n - 1), (6, 1), (3 + 3 * (layers - 1) * (4 + 1), 1)]
    with counted(model, tokens) as shapes:
        att = kn.integrated_gradients(model, prompts[0])
    # The prompt's beginning, the prompt as it is, then a pass per round, all of which hold what the result counts; but
    # the node at g = 1 is one row for all layers.
    assert shapes[:2] == [(1, n - 1), (2, 1)] and {positions for _, positions in shapes[2:]} == {1}
    of_the_last = int(att.nodes[0, -1])
    assert sum(rows - 1 for rows, _ in shapes[2:]) == int(att.nodes.sum()) - of_the_last - (layers - 1) + 1


def test_the_nodes_of_a_rule_are_divided_between_passes() -> None:
    model = zoo.tiny("llama")
    prompt = kn.Prompt("The capital of Canada is", " Paris")
    with counted(model, kn.encode(model, prompt).tokens) as shapes, kn.set_options(max_rows=20):
        kn.integrated_gradients(model, prompt, rule="midpoint", steps=100)
    assert max(rows for rows, _ in shapes) <= 20


def with_free_memory(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: count)


@pytest.mark.parametrize("gradients", [False, True])
def test_the_row_budget_is_a_power_of_two_that_grows_with_the_memory(
    monkeypatch: pytest.MonkeyPatch, gradients: bool
) -> None:
    model = zoo.tiny("llama")
    least: dict[int, int] = {}  # free memory at which so many rows first fit
    step = 5000
    for free in range(0, 40_000_000, step):
        with_free_memory(monkeypatch, free)
        rows = rows_that_fit(model, 6, gradients=gradients)
        assert rows >= max(least, default=1) and rows.bit_count() == 1
        least.setdefault(rows, free)
    assert least[1] == 0
    sizes = sorted(least)[1:6]
    assert sizes == [2, 4, 8, 16, 32]
    for rows in sizes:  # rounded down: twice as many rows need twice the memory
        assert least[rows] == pytest.approx(least[2] * rows / 2, abs=rows * step)
    with_free_memory(monkeypatch, 1 << 50)
    assert rows_that_fit(model, 6, gradients=gradients) == MOST_ROWS


def test_the_budget_is_half_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is all vocabulary: a row is its logits in float32, three times."""
    vocabulary = 10_000_000
    block = SimpleNamespace(mlp=SimpleNamespace(W_out=torch.zeros(1, 1)))
    model = SimpleNamespace(
        cfg=SimpleNamespace(n_layers=1, d_model=1, n_heads=1, d_vocab=vocabulary),
        blocks=[block],
        parameters=lambda: iter([torch.zeros(1)]),
    )
    row = 3 * 4 * vocabulary
    for rows, free in ((8, 8.01), (4, 7.99), (2, 2.01), (1, 1.99), (1, 0.5)):
        with_free_memory(monkeypatch, int(2 * row * free))
        for gradients in (False, True):
            assert rows_that_fit(model, 1, gradients=gradients) == rows


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "bert"])
def test_what_a_backward_pass_keeps_is_within_the_budget(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.tiny(name)
    tokens = tokens_for(model).repeat(1, 4)[:, :24]
    kept: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def note(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    def bytes_kept(rows: int) -> int:
        kept.clear()
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            hooks = [("blocks.0.hook_resid_pre", lambda x, hook: x.detach().requires_grad_())]
            out = model.run_with_hooks(tokens.repeat(rows, 1), fwd_hooks=hooks)
            out.softmax(-1).sum()
        return sum(kept.values())

    row = bytes_kept(9) - bytes_kept(8)
    free = 64 * 2 * row
    with_free_memory(monkeypatch, free)
    forward, backward = (rows_that_fit(model, tokens.shape[1], gradients=g) for g in (False, True))
    assert 8 <= backward <= 64 and backward <= forward, "what 64 rows keep fills half of the memory"


def test_a_sweep_keeps_to_the_budget_of_the_tokens_that_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.tiny("llama")
    tokens = tokens_for(model)
    n = tokens.shape[1]
    expected = {pos: kn.sweep(model, tokens, scaled(40, pos)) for pos in (0, -1)}
    free = next(f for f in range(0, 10**8, 10**4) if fits(monkeypatch, model, n, f) == 8)
    with_free_memory(monkeypatch, free)
    late = rows_that_fit(model, 1, gradients=False)
    assert 8 < late <= 32
    assert passes(model, tokens, scaled(40, 0)) == [*[(8, n)] * 5, (6, n)]
    assert passes(model, tokens, scaled(late, -1)) == [(1, n - 1), (late, 1), (2, 1)]
    # The longest window of a sweep decides for all of its passes.
    assert passes(model, tokens, scaled(40, -1) + scaled(40, 0)) == [
        *[(8, n)] * 5,
        (6, n),
        (1, n - 1),
        *[(8, 1)] * 5,
        (6, 1),
    ]
    for pos, logits in expected.items():
        torch.testing.assert_close(kn.sweep(model, tokens, scaled(40, pos)), logits, atol=1e-4, rtol=1e-4)
    # What is asked for goes before what would fit.
    assert passes(model, tokens, scaled(40, 0), max_rows=21) == [(21, n)] * 2


def fits(monkeypatch: pytest.MonkeyPatch, model: Any, positions: int, free: int) -> int:
    with_free_memory(monkeypatch, free)
    return rows_that_fit(model, positions, gradients=False)
