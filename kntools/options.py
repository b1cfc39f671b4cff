"""What belongs to the machine and not to an experiment: progress bars and rows per forward pass."""

import os
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Any

from tqdm.auto import tqdm

from kntools.arguments import flag, whole
from kntools.scopes import scope


@dataclass(frozen=True)
class Options:
    progress: bool = True  # draw progress bars
    max_rows: int | None = None  # rows per forward pass, clean ones included; None chooses from free memory

    def __post_init__(self) -> None:
        flag("progress", self.progress)
        if self.max_rows is not None:
            object.__setattr__(self, "max_rows", whole("max_rows", self.max_rows, least=1))


_options = Options()
_bars: list[Any] = []  # those of the loops that are running


def options() -> Options:
    return _options


class set_options(ExitStack):
    """Set options for the session, or for a `with` block.

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
        super().__init__()
        unknown = sorted(set(changes) - set(Options.__dataclass_fields__))
        if unknown:
            raise TypeError(f"unknown option {unknown[0]!r}; possible are {', '.join(Options.__dataclass_fields__)}")
        before = {name: getattr(_options, name) for name in changes}
        for _ in range(2):  # an interrupt in the one leaves it to the other
            self.callback(_set, before)
        _set(changes)

    def __repr__(self) -> str:
        return repr(_options)


def _set(changes: dict[str, Any]) -> None:
    global _options
    _options = replace(_options, **changes)


def progress_bar(total: int, unit: str) -> AbstractContextManager[Any]:
    """The progress bar of a long loop. Within another one, and in all processes but the first, nothing is drawn.

    A loop of one step has none either, and leaves the place to those within it.
    """
    counts = total > 1
    # tqdm reads TQDM_DISABLE too, but only when it is imported.
    unwanted = not _options.progress or os.environ.get("TQDM_DISABLE", "0").lower() not in ("", "0", "false")
    hidden = not counts or unwanted or bool(_bars) or os.environ.get("RANK", "0") != "0"
    bar = tqdm(total=total, unit=unit, leave=False, disable=hidden)

    def show() -> Any:
        if counts:
            _bars.append(bar)
        return bar

    def remove() -> None:
        _bars[:] = [other for other in _bars if other is not bar]
        bar.close()

    return scope(show, remove)
