"""What a plain loop makes of an activation: always on a copy."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from scripts.architectures.plain import Change


def scaled(factor: float, pos: int | None, entries: list[int] | None = None) -> Change:
    def change(x: Tensor) -> Tensor:
        x = x.clone()
        at = slice(None) if pos is None else pos
        if entries is None:
            x[:, at] *= factor
        else:
            x[:, at, ..., entries] *= factor
        return x

    return change


def put(value: Tensor, pos: int | None = None, head: int | None = None, entry: int | None = None) -> Change:
    """Overwrite a part with that of another run."""

    def change(x: Tensor) -> Tensor:
        if x.shape != value.shape:
            raise ValueError(f"{tuple(value.shape)} does not fit {tuple(x.shape)}")
        x, at = x.clone(), slice(None) if pos is None else pos
        if head is not None:
            x[:, at, head] = value[:, at, head]
        elif entry is not None:
            x[:, at, ..., entry] = value[:, at, ..., entry]
        else:
            x[:, at] = value[:, at]
        return x

    return change


def added(vector: Tensor, at: Any) -> Change:
    def change(x: Tensor) -> Tensor:
        x = x.clone()
        x[:, at] = x[:, at] + vector
        return x

    return change
