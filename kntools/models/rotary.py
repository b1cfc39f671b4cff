"""Rotary tables that remember the longest run (`rope_type="dynamic"`): forgotten before each run.

`transformers` stretches such tables for a run longer than the original length, and keeps them so for the shorter runs
that follow. A run here gives what it gives in a new process.
"""

from typing import Any

import torch

from kntools.models.modules import all_modules, once


def forget_lengths(model: Any) -> None:
    for module, prefix in once(model, "dynamic tables", lambda: _tables(model)):
        buffer = getattr(module, f"{prefix}inv_freq")
        setattr(module, f"{prefix}inv_freq", getattr(module, f"{prefix}original_inv_freq").to(buffer))
        setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)


def _tables(model: Any) -> list[tuple[torch.nn.Module, str]]:
    return [(m, prefix) for m in all_modules(model) for prefix in _prefixes(getattr(m, "rope_type", None))]


def _prefixes(kind: Any) -> list[str]:
    """How the names of dynamic tables begin: a module may have one table per type of layer."""
    kinds = kind if isinstance(kind, dict) else {"": kind}
    return [f"{layer}_" if layer else "" for layer, of_layer in kinds.items() if "dynamic" in str(of_layer)]
