"""Gradients of activations: whether they can be had, and for how long parameters are left out of them."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from kntools.scopes import between

T = TypeVar("T")


def check_gradients(model: Any) -> None:
    if torch.is_inference_mode_enabled():
        raise RuntimeError("torch.inference_mode() has no gradients; use torch.no_grad() instead")
    if any(p.is_inference() for p in model.parameters()):
        raise RuntimeError("this model was made within torch.inference_mode(), without gradients; make it outside")


@torch.enable_grad()
def with_gradients(model: Any, compute: Callable[[], T]) -> T:
    """What `compute` gives with gradients of activations. Parameters are left out of them for a while."""
    check_gradients(model)
    trainable = [p for p in model.parameters() if p.requires_grad]

    def require(on: bool) -> None:
        for p in trainable:
            p.requires_grad_(on)

    return between(lambda: require(False), compute, lambda: require(True))
