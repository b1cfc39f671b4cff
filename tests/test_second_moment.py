"""C = E[k k^T] over a stream of texts, and text that the model writes itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import kntools as kn
from kntools.models import adapter
from tests import zoo

TEXTS = zoo.SENTENCES[:14]


def by_hand(model: Any, layer: int, texts: list[str], context: int = 1000) -> tuple[torch.Tensor, int]:
    """One text at a time, every key added up in float64."""
    total, count = torch.zeros(zoo.D_MLP, zoo.D_MLP, dtype=torch.float64), 0
    masked, words = adapter.is_masked(model), model.tokenizer
    before = [words.cls_token_id] if masked else [words.bos_token_id] if model.cfg.default_prepend_bos else []
    after = [words.sep_token_id] if masked else []
    for text in texts:
        ids = words(text, add_special_tokens=False)["input_ids"]
        room = context - len(before) - len(after)
        for start in range(0, len(ids), room):
            piece = torch.tensor([[*before, *ids[start : start + room], *after]])
            _, cache = model.run_with_cache(piece)
            keys = cache[f"blocks.{layer}.mlp.hook_post"][0].detach().double()
            total, count = total + keys.T @ keys, count + len(keys)
    return total / count, count


@pytest.mark.parametrize("name", zoo.ALL)
def test_it_is_the_mean_over_all_tokens(name: str) -> None:
    model = zoo.tiny(name)
    c = kn.second_moment(model, 1, TEXTS, rows=4, progress=False)
    expected, count = by_hand(model, 1, TEXTS)
    assert (c.count, c.texts, c.layer) == (count, len(TEXTS), 1)
    torch.testing.assert_close(c.matrix.double(), expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-4)


def test_layers_together_pieces_limits_and_forms(tmp_path: Path) -> None:
    model = zoo.tiny("llama")
    several = kn.second_moment(model, [2, 0], iter(TEXTS), context=7, progress=False)
    assert list(several) == [0, 2]
    for layer, c in several.items():
        expected, count = by_hand(model, layer, TEXTS, context=7)
        assert c.count == count and c.layer == layer
        torch.testing.assert_close(c.matrix.double(), expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-4)
    (tmp_path / "texts.txt").write_text("\n\n".join(TEXTS))
    c = kn.second_moment(model, 2, TEXTS, progress=False)
    for texts in (tmp_path / "texts.txt", [{"text": t} for t in TEXTS], (t for t in [*TEXTS, "  "])):
        assert torch.equal(kn.second_moment(model, 2, texts, progress=False).matrix, c.matrix)
    short = kn.second_moment(model, 2, TEXTS, tokens=30, rows=2, progress=False)
    assert 30 <= short.count < c.count
    half = kn.second_moment(zoo.tiny("llama", torch.bfloat16), 2, TEXTS, progress=False)
    assert float((half.matrix - c.matrix).norm() / c.matrix.norm()) < 0.05


class Killed(Exception):
    pass


def broken(texts: list[str], after: int) -> Iterator[str]:
    for n, text in enumerate(texts):
        if n == after:
            raise Killed
        yield text


@pytest.mark.parametrize("after", [1, 5, 9])
def test_a_killed_run_goes_on_and_ends_with_the_same_bits(after: int, tmp_path: Path) -> None:
    model, file = zoo.tiny("llama"), tmp_path / "sums.safetensors"
    options: dict[str, Any] = {"rows": 2, "every": 10, "progress": False}
    whole = kn.second_moment(model, [1, 2], TEXTS, **options)
    with pytest.raises(Killed):
        kn.second_moment(model, [1, 2], broken(TEXTS, after), checkpoint=file, **options)
    assert file.exists() == (after > 2)
    again = kn.second_moment(model, [1, 2], TEXTS, checkpoint=file, **options)
    third = kn.second_moment(model, [1, 2], TEXTS, checkpoint=file, **options)  # nothing is left to do
    for layer in (1, 2):
        assert torch.equal(again[layer].matrix, whole[layer].matrix) and again[layer].count == whole[layer].count
        assert torch.equal(third[layer].matrix, whole[layer].matrix) and third[layer].texts == len(TEXTS)
    longer = tmp_path / "longer.safetensors"  # texts that are added later count too, wherever a pass of theirs begins
    for texts in (TEXTS[:5], TEXTS):
        extended = kn.second_moment(model, [1, 2], texts, checkpoint=longer, **options)
    assert extended[1].count == whole[1].count
    torch.testing.assert_close(extended[1].matrix, whole[1].matrix)
    for error, args in (
        ("other texts", (model, [1, 2], ["Something else.", *TEXTS[1:]])),
        ("only 1 were given", (model, [1, 2], TEXTS[:1])),
        ("its settings is", (model, [1, 3], TEXTS)),
        ("its fingerprint is", (zoo.tiny("mistral"), [1, 2], TEXTS)),
    ):
        with pytest.raises(ValueError, match=error):
            kn.second_moment(*args, checkpoint=file, **options)


def test_solve_save_and_check(tmp_path: Path) -> None:
    model = zoo.tiny("llama")
    c = kn.second_moment(model, 1, [*zoo.SENTENCES, *zoo.SENTENCES], progress=False)
    key = torch.randn(zoo.D_MLP, generator=torch.Generator().manual_seed(0))
    u, ridge = c.solve(key)
    matrix = c.matrix.double() + ridge * torch.eye(zoo.D_MLP, dtype=torch.float64)
    torch.testing.assert_close(matrix @ u.double(), key.double(), atol=1e-3, rtol=1e-3)
    assert ridge == pytest.approx(1e-4 * float(c.matrix.diagonal().median()))
    again = kn.load(c.save(tmp_path / "c.safetensors"))
    assert again == c and repr(again) == repr(c)
    assert again.provenance["settings"]["site"] == "mlp.hook_post"
    again.check(model, 1)
    with pytest.raises(ValueError, match="layer 1, the edit is in layer 2"):
        again.check(model, 2)
    with pytest.raises(ValueError, match="other weights"):
        again.check(zoo.tiny("mistral"), 1)


def test_bad_input() -> None:
    model = zoo.tiny("llama")
    for error, said, call in (
        (ValueError, "no text", lambda: kn.second_moment(model, 1, [], progress=False)),
        (ValueError, "one string", lambda: kn.second_moment(model, 1, "text", progress=False)),
        (ValueError, "no layers", lambda: kn.second_moment(model, [], TEXTS, progress=False)),
        (IndexError, "layers 0 to 3", lambda: kn.second_moment(model, 4, TEXTS, progress=False)),
        (ValueError, "context=1000", lambda: kn.second_moment(model, 1, TEXTS, context=1000, progress=False)),
        (ValueError, "float32 or", lambda: kn.second_moment(model, 1, TEXTS, dtype=torch.float16, progress=False)),
        (ValueError, "all must be", lambda: kn.second_moment(model, 1, TEXTS, rows=0, progress=False)),
    ):
        with pytest.raises(error, match=said):
            call()
    sick = zoo.fresh("llama")
    with torch.no_grad():
        adapter.w_out(sick, 0)[0] = torch.nan
    with pytest.raises(FloatingPointError, match="float32"):
        kn.second_moment(sick, 1, TEXTS, progress=False)


# --- text that the model writes -------------------------------------------------------------------------


@pytest.mark.parametrize("name", zoo.CAUSAL)
def test_most_probable_tokens_are_those_of_whole_runs(name: str) -> None:
    model = zoo.tiny(name)
    tokens = torch.tensor([[5, 17, 30], [9, 12, 40]])
    expected = tokens
    for _ in range(8):
        expected = torch.cat([expected, model(expected)[:, -1].argmax(-1)[:, None]], 1)
    assert torch.equal(kn.generate(model, tokens, 8), expected[:, 3:])


def test_drawn_tokens_have_their_probabilities() -> None:
    model = zoo.tiny("llama")
    tokens = torch.tensor([[5, 17, 30]]).expand(2000, -1)
    drawn = kn.generate(model, tokens, 1, generator=torch.Generator().manual_seed(0))[:, 0]
    p = model(tokens[:1])[0, -1].detach().softmax(-1)
    frequency = torch.bincount(drawn, minlength=len(p)) / len(drawn)
    assert float((frequency - p).abs().max()) < 4 * 0.5 / 2000**0.5
    few = kn.generate(model, tokens, 1, generator=torch.Generator().manual_seed(0), top_k=3)
    assert set(few.flatten().tolist()) == set(p.topk(3).indices.tolist())


def test_sampled_texts_depend_on_the_seed_alone() -> None:
    model = zoo.tiny("gpt2")
    some, same, other = (list(kn.sample_texts(model, 60, seed=s, length=10, rows=3)) for s in (0, 0, 1))
    assert some == same != other
    assert list(kn.sample_texts(model, 30, seed=0, length=10, rows=3)) == some[: len(some) // 2 + len(some) % 2][:3]
    begun = list(kn.sample_texts(model, 20, seed=0, length=5, rows=2, start="The cat"))
    assert all(text.startswith("The cat") for text in begun)
    nameless = zoo.fresh("gpt2")
    nameless.tokenizer.bos_token = None
    with pytest.raises(ValueError, match="give start="):
        list(kn.sample_texts(nameless, 10, seed=0))
    with pytest.raises(ValueError, match="masked"):
        kn.generate(zoo.tiny("bert"), torch.tensor([[1, 2]]), 2)
    with pytest.raises(ValueError, match="context holds"):
        kn.generate(model, torch.tensor([[1, 2]]), 100)
