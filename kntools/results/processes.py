"""Many processes, one table: `accelerate launch -m kntools report ...` splits the items of an analysis.

`torchrun --nproc_per_node 2 -m kntools report ...` does so on a machine without GPUs, where `accelerate launch` would
need MPI. Started alone there is one process, and nothing here does anything.
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
    """The device of this process, where there are several; `None` leaves the choice to others."""
    return None if count() == 1 else str(_state().device)


@contextmanager
def main_first() -> Iterator[None]:
    """The main process goes through this block before all others."""
    if count() == 1:
        yield
        return
    with _state().main_process_first():
        yield


def share(items: Sequence[T]) -> Sequence[T]:
    """Every `count()`-th item: neighbours, which are often alike in length, go to different processes."""
    return items[index() :: count()]


def gather(items: Sequence[T]) -> list[T]:
    """The items of all processes, in all processes. Every process must call it."""
    if count() == 1:
        return list(items)
    from accelerate.utils import gather_object

    _state()
    return gather_object(list(items))


def wait() -> None:
    """Until all processes are here. Every process must call it."""
    if count() > 1:
        _state().wait_for_everyone()


def _state() -> Any:
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.accelerator.is_available(), timeout=_PATIENCE)
