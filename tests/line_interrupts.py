"""Ctrl-C at chosen source lines of kntools, as a trace function raises it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

#: A line of a function.
Line = tuple[CodeType, int]


@contextmanager
def tracing(files: set[str], on_line: Callable[[Line], None]) -> Iterator[None]:
    """Call `on_line` before every line of these files. What it raises is raised there; tracing then ends."""

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            on_line((frame.f_code, frame.f_lineno))
        return trace

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(None)


def lines_of(files: set[str], run: Callable[[], Any]) -> Counter[Line]:
    """How often each line is reached."""
    reached: Counter[Line] = Counter()
    with tracing(files, lambda line: reached.update([line])):
        run()
    return reached


def interrupted_runs(files: set[str], run: Callable[[], Any]) -> Iterator[Line]:
    """Run again and again, interrupted when each line is reached for the first and for the last time.

    Yields the line while the interrupt is handled: the frames that it has left are still there.
    """
    for line, count in lines_of(files, run).items():
        for at in sorted({1, count}):
            seen = 0

            def strike(reached: Line, line: Line = line, at: int = at) -> None:
                nonlocal seen
                seen += reached == line
                if reached == line and seen == at:
                    raise KeyboardInterrupt

            try:
                with tracing(files, strike):
                    run()
            except KeyboardInterrupt:
                yield line
