"""What patching takes, the grid that it gives, and its errors."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch

import kntools as kn
from kntools.engine.prompt_pairs import encode_pairs
from kntools.plots.tokens import patch_heatmap
from tests import zoo
from tests.patching.test_patching import pair


def test_several_pairs_keep_their_values_and_give_intervals() -> None:
    model = zoo.tiny("llama")
    clean = [
        kn.Prompt(f"The capital of {c} is", f" {t}")
        for c, t in (("Canada", "Ottawa"), ("Japan", "Tokyo"), ("Cuba", "Havana"))
    ]
    corrupted = [
        kn.Prompt(f"The capital of {c} is", f" {t}")
        for c, t in (("Spain", "Madrid"), ("Kenya", "Nairobi"), ("Italy", "Rome"))
    ]
    with kn.set_options(max_rows=7):
        together = kn.activation_patch(model, clean, corrupted, site="attn_out")
    for n, (a, b) in enumerate(zip(clean, corrupted, strict=True)):
        alone = kn.activation_patch(model, a, b, site="attn_out")
        torch.testing.assert_close(together.per_pair[n], alone.values, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together.values, together.per_pair.mean(0))
    low, high = together.interval(seed=1)
    assert bool((low <= together.effect + 1e-5).all()) and bool((together.effect <= high + 1e-5).all())
    again = together.interval(seed=1)
    assert torch.equal(low, again.low) and torch.equal(high, again.high)
    for row in together.preview(3, again).to_dict("records"):
        cell = row["layer"], together.columns.index(int(row["position"]))
        values = (together.values, together.effect, low, high)
        assert [row[name] for name in ("value", "effect", "effect_low", "effect_high")] == [
            float(v[cell]) for v in values
        ]
    # Other lengths: no common positions, but common heads.
    longer = (
        [*clean, kn.Prompt("Is Canada near France? Yes, it is", " Paris")],
        [*corrupted, "Is Canada near Italy? Yes, it is"],
    )
    with pytest.raises(ValueError, match="do not line up"):
        kn.activation_patch(model, *longer, metric="probability")
    grid = kn.activation_patch(model, *longer, metric="probability", site="z", heads=True)
    assert grid.per_pair.shape == (4, 4, zoo.N_HEADS)


def test_metrics() -> None:
    model, (clean, corrupted) = zoo.tiny("llama"), pair("llama")
    run = {"site": "resid_pre", "layers": [1]}
    assert kn.activation_patch(model, clean, corrupted, **run).metric == "contrast"
    plain = kn.activation_patch(model, kn.Prompt(clean.text, clean.target), corrupted.text, **run)
    assert plain.metric == "probability"
    kl = kn.activation_patch(model, clean, corrupted, metric="kl_divergence", **run)
    assert kl.clean == pytest.approx(0, abs=1e-5) and kl.corrupted > 0
    one_each = kn.activation_patch(model, [clean], [corrupted], metric=[kn.probability(5)], **run)
    assert one_each.metric == "one per prompt"
    for wrong, words in (
        (lambda logits: logits, "one value per row"),
        (lambda logits: logits.mean(), "one value per row"),
        (lambda logits: 0.5, "returned float"),
        ("accuracy", "unknown metric"),
        ([kn.probability(5)] * 2, "2 metrics for 1 prompts"),
    ):
        with pytest.raises(ValueError, match=words):
            inspect.unwrap(kn.activation_patch)(model, clean, corrupted, metric=wrong, **run)
    with pytest.raises(ValueError, match="needs a foil"):
        kn.activation_patch(model, plain.pairs[0][0], corrupted.text, metric="logit_difference", **run)
    with pytest.raises(FloatingPointError, match="float32"):
        kn.activation_patch(model, clean, corrupted, metric=lambda x: x[:, 0] * float("nan"), **run)


def test_answers_of_several_tokens() -> None:
    model = zoo.tiny("llama")
    clean = kn.Prompt("The capital of Canada is", " Ouagadougou", multi_token="sum")
    grid = kn.activation_patch(model, clean, "The capital of France is")
    [both] = encode_pairs(model, clean, "The capital of France is")
    assert len(both.clean.positions) > 1
    with torch.no_grad():
        logits = model(both.clean.tokens)[:, list(both.clean.positions)]
    assert grid.clean == pytest.approx(float(kn.probability(both.clean.target_ids)(logits)), abs=1e-6)


def test_encoded_prompts_and_texts() -> None:
    """What is not encoded begins as what is: with or without BOS, on both sides."""
    model, (clean, corrupted) = zoo.tiny("llama"), pair("llama")
    usual = kn.activation_patch(model, clean, corrupted, layers=[1])
    bare = kn.encode(model, clean, prepend_bos=False)
    other = kn.encode(model, corrupted, prepend_bos=False)
    first, *rest = (
        kn.activation_patch(model, a, b, layers=[1])
        for a, b in ((bare, other), (bare, corrupted), (clean, other), (bare, corrupted.text))
    )
    assert first.values.shape == (1, usual.values.shape[1] - 1) and first.tokens[0] == usual.tokens[0][1:]
    with torch.no_grad():
        logits = model(bare.tokens)[0, -1]
    assert first.clean == pytest.approx(float(logits[bare.target_ids[0]] - logits[bare.foil_ids[0]]), abs=1e-5)
    for grid in rest:
        assert torch.equal(grid.values, first.values)
    with pytest.raises(TypeError, match=r"no answer; write kn.Prompt\('The capital of Canada is', ' \.\.\.'\)"):
        inspect.unwrap(encode_pairs)(model, clean.text, corrupted.text)


def test_errors_say_what_to_type() -> None:
    model, (clean, corrupted) = zoo.tiny("llama"), pair("llama")
    with pytest.raises(ValueError, match=r"(?s)6 tokens, the corrupted one 7.*' Canada'.*' dog'"):
        kn.activation_patch(model, clean, "The capital of lazy dog is")
    with pytest.raises(ValueError, match="as many of each"):
        kn.activation_patch(model, [clean], [corrupted, corrupted])
    with pytest.raises(ValueError, match="has no heads"):
        kn.activation_patch(model, clean, corrupted, site="resid_pre", heads=True)
    with pytest.raises(ValueError, match="split into heads"):
        kn.activation_patch(model, clean, corrupted, site="z", neurons=True)
    with pytest.raises(ValueError, match="two kinds of columns"):
        kn.activation_patch(model, clean, corrupted, site="z", neurons=True, heads=True)
    with pytest.raises(ValueError, match="unknown site"):
        kn.activation_patch(model, clean, corrupted, site="residual")
    with pytest.raises(IndexError, match="layer 9 does not exist"):
        kn.activation_patch(model, clean, corrupted, layers=[9])
    with pytest.raises(IndexError, match="position 6 is out of range"):
        kn.activation_patch(model, clean, corrupted, positions=[6])
    with pytest.raises(IndexError, match="head 4 does not exist"):
        kn.activation_patch(model, clean, corrupted, site="z", heads=[4])
    with pytest.raises(KeyError, match="hook_resid_mid"):
        kn.activation_patch(zoo.tiny("neox"), *pair("neox"), site="resid_mid")
    with pytest.raises(ValueError, match="layers is empty"):
        kn.activation_patch(model, clean, corrupted, layers=[])
    with pytest.raises(ValueError, match="heads is empty"):
        kn.activation_patch(model, clean, corrupted, site="z", heads=[])


def test_activations_that_overflow_are_an_error() -> None:
    model, (clean, corrupted) = zoo.fresh("llama"), pair("llama")
    with torch.no_grad():
        model.blocks[2].mlp.W_out.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="float32"):
        kn.activation_patch(model, clean, corrupted, metric="probability")


def test_the_result(tmp_path: Path) -> None:
    model, (clean, corrupted) = zoo.tiny("llama"), pair("llama")
    grid = kn.activation_patch(model, clean, corrupted, positions=[-1, 4])
    assert grid.columns == (5, 4)
    again = kn.load(grid.save(tmp_path / "grid.safetensors"))
    assert again == grid and repr(again) == repr(grid)
    frame = grid.to_frame()
    assert list(frame["token"][:2]) == [" is", " Canada/France"]
    assert frame["value"].tolist() == pytest.approx(grid.values.flatten().tolist())
    torch.testing.assert_close(grid.normalized, (grid.values - grid.corrupted) / (grid.clean - grid.corrupted))
    assert grid.top(1)[0][1] in (4, 5) and "denoising" in repr(grid) and "</table>" in grid._repr_html_()
    heads = kn.activation_patch(model, clean, corrupted, site="z", heads=[1, 3])
    assert [len(patch_heatmap(g).data[0].y) for g in (grid, heads)] == [2, 2]
    assert "Canada" in grid.plot().layout.title.text
    low, high = grid.interval()
    assert bool(low.isnan().all()) and bool(high.isnan().all())  # one pair has no interval
