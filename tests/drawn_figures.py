"""What a plotly figure draws, read back by its labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

HEADER = {"model": "by hand"}


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cells(trace: Any) -> dict[tuple[Any, Any], float]:
    """(label of the row, label of the column) -> what is drawn there."""
    z = np.asarray(trace.z, dtype=float)
    assert z.shape == (len(trace.y), len(trace.x))
    return {(y, x): float(z[i, j]) for i, y in enumerate(trace.y) for j, x in enumerate(trace.x)}


def ends(trace: Any, axis: str) -> Iterator[tuple[float, float]]:
    """Where the thin line of each bar begins and ends."""
    bars, centre = getattr(trace, f"error_{axis}"), getattr(trace, axis)
    assert bars.symmetric is False
    return zip(np.subtract(centre, bars.arrayminus), np.add(centre, bars.array), strict=True)


def bars(figure: Any, axis: str = "y") -> dict[tuple[str, Any], tuple[float, float, float]]:
    """(name of the trace, label) -> value and both ends, of the bars that are there."""
    found = {}
    for trace in figure.data:
        if trace.type == "bar":
            labels = trace.x if axis == "y" else trace.y
            labels = labels if np.ndim(labels) == 1 else list(zip(*labels, strict=True))
            rows = zip(labels, getattr(trace, axis), ends(trace, axis), strict=True)
            found |= {(trace.name, at): (value, low, high) for at, value, (low, high) in rows}
    return found


def plain(values: Any) -> Any:
    return pytest.approx(tuple(map(float, values)), nan_ok=True)
