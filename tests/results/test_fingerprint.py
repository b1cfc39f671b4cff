"""The fingerprint of weights: every bit counts, and what is kept is never out of date."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import kntools as kn
from kntools.results import fingerprint as module
from kntools.results.fingerprint import fingerprint
from tests import zoo


def some() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.LayerNorm(5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_every_bit_counts(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 13)  # several pieces, none of them a whole row
    model = some().to(dtype)
    seen = {fingerprint(model)}
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    count = 0
    for p in model.parameters():
        raw = p.detach().view(integers).view(-1)
        for entry in range(len(raw)):
            for bit in (0, dtype.itemsize * 8 - 2):
                raw[entry] ^= 1 << bit
                seen.add(fingerprint(model))
                raw[entry] ^= 1 << bit
                count += 1
    assert len(seen) == count + 1 and fingerprint(model) in seen


def test_changes_that_a_sum_would_not_see() -> None:
    model = some()
    before = fingerprint(model)
    weight = model[0].weight
    with torch.no_grad():
        weight[2, [1, 3]] = weight[2, [3, 1]]
    swapped = fingerprint(model)
    with torch.no_grad():
        weight[[1, 2]] = weight[[2, 1]]
    assert len({before, swapped, fingerprint(model)}) == 3


def test_names_shapes_and_types_count() -> None:
    def zeros(name: str, *shape: int, dtype: torch.dtype = torch.float16) -> str:
        model = torch.nn.Module()
        model.register_parameter(name, torch.nn.Parameter(torch.zeros(shape, dtype=dtype)))
        return fingerprint(model)

    found = {
        zeros("a", 2, 4),
        zeros("b", 2, 4),
        zeros("a", 4, 2),
        zeros("a", 8),
        zeros("a", 2, 4, dtype=torch.bfloat16),
    }
    assert len(found) == 5 and zeros("a", 0, 3) != zeros("a") and zeros("a", 2, 4) in found


def _load(model: Any) -> None:
    model.load_state_dict({k: v + 1 for k, v in model.state_dict().items()})


def _step(model: Any) -> None:
    model[0](torch.ones(1, 7)).sum().backward()
    torch.optim.Adam(model.parameters()).step()


def _set_entry(model: Any) -> None:
    with torch.no_grad():
        model[0].weight[3, 3] = 9.0


def _through_a_view(model: Any) -> None:
    with torch.no_grad():
        model[0].weight.T.mul_(2)


def _in_inference_mode(model: Any) -> None:
    with torch.inference_mode():
        model[0].weight[3, 3] = 9.0


def _data_row(model: Any) -> None:
    model[0].weight.data[3] *= 1.5


def _data_column(model: Any) -> None:
    model[0].weight.data[:, 4] *= 1.5


def _round_trip(model: Any) -> None:
    model.half().float()


def _replace(model: Any) -> None:
    model[0].weight = torch.nn.Parameter(model[0].weight.detach() * 2)


@pytest.mark.parametrize(
    "change",
    [
        _load,
        _step,
        _set_entry,
        _through_a_view,
        _in_inference_mode,
        _data_row,
        _data_column,
        _round_trip,
        _replace,
    ],
)
def test_what_is_kept_is_not_out_of_date(change: Any) -> None:
    model = some()
    before = fingerprint(model)
    change(model)
    after = fingerprint(model)
    assert after != before and after == fingerprint(model, fresh=True)


def test_weights_that_are_replaced_by_others_at_the_same_address() -> None:
    """`parameter.data = ...` until the new memory is that which was freed."""
    model = some()
    model[0].weight = weight = torch.nn.Parameter(torch.zeros(256, 256))
    before, address = fingerprint(model), weight.data_ptr()
    for _ in range(100):
        new = weight.data.clone()
        new[3, 3] += 1
        weight.data = new
        del new
        if weight.data_ptr() == address:
            break
    after = fingerprint(model)
    assert after != before and after == fingerprint(model, fresh=True)


def _data_entry(model: Any) -> None:
    model[0].weight.data[3, 3] += 1


def _fused(model: Any) -> None:
    model[0].weight.grad = torch.zeros(5, 7)
    model[0].weight.grad[3, 3] = 1
    torch.optim.SGD([model[0].weight], lr=1.0, fused=True).step()


@pytest.mark.parametrize("change", [_data_entry, _fused])
def test_a_write_that_is_not_noticed_is_found_by_a_fresh_look(change: Any) -> None:
    """What the docstring says of other entries than those of the first row and column."""
    model = some()
    before = fingerprint(model)
    change(model)
    assert fingerprint(model) == before != fingerprint(model, fresh=True)
    assert fingerprint(model) == fingerprint(model, fresh=True), "and then it is known"


def test_parameters_of_inference_mode_are_hashed_every_time() -> None:
    with torch.inference_mode():
        model = some()
        before = fingerprint(model)
        model[0].weight[3, 3] += 1
        assert fingerprint(model) != before


@pytest.mark.parametrize("name", zoo.ALL)
def test_only_what_changed_is_hashed_anew(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.fresh(name)
    before = fingerprint(model)
    hashed: list[int] = []
    digest = module._digest
    monkeypatch.setattr(module, "_digest", lambda p: (hashed.append(p.numel()), digest(p))[1])
    assert fingerprint(model) == before and hashed == []
    edit = kn.erase_values(model, [(1, 3), (1, 5)])
    with edit.applied(model):
        assert fingerprint(model) == fingerprint(model, fresh=True) != before
    hashed.clear()
    assert fingerprint(model) == before
    assert hashed == [zoo.D_MLP * zoo.D_MODEL]
    assert fingerprint(model, fresh=True) == before
