"""C = E[k k^T] over a stream of texts, and text that the model writes itself."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kntools as kn
from kntools.analyses.edit_methods import editors, settings_of
from kntools.editing.rome_settings import RomeSettings
from kntools.editing.second_moment import TOKENS_PER_NEURON
from kntools.models import adapter
from kntools.models.causality import is_masked
from tests import zoo

TEXTS = zoo.SENTENCES[:14]


def by_hand(model: Any, layer: int, texts: list[str], context: int = 1000) -> tuple[torch.Tensor, int]:
    """One text at a time, every key added up in float64."""
    total, count = torch.zeros(zoo.D_MLP, zoo.D_MLP, dtype=torch.float64), 0
    masked, words = is_masked(model), model.tokenizer
    before = [words.cls_token_id] if masked else [words.bos_token_id] if model.cfg.default_prepend_bos else []
    after = [words.sep_token_id] if masked else []
    for text in texts:
        ids = words(text, add_special_tokens=False)["input_ids"]
        room = context - len(before) - len(after)
        for start in range(0, len(ids), room):
            piece = torch.tensor([[*before, *ids[start : start + room], *after]])
            name = f"blocks.{layer}.mlp.hook_post"
            _, cache = model.run_with_cache(piece, names_filter=name)
            keys = cache[name][0].detach().double()
            total, count = total + keys.T @ keys, count + len(keys)
    return total / count, count


@pytest.mark.parametrize("name", zoo.ALL)
def test_it_is_the_mean_over_all_tokens(name: str) -> None:
    model = zoo.tiny(name)
    with kn.set_options(max_rows=4):
        c = kn.second_moment(model, 1, TEXTS)
    expected, count = by_hand(model, 1, TEXTS)
    assert (c.count, c.texts, c.layer) == (count, len(TEXTS), 1)
    torch.testing.assert_close(c.matrix.double(), expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_special_tokens_that_a_text_holds_do_not_count_twice(name: str) -> None:
    model = zoo.tiny(name)
    t, plain = model.tokenizer, kn.second_moment(model, 1, TEXTS)
    first, last = (t.cls_token, t.sep_token) if name == "bert" else (t.bos_token, "")
    assert name == "bert" or model.cfg.default_prepend_bos
    again = kn.second_moment(model, 1, [f"{first}{text}{last}" for text in TEXTS])
    assert again.count == plain.count and torch.equal(again.matrix, plain.matrix)


def test_layers_together_pieces_limits_and_forms(tmp_path: Path) -> None:
    model = zoo.tiny("llama")
    several = kn.second_moment(model, [2, 0], iter(TEXTS), context=7)
    assert list(several) == [0, 2]
    for layer, c in several.items():
        expected, count = by_hand(model, layer, TEXTS, context=7)
        assert c.count == count and c.layer == layer
        torch.testing.assert_close(c.matrix.double(), expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-4)
    (tmp_path / "texts.txt").write_text("\n\n".join(TEXTS))
    c = kn.second_moment(model, 2, TEXTS)
    for texts in (tmp_path / "texts.txt", [{"text": t} for t in TEXTS], (t for t in [*TEXTS, "  "])):
        assert torch.equal(kn.second_moment(model, 2, texts).matrix, c.matrix)
    with kn.set_options(max_rows=2):
        short = kn.second_moment(model, 2, TEXTS, tokens=30)
    assert 30 <= short.count < c.count
    half = kn.second_moment(zoo.tiny("llama", torch.bfloat16), 2, TEXTS)
    assert float((half.matrix - c.matrix).norm() / c.matrix.norm()) < 0.05


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_half_precision_is_summed_in_full(name: str) -> None:
    """Keys of a bfloat16 model, one text after the other, added up in float64: rounding of the sums does not show."""
    model = zoo.tiny(name, torch.bfloat16)
    with kn.set_options(max_rows=1):
        for dtype in (torch.float32, torch.float64):
            c = kn.second_moment(model, 1, TEXTS, dtype=dtype)
            expected, _ = by_hand(model, 1, TEXTS)
            torch.testing.assert_close(c.matrix.double(), expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-5)
            assert c.matrix.dtype == torch.float32


class Killed(Exception):
    pass


def broken(texts: list[str], after: int) -> Iterator[str]:
    for n, text in enumerate(texts):
        if n == after:
            raise Killed
        yield text


@pytest.fixture
def two_rows() -> Iterator[None]:
    with kn.set_options(max_rows=2):
        yield


@pytest.mark.usefixtures("two_rows")
@pytest.mark.parametrize("after", [1, 5, 9])
def test_a_killed_run_goes_on_and_ends_with_the_same_bits(after: int, tmp_path: Path) -> None:
    model, file = zoo.tiny("llama"), tmp_path / "sums.safetensors"
    options: dict[str, Any] = {"every": 10}
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


@pytest.mark.usefixtures("two_rows")
@pytest.mark.parametrize("tokens", [1, 30])
def test_no_text_is_read_that_is_not_measured(tokens: int, tmp_path: Path) -> None:
    """A text may have to be written by the model first. A measurement that is complete is checked, and no more."""
    taken = list[str]()

    def written() -> Iterator[str]:
        for text in TEXTS:
            taken.append(text)
            yield text

    for _ in range(2):
        taken.clear()
        c = kn.second_moment(zoo.tiny("llama"), 1, written(), tokens=tokens, checkpoint=tmp_path / "sums.safetensors")
        assert tokens <= c.count and c.texts == len(taken) < len(TEXTS)
    # One that was complete in the middle of a pass takes no more of the texts that have come since.
    model, file = zoo.tiny("llama"), tmp_path / "five.safetensors"
    five = kn.second_moment(model, 1, TEXTS[:5], checkpoint=file)
    again = kn.second_moment(model, 1, TEXTS, tokens=five.count, checkpoint=file)
    assert (again.texts, again.count) == (5, five.count) and torch.equal(again.matrix, five.matrix)


@pytest.mark.usefixtures("two_rows")
def test_a_checkpoint_of_more_tokens_is_no_measurement_of_fewer(tmp_path: Path) -> None:
    model, file = zoo.tiny("llama"), tmp_path / "sums.safetensors"
    whole = kn.second_moment(model, 1, TEXTS, checkpoint=file)
    for tokens in (1, 30):
        with pytest.raises(ValueError, match=rf"more than tokens={tokens}; give tokens={whole.count}, or another file"):
            kn.second_moment(model, 1, TEXTS, tokens=tokens, checkpoint=file)
    for again in (whole.count, None):
        assert kn.second_moment(model, 1, TEXTS, tokens=again, checkpoint=file).count == whole.count


def test_solve_save_and_check(tmp_path: Path) -> None:
    model = zoo.tiny("llama")
    c = kn.second_moment(model, 1, [*zoo.SENTENCES, *zoo.SENTENCES])
    key = torch.randn(zoo.D_MLP, generator=torch.Generator().manual_seed(0))
    u, ridge = c.solve(key)
    matrix = c.matrix.double() + ridge * torch.eye(zoo.D_MLP, dtype=torch.float64)
    torch.testing.assert_close(matrix @ u.double(), key.double(), atol=1e-3, rtol=1e-3)
    assert c.to_frame()["recommended"].item() == 32 * zoo.D_MLP
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
        (ValueError, "no text", lambda: kn.second_moment(model, 1, [])),
        (ValueError, "one string", lambda: kn.second_moment(model, 1, "text")),
        (ValueError, "no layers", lambda: kn.second_moment(model, [], TEXTS)),
        (IndexError, "layers 0 to 3", lambda: kn.second_moment(model, 4, TEXTS)),
        (ValueError, "context=1000", lambda: kn.second_moment(model, 1, TEXTS, context=1000)),
        (ValueError, "float32 or", lambda: kn.second_moment(model, 1, TEXTS, dtype=torch.float16)),
        (ValueError, "every=0; give a whole number at least 1", lambda: kn.second_moment(model, 1, TEXTS, every=0)),
    ):
        with pytest.raises(error, match=said):
            call()
    sick = zoo.fresh("llama")
    with torch.no_grad():
        adapter.w_out(sick, 0)[0] = torch.nan
    with pytest.raises(FloatingPointError, match="float32"):
        kn.second_moment(sick, 1, TEXTS)


def test_a_matrix_that_is_changed_in_place_is_factored_anew() -> None:
    """Also where PyTorch does not count the write, and in a copy, whose count begins anew."""
    c = kn.SecondMoment.from_matrix(zoo.tiny("llama"), 1, 2 * torch.eye(zoo.D_MLP), 500)
    key = torch.ones(zoo.D_MLP)

    def check(c: kn.SecondMoment) -> None:
        solved, ridge = c.solve(key)
        torch.testing.assert_close(solved, key / (c.matrix.diagonal() + ridge))
        half = float(c.matrix.diagonal().median())
        torch.testing.assert_close(c.project(key, half), key * (c.matrix.diagonal() < half))

    c.matrix[0, 0] = 1
    check(c)
    copy = deepcopy(c)
    for n in range(1, 4):
        copy.matrix[n, n] = 1
        check(copy)
    c.matrix.data[5, 5] = 1
    check(c)
    pickle.loads(pickle.dumps(c)).solve(key)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_edits_and_runs_write_of_c_tells_two_apart() -> None:
    """Both have the title `L1, 500 tokens`."""
    model, few = zoo.tiny("llama"), RomeSettings(steps=2, templates=["{}"])
    a = kn.SecondMoment.from_matrix(model, 1, torch.eye(zoo.D_MLP), 500)
    b = kn.SecondMoment.from_matrix(model, 1, 2 * torch.eye(zoo.D_MLP), 500)
    prompt = kn.Prompt("The capital of Canada is", " Ottawa", subject="Canada")
    rome = partial(kn.rome, model, prompt, " Rome", layer=1, settings=few)
    emmet = partial(kn.emmet, model, [prompt], [" Rome"], layers=1, settings=few)
    written: tuple[Callable[[kn.SecondMoment], Any], ...] = (
        lambda c: rome(second_moment=c).provenance["settings"]["second_moment"],
        lambda c: emmet(second_moments=c).provenance["settings"]["second_moments"],
        lambda c: settings_of(editors(model, ["rome", "emmet"], layer=1, second_moment=c)),
    )
    assert a.title() == b.title()
    for of in written:
        assert of(a) == of(deepcopy(a)) != of(b)


# --- from elsewhere ----------------------------------------------------------------------------------------


def test_a_matrix_from_elsewhere(tmp_path: Path) -> None:
    model = zoo.tiny("llama")
    measured = kn.second_moment(model, 1, [*zoo.SENTENCES, *zoo.SENTENCES])
    given = kn.SecondMoment.from_matrix(model, 1, measured.matrix, measured.count)
    key = torch.randn(zoo.D_MLP, generator=torch.Generator().manual_seed(0))
    assert torch.equal(given.solve(key)[0], measured.solve(key)[0])
    given.check(model, 1)
    with pytest.raises(ValueError, match="other weights"):
        given.check(zoo.tiny("mistral"), 1)
    again = kn.load(given.save(tmp_path / "c.safetensors"))
    assert torch.equal(again.matrix, given.matrix) and repr(again) == repr(given) and again.texts is None
    good = measured.matrix
    for error, said, call in (
        (ValueError, "has 48 neurons", lambda: kn.SecondMoment.from_matrix(model, 1, good[:5, :5], 9)),
        (ValueError, "not symmetric", lambda: kn.SecondMoment.from_matrix(model, 1, good + good.triu(1), 9)),
        (ValueError, "nan or inf", lambda: kn.SecondMoment.from_matrix(model, 1, good * torch.inf, 9)),
        (ValueError, "cannot be negative", lambda: kn.SecondMoment.from_matrix(model, 1, -good, 9)),
        (ValueError, "count=0; give a whole number at least 1", lambda: kn.SecondMoment.from_matrix(model, 1, good, 0)),
        (IndexError, "layers 0 to 3", lambda: kn.SecondMoment.from_matrix(model, 4, good, 9)),
    ):
        with pytest.raises(error, match=said):
            call()


@pytest.mark.parametrize(("dtype", "value"), [(torch.float16, 40000), (torch.bfloat16, 2e38), (torch.float32, 2e38)])
def test_a_matrix_of_any_type_is_taken_as_it_is(dtype: torch.dtype, value: float) -> None:
    """Added to its transpose in its own type, it would overflow."""
    matrix = (torch.eye(zoo.D_MLP, dtype=torch.float64) * value).to(dtype)
    found = kn.SecondMoment.from_matrix(zoo.tiny("llama"), 1, matrix, 500).matrix
    assert found.dtype == torch.float32 and torch.equal(found, matrix.float())


def test_a_matrix_of_few_tokens_is_semidefinite_and_one_of_no_tokens_is_not() -> None:
    model, draw = zoo.tiny("llama"), torch.Generator().manual_seed(0)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):  # rounded, its smallest eigenvalues are negative
        keys = torch.randn(5, zoo.D_MLP, generator=draw) * torch.logspace(-1, 1, zoo.D_MLP)
        keys[:, 3] = 0  # a neuron that never fires
        kn.SecondMoment.from_matrix(model, 1, (keys.T @ keys / 5).to(dtype), 5)
    for sign in (1, -1):
        indefinite = sign * torch.ones(zoo.D_MLP, zoo.D_MLP).fill_diagonal_(sign * 0.5)
        with pytest.raises(ValueError, match="is indefinite"):
            kn.SecondMoment.from_matrix(model, 1, indefinite, 5000)


def test_published_statistics(tmp_path: Path) -> None:
    """The format of ROME's `util/runningstats.py`: the sum over tokens, and how many there were."""
    model, file = zoo.tiny("llama"), tmp_path / "transformer.h.1.mlp.c_proj_float32_mom2_100000.npz"
    measured = kn.second_moment(model, 1, TEXTS)
    total = (measured.matrix.double() * measured.count).float().numpy()
    content = {"mom2.constructor": "util.runningstats.SecondMoment()", "mom2.count": measured.count, "mom2.mom2": total}
    np.savez(file, **content, sample_size=100000)
    found = kn.SecondMoment.from_npz(file, model, 1)
    torch.testing.assert_close(found.matrix, measured.matrix)
    assert found.count == measured.count and found.provenance["settings"]["file"] == file.name
    found.check(model, 1)
    np.savez(tmp_path / "other.npz", mean=total)
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "empty.npz", **{**content, "mom2.count": 0})
    for name, said in (("other.npz", "mom2.mom2"), ("text.npz", "is no .npz"), ("empty.npz", "at least one")):
        with pytest.raises(ValueError, match=said):
            kn.SecondMoment.from_npz(tmp_path / name, model, 1)
    with pytest.raises(FileNotFoundError):
        kn.SecondMoment.from_npz(tmp_path / "none.npz", model, 1)
    with pytest.raises(ValueError, match="has 48 neurons"):
        np.savez(file, **{**content, "mom2.mom2": total[:9, :9]})
        kn.SecondMoment.from_npz(file, model, 1)


@pytest.mark.parametrize(("per_neuron", "expected"), [(TOKENS_PER_NEURON, 0.19), (10, 0.39)])
def test_how_far_off_keys_are_by_tokens_per_neuron(per_neuron: int, expected: float) -> None:
    """Of independent normal keys with C = I: the numbers that docs/editing.md and the warning quote."""
    generator, width = torch.Generator().manual_seed(0), 200
    keys = torch.randn(per_neuron * width, width, generator=generator, dtype=torch.float64)
    key = torch.randn(width, 50, generator=generator, dtype=torch.float64)
    found = torch.linalg.solve(keys.T @ keys / len(keys), key)
    assert float((found - key).norm() / key.norm()) == pytest.approx(expected, abs=0.01)
