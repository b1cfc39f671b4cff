"""Faithfulness against a plain loop, and exact on a model with two neurons that know number."""

from pathlib import Path

import pytest
import torch

import kntools as kn
from tests import planted
from tests.zoo import tiny

PROMPTS = [
    kn.Prompt("The capital of Canada is", " Ottawa"),
    kn.Prompt("The capital of France is", " Paris"),
    kn.Prompt("Rome is the capital of", " Italy"),
]
SHARES = (0.0, 0.1, 0.5, 1.0)


@pytest.mark.parametrize("ablation", ["zero", "mean", "resample", "given"])
def test_curve_is_that_of_a_plain_loop(ablation: str) -> None:
    model = tiny("llama")
    layers, width = model.cfg.n_layers, model.cfg.d_mlp
    scores = torch.randn(3, layers, width, generator=torch.Generator().manual_seed(1))
    others = torch.linspace(-1, 1, layers * width).view(layers, width)
    given = others if ablation == "given" else ablation
    with kn.set_options(max_rows=5):
        curve = kn.faithfulness(model, PROMPTS, scores, shares=SHARES, ablation=given, metric="probability", draws=2)
    encoded = [kn.encode(model, p) for p in PROMPTS]
    names = [f"blocks.{n}.mlp.hook_post" for n in range(layers)]
    runs = [model.run_with_cache(e.tokens)[1] for e in encoded]
    own = torch.stack([torch.stack([cache[name][0, -1] for name in names]) for cache in runs]).detach()
    base = {
        "zero": torch.zeros_like(own),
        "mean": own.mean(0).expand_as(own),
        "resample": own[[1, 2, 0]],
        "given": others.expand_as(own),
    }[ablation]
    order = scores.mean(0).flatten().argsort(descending=True)

    def probability(number: int, kept: torch.Tensor) -> float:
        def keep(x: torch.Tensor, hook: object, layer: int) -> torch.Tensor:
            x = x.clone()
            x[0, -1] = torch.where(kept[layer], x[0, -1], base[number, layer])
            return x

        hooks = [(name, lambda x, hook, n=n: keep(x, hook, n)) for n, name in enumerate(names)]
        with torch.no_grad():
            logits = model.run_with_hooks(encoded[number].tokens, fwd_hooks=hooks)[0, -1]
        return float(logits.softmax(-1)[encoded[number].target_ids[0]])

    for column, share in enumerate(SHARES):
        kept = torch.zeros(layers * width, dtype=torch.bool)
        kept[order[: round(share * layers * width)]] = True
        kept = kept.view(layers, width)
        for number in range(len(PROMPTS)):
            assert float(curve.kept[number, column]) == pytest.approx(probability(number, kept), abs=1e-6)
            assert float(curve.removed[number, column]) == pytest.approx(probability(number, ~kept), abs=1e-6)
    for curve_of in (curve.values, curve.random):
        assert curve_of[0] == 0 and curve_of[-1] == 1
    assert curve.reverse[0] == 1 and curve.reverse[-1] == 0
    f = curve.values[1:]
    at = torch.tensor(SHARES[1:], dtype=torch.float64).log()
    area = sum(float((f[i] + f[i + 1]) / 2 * (at[i + 1] - at[i])) for i in range(2)) / float(at[2] - at[0])
    assert curve.cpr == pytest.approx(area)


def test_planted_neurons_carry_everything(tmp_path: Path) -> None:
    model = planted.cached()
    prompts = [
        kn.Prompt(f"{frame} {determiner}", f" {noun}")
        for frame in planted.FRAMES[:2]
        for determiner, noun in (("this", "book"), ("those", "books"))
    ]
    att = kn.integrated_gradients(model, prompts)
    total = sum(att.widths)
    shares = (1 / total, 2 / total, 0.1, 1.0)
    curve = kn.faithfulness(model, prompts, att, shares=shares, ablation="zero", metric="probability")
    torch.testing.assert_close(curve.values[1:], torch.ones(3, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(curve.reverse[1:], torch.zeros(3, dtype=torch.float64), atol=1e-5, rtol=0)
    assert 0.1 < float(curve.values[0]) < 0.9
    assert curve.cpr > curve.random_cpr and curve.cmd < curve.random_cmd
    low, high = curve.interval("cpr")
    assert float(low) <= curve.cpr <= float(high)
    assert kn.load(curve.save(tmp_path / "curve.safetensors")) == curve
    assert len(curve.to_frame()) == 12 and curve.plot().data


def test_the_curve_of_one_prompt_has_no_interval() -> None:
    model = tiny("llama")
    curve = kn.faithfulness(model, PROMPTS[0], kn.integrated_gradients(model, PROMPTS[0]), shares=SHARES)
    for name, shape in (("values", (4,)), ("reverse", (4,)), ("cpr", ())):
        assert all(end.shape == shape and bool(end.isnan().all()) for end in curve.interval(name))


def test_what_cannot_be() -> None:
    model = tiny("llama")
    scores = torch.zeros(model.cfg.n_layers, model.cfg.d_mlp)
    for bad in (
        {"shares": (0.5,)},
        {"shares": (0.1, 1.5)},
        {"draws": 0},
    ):
        with pytest.raises(ValueError):
            kn.faithfulness(model, PROMPTS, scores, **bad)
    with pytest.raises(ValueError, match="not defined"):  # a metric that moves by rounding alone
        kn.faithfulness(model, PROMPTS, scores, metric=lambda logits: 1 + 1e-6 * logits[:, 0].tanh())
    with pytest.raises(ValueError, match="layers"):
        kn.faithfulness(model, PROMPTS, scores[:1])
    with pytest.raises(ValueError, match="at least two"):
        kn.faithfulness(model, PROMPTS[0], scores, ablation="mean")
