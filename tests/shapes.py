"""Which functions the tests check the arguments and results of: those with shapes in their signatures.

The option `--jaxtyping-packages` wraps every function of the packages that it names. For a function without a shape
that repeats what mypy has checked, and for all of them it doubles the time of the tests.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxtyping

PACKAGE = Path(__file__).resolve().parent.parent / "kntools"
SHAPE = r"\b(?:Float|Int|Bool|Shaped)\["
#: `Scores = Attribution | Float[Tensor, "prompt layer neuron"]` is a shape too.
ALIASES = {
    name for file in PACKAGE.rglob("*.py") for name in re.findall(rf"^(\w+) = .*{SHAPE}", file.read_text("utf-8"), re.M)
}
SHAPES = re.compile("|".join([SHAPE, *(rf"\b{name}\b" for name in ALIASES)]))
checked = jaxtyping.jaxtyped


def has_shapes(made: Any) -> bool:
    """Whether a function or a class names a shape in its annotations."""
    return any(SHAPES.search(str(text)) for text in getattr(made, "__annotations__", {}).values())


def where_there_are_shapes(*, typechecker: Any) -> Callable[[Any], Any]:
    return lambda made: checked(made, typechecker=typechecker) if has_shapes(made) else made


def check_only_shapes() -> None:
    """The decorator that the option puts on every function leaves alone those without a shape."""
    jaxtyping.jaxtyped = where_there_are_shapes
