"""What belongs to the machine and not to an experiment: progress bars and rows per forward pass."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from operator import index
from typing import Any, SupportsIndex

from tqdm.auto import tqdm


@dataclass(frozen=True)
class Options:
    """The options in force. See `set_options`."""

    progress: bool = True  # draw progress bars
    max_rows: int | None = None  # rows per forward pass, clean ones included; None chooses from free memory

    def __post_init__(self) -> None:
        if not isinstance(self.progress, bool):
            raise TypeError(f"progress={self.progress!r}; give True or False")
        if isinstance(self.max_rows, bool) or not (self.max_rows is None or isinstance(self.max_rows, SupportsIndex)):
            raise TypeError(f"max_rows={self.max_rows!r}; give a whole number of rows, or None")
        object.__setattr__(self, "max_rows", None if self.max_rows is None else index(self.max_rows))
        if self.max_rows is not None and self.max_rows < 1:
            raise ValueError(f"max_rows={self.max_rows}; give at least 1, or None to choose it from free memory")


_options = Options()
_bars = 0  # progress bars that are on the screen now


def options() -> Options:
    """The options in force."""
    return _options


class set_options:
    """Set options for the rest of the session, or for the length of a `with` block.

    ```python
    kn.set_options(progress=False)
    with kn.set_options(max_rows=64):
        kn.integrated_gradients(model, prompt)
    ```

    Arguments:
        progress: draw progress bars (default True). The environment variable `TQDM_DISABLE=1` hides them too.
        max_rows: rows per forward pass, clean ones included (1 runs everything on its own). `None` (default) chooses
            from free memory.

    Raises:
        TypeError, ValueError: an unknown option, or a value that makes no sense.
    """

    def __init__(self, **changes: Any) -> None:
        global _options
        unknown = sorted(set(changes) - set(Options.__dataclass_fields__))
        if unknown:
            raise TypeError(f"unknown option {unknown[0]!r}; possible are {', '.join(Options.__dataclass_fields__)}")
        self._before = {name: getattr(_options, name) for name in changes}
        _options = replace(_options, **changes)

    def __enter__(self) -> set_options:
        return self

    def __exit__(self, *error: object) -> None:
        global _options
        _options = replace(_options, **self._before)


@contextmanager
def progress_bar(total: int, unit: str) -> Iterator[Any]:
    """The progress bar of a long loop. Within another one, and in all processes but the first, nothing is drawn.

    A loop of one step has none either, and leaves the place to those within it.
    """
    global _bars
    counts = total > 1
    hidden = not counts or not _options.progress or _bars > 0 or os.environ.get("RANK", "0") != "0"
    # tqdm reads TQDM_DISABLE itself, unless `disable` is given.
    more = {"disable": True} if hidden else {}
    with tqdm(total=total, unit=unit, leave=False, **more) as bar:
        _bars += counts
        try:
            yield bar
        finally:
            _bars -= counts
