"""Many processes, one table: `accelerate launch -m kntools report ...` splits the items of an analysis.

So does `torchrun --nproc_per_node 2 -m -- kntools report ...`, the only way on a machine without GPUs, where
`accelerate launch` would need MPI. Started alone there is one process, and nothing here does anything.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar("T")

# A process that is done waits for the slowest one, which may have a large model's share of a data set to go.
_PATIENCE = timedelta(days=7)


def count() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def index() -> int:
    return int(os.environ.get("RANK", "0")) if count() > 1 else 0


def is_main() -> bool:
    return index() == 0


def device() -> str | None:
    """The device of this process, where there are several, in turn; `None` leaves the choice to others."""
    if count() == 1:
        return None
    import torch

    here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if here is None:
        return "cpu"
    return f"{here.type}:{int(os.environ.get('LOCAL_RANK', '0')) % torch.accelerator.device_count()}"


@contextmanager
def main_first() -> Iterator[None]:
    """The main process goes through this block before all others."""
    if not is_main():
        wait()
    yield
    if is_main():
        wait()


def share(items: Sequence[T]) -> Sequence[T]:
    """Every `count()`-th item: neighbours, which are often alike in length, go to different processes."""
    return items[index() :: count()]


def gather(items: Sequence[T]) -> list[T]:
    """The items of all processes, in all processes. Every process must call it."""
    if count() == 1:
        return list(items)
    parts: list[Any] = [None] * count()
    _distributed().all_gather_object(parts, list(items))
    return [item for part in parts for item in part]


def wait() -> None:
    """Until all processes are here. Every process must call it."""
    if count() > 1:
        _distributed().barrier()


def _distributed() -> Any:
    """`torch.distributed`, over gloo: results are Python objects, and NCCL allows one process per GPU only."""
    from torch import distributed

    if not distributed.is_initialized():
        distributed.init_process_group("gloo", timeout=_PATIENCE)
    return distributed
