"""A corruption that takes nothing away leaves nothing to restore: say so, once per call."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from kntools.results.display import number


class WeakCorruption(UserWarning):
    """The corruption does not lower the answer."""


@contextmanager
def unwarned() -> Iterator[None]:
    """For a caller that traces many prompts one by one, and warns of all of them together."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WeakCorruption)
        yield


def warn_of_weak_corruption(
    texts: Sequence[str], clean: Sequence[float], corrupted: Sequence[float], *, rising: bool = True
) -> None:
    """Warn of the prompts whose answer is not lower in the corrupted run than in the clean one.

    A metric that need not be higher for a better answer (`rising=False`) is only looked at for no change at all.
    """
    weak = [
        f"{text!r}: {number(before)} -> {number(after)}"
        for text, before, after in zip(texts, clean, corrupted, strict=True)
        if after == before or (rising and after > before)
    ]
    if weak:
        warnings.warn(
            f"the corruption does not lower the answer in {len(weak)} of {len(texts)} traces: there is nothing to "
            f"restore ({'; '.join(weak[:3])}{'; ...' if len(weak) > 3 else ''}). Use stronger noise, prompts that "
            "the model answers, or another occurrence of a subject that occurs twice",
            WeakCorruption,
            stacklevel=3,
        )
