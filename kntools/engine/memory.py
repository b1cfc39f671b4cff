"""How many rows a pass may have, and what to do when that was too many."""

from typing import Any

import psutil
import torch

from kntools.models import adapter

#: No pass gains from more: matrix products are long full by then.
MOST_ROWS = 1024


def rows_that_fit(model: Any, positions: int, *, gradients: bool) -> int:
    """Rows of `positions` tokens that fit into half of the free memory: a power of two.

    The last bits of a sum depend on how many rows are multiplied at once: a coarse step keeps results the same.
    """
    cfg = model.cfg
    hidden = int(getattr(cfg, "d_mlp", None) or 4 * cfg.d_model)
    element = next(model.parameters()).element_size()
    heads = int(getattr(cfg, "n_heads", 1) or 1)
    # Activations of one block that a backward pass keeps, counted generously, and the logits with two copies.
    block = positions * (24 * cfg.d_model + 8 * hidden + 4 * heads * positions)
    logits = 3 * 4 * int(cfg.d_vocab)
    per_row = element * block * (cfg.n_layers if gradients else 2) + logits
    fit = max(1, int(free_bytes(adapter.device_of(model)) // 2 // per_row))
    return min(MOST_ROWS, 1 << (fit.bit_length() - 1))


def free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What PyTorch holds but does not use is free to us too.
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    return int(psutil.virtual_memory().available)


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
