"""Loaders of models, kept from changing anything global and from printing."""

import io
import os
import sys
import warnings
from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeVar

import torch
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
from transformers import PreTrainedModel
from transformers.utils import logging as hf_logging

from kntools.scopes import between

T = TypeVar("T")

# TransformerLens calls pip for torchvision, in whatever version, where a model of images and text lacks it.
_NO_PIP = {"PIP_NO_INDEX": "1", "UV_OFFLINE": "1"}


def without_trace(call: Callable[[], T]) -> T:
    """What `call` returns, with the loaders silent. Random state, modes, warnings, logs and environment stay."""
    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    no_hub_bars = are_progress_bars_disabled()
    default_dtype, device = torch.get_default_dtype(), torch.get_default_device()
    gradients, random_state = torch.is_grad_enabled(), torch.random.get_rng_state()
    environment, filters, stdout = {name: os.environ.get(name) for name in _NO_PIP}, warnings.filters, sys.stdout

    own = _functions()

    def enter() -> None:
        warnings.filters = filters[:]
        warnings.simplefilter("ignore")
        sys.stdout = io.StringIO()
        hf_logging.set_verbosity_error()
        hf_logging.disable_progress_bar()
        os.environ |= _NO_PIP

    def leave() -> None:
        for name, value in environment.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        if torch.get_default_device() != device:  # the end of `with torch.device("meta")` was not reached
            torch.device(device).__exit__(None, None, None)
        torch.set_default_dtype(default_dtype)
        torch.set_grad_enabled(gradients)
        torch.random.set_rng_state(random_state)
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()
        if no_hub_bars:
            disable_progress_bars()
        for (owner, name), function in own.items():
            if vars(owner).get(name) is not function:
                setattr(owner, name, function)
        sys.stdout = stdout
        if warnings.filters is not filters:
            warnings.resetwarnings()  # or what was not shown here would count as shown
            warnings.filters = filters

    return between(enter, torch.inference_mode(False)(call), leave)


def _functions() -> dict[tuple[Any, str], Any]:
    modules = [module for name, module in sys.modules.items() if name.startswith(("torch.nn.init", "torch.nn.modules"))]
    return {(torch, "linspace"): torch.linspace} | {
        (owner, name): value
        for owner in (PreTrainedModel, *modules)
        for name, value in vars(owner).items()
        if isinstance(value, FunctionType)
    }
