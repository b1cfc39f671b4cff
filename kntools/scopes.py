"""Changes that are undone whatever happens, also where Ctrl-C strikes while they are made or undone.

A `with` statement of Python is not enough: an interrupt between its last line and `__exit__` skips what would undo the
change. `between` has no such gap. `scope` is for those who need a `with` statement all the same.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


def between(enter: Callable[[], object], call: Callable[[], T], leave: Callable[[], object]) -> T:
    """What `call` returns, after `enter` and before `leave`, which may be called again when it was interrupted."""
    try:
        try:
            enter()
            return call()
        finally:
            leave()
    except BaseException:
        leave()  # the line above was not reached, or not finished
        raise


@contextmanager
def scope(enter: Callable[[], T], leave: Callable[[], object]) -> Iterator[T]:
    """The same for a `with` block, which gets what `enter` returns."""
    try:
        try:
            yield enter()
        finally:
            leave()
    except BaseException:
        leave()
        raise
