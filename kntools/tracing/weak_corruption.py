"""A corruption that takes nothing away leaves nothing to restore: say so, once per call."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from kntools.metrics import alike
from kntools.results.display import number


class WeakCorruption(UserWarning):
    """The corruption does not lower the answer."""


@contextmanager
def unwarned() -> Iterator[None]:
    """For a caller that traces many prompts one by one, and warns of all of them together."""
    with warnings.catch_warnings(action="ignore", category=WeakCorruption):
        yield


def warn_of_weak_corruption(traces: Sequence[tuple[str, float, float]], *, rising: bool = True) -> None:
    """Warn of texts whose answer the corruption does not lower; if not `rising`, does not change.

    `traces` are texts with the metric of the clean and of the corrupted run.
    """
    weak = [
        f"{text!r}: {number(clean)} -> {number(corrupted)}"
        for text, clean, corrupted in traces
        if alike(clean, corrupted) or (rising and corrupted > clean)
    ]
    if weak:
        warnings.warn(
            f"the corruption does not lower the answer in {len(weak)} of {len(traces)} traces: there is nothing to "
            f"restore ({'; '.join(weak[:3])}{'; ...' if len(weak) > 3 else ''}). Use stronger noise, prompts that "
            "the model answers, or another occurrence of a subject that occurs twice",
            WeakCorruption,
            stacklevel=3,
        )
