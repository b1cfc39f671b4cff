"""On a CUDA GPU every public function gives what it gives on the CPU. Skipped where there is no GPU."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import kntools as kn
from kntools.engine import memory
from kntools.models import adapter
from tests import zoo
from tests.leaks import nothing_leaks, prepared
from tests.test_modes import CALLS, FEW, MASKED, PROMPT, TEXTS, WITH_GRADIENTS, under

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
GPU = torch.device("cuda", 0)


@contextmanager
def exact_products() -> Iterator[None]:
    """No TF32, which a user may switch on and which rounds to ten bits."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def on_gpu(name: str, dtype: torch.dtype = torch.float32) -> Any:
    model = zoo.fresh(name, dtype).to(GPU)
    assert adapter.device_of(model) == GPU
    model(kn.encode(model, MASKED if name == "bert" else PROMPT).tokens)  # a bridge attaches some hooks of its own
    return model


def tensors(found: Any, folder: Path) -> list[Tensor]:
    """The tensors of a result, as its file has them."""
    if isinstance(found, Tensor):
        return [found.detach().cpu()]
    again = kn.load(found.save(folder / "found.safetensors"))
    assert type(again) is type(found)
    return list(load_file(folder / "found.safetensors").values())


def assert_same(found: Any, expected: Any, folder: Path) -> None:
    """Rounding is measured by the largest of a result's numbers: residuals are rounding alone."""
    assert type(found) is type(expected)
    if isinstance(found, tuple | list):
        for mine, theirs in zip(found, expected, strict=True):
            assert_same(mine, theirs, folder)
        return
    if not isinstance(found, Tensor | kn.Result):  # a text, a number
        assert found == (pytest.approx(expected, rel=1e-3) if isinstance(found, float) else expected)
        return
    pairs = list(zip(tensors(found, folder), tensors(expected, folder), strict=True))
    numbers = [theirs for _, theirs in pairs if theirs.is_floating_point() and theirs.numel()]
    largest = max((float(theirs.abs().nan_to_num().amax()) for theirs in numbers), default=0.0)
    for mine, theirs in pairs:
        assert mine.dtype == theirs.dtype and mine.shape == theirs.shape
        if mine.is_floating_point():
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4 * largest, equal_nan=True)
    if isinstance(found, kn.Result) and not pairs:
        pd.testing.assert_frame_equal(found.to_frame(), expected.to_frame(), rtol=1e-3)


@pytest.fixture(scope="module")
def models() -> tuple[Any, Any]:
    return on_gpu("llama"), zoo.fresh("llama")


@pytest.mark.parametrize("name", CALLS | WITH_GRADIENTS)
def test_numbers_of_the_cpu(name: str, models: tuple[Any, Any], tmp_path: Path) -> None:
    gpu, cpu = models
    call = (CALLS | WITH_GRADIENTS)[name]
    with exact_products(), nothing_leaks(gpu):
        found = call(gpu)
    assert_same(found, call(cpu), tmp_path)


@pytest.mark.parametrize("name", zoo.ALL)
def test_every_architecture(name: str, tmp_path: Path) -> None:
    prompt, (gpu, cpu) = MASKED if name == "bert" else PROMPT, (on_gpu(name), zoo.fresh(name))
    calls = [lambda m: kn.integrated_gradients(m, prompt), lambda m: kn.sweep(m, prompt, [kn.ablate_neurons("L1.N5")])]
    if name != "bert":
        calls.append(lambda m: under(kn.rome(m, prompt, " Rome", layer=1, settings=FEW), m))
        calls.append(lambda m: kn.causal_trace(m, prompt, samples=2, window=1))
    for call in calls:
        with exact_products():
            assert_same(call(gpu), call(cpu), tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(dtype: torch.dtype) -> None:
    """Scores in float32, edits in the dtype of the weights, undone bit for bit."""
    model = on_gpu("llama", dtype)
    scores = kn.integrated_gradients(model, PROMPT).scores
    assert scores.dtype == torch.float32 and bool(scores.isfinite().all())
    before = zoo.bits(model)
    edit = kn.rome(model, PROMPT, " Rome", layer=1, settings=FEW, second_moment=kn.second_moment(model, 1, TEXTS))
    with edit.applied(model):
        assert zoo.bits(model) != before
        assert adapter.w_out(model, 1).dtype == dtype
    assert zoo.bits(model) == before


def test_a_pass_that_the_gpu_has_no_room_for() -> None:
    """All but some megabytes are taken: passes get smaller, and the numbers stay."""
    model = on_gpu("llama")
    hooks = [kn.scale_neurons(f"L1.N{n % zoo.D_MLP}", 0.1 * (n // zoo.D_MLP)) for n in range(600)]
    expected = kn.sweep(model, PROMPT, hooks)
    torch.cuda.empty_cache()
    block = torch.empty(memory.free_bytes(GPU) - 48 * 2**20, dtype=torch.uint8, device=GPU)
    try:
        assert memory.rows_that_fit(model, 5, gradients=False) < 600
        found = kn.sweep(model, PROMPT, hooks)
    finally:
        del block
        torch.cuda.empty_cache()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_nothing_leaks_from_a_model_in_training_mode() -> None:
    model = prepared("llama", hooked=True).to(GPU)
    drawn = copy.deepcopy(torch.cuda.get_rng_state(GPU))
    with nothing_leaks(model):
        kn.integrated_gradients(model, PROMPT)
        kn.generate(model, PROMPT.text, temperature=1.0, max_new_tokens=3)
        kn.causal_trace(model, PROMPT, samples=2, window=1)
    assert torch.equal(torch.cuda.get_rng_state(GPU), drawn)


def test_an_edit_made_on_one_device_and_applied_on_the_other(tmp_path: Path) -> None:
    gpu, cpu = on_gpu("llama"), zoo.fresh("llama")
    for made, used in ((gpu, cpu), (cpu, gpu)):
        edit = kn.load(kn.rome(made, PROMPT, " Rome", layer=1, settings=FEW).save(tmp_path / "edit.safetensors"))
        before = zoo.bits(used)
        torch.testing.assert_close(under(edit, used).cpu(), under(edit, made).cpu(), atol=1e-5, rtol=1e-3)
        assert zoo.bits(used) == before


def test_load_model_takes_the_gpu() -> None:
    model = kn.load_model("tiny-bert")
    assert adapter.device_of(model).type == "cuda"
    again = kn.load_model("tiny-bert", device="cpu")
    asked = kn.Prompt("The capital of Canada is [MASK].", "Ottawa", multi_token="first")
    found, expected = (kn.integrated_gradients(m, asked).scores.cpu() for m in (model, again))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-2)
