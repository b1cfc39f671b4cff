"""Loaders of models, kept from changing anything global and from printing."""

import contextlib
import io
import os
import warnings
from collections.abc import Iterator

import torch
from transformers.utils import logging as hf_logging

# TransformerLens calls pip for torchvision, in whatever version, where a model of images and text lacks it.
_NO_PIP = {"PIP_NO_INDEX": "1", "UV_OFFLINE": "1"}


@contextlib.contextmanager
def leaving_no_trace() -> Iterator[None]:
    """Silence the loaders here alone, and give back random state, default dtype, log settings and environment."""
    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    default_dtype, environment = torch.get_default_dtype(), {name: os.environ.get(name) for name in _NO_PIP}
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        hf_logging.set_verbosity_error()
        hf_logging.disable_progress_bar()
        os.environ |= _NO_PIP
        try:
            yield
        finally:
            for name, value in environment.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
            torch.set_default_dtype(default_dtype)
            hf_logging.set_verbosity(verbosity)
            if bars:
                hf_logging.enable_progress_bar()
