"""`--hooked`: the commands on HookedTransformer and HookedEncoder say what they say on a bridge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_cli import TARGET, TEXT, run_json, save_tiny

pytestmark = pytest.mark.legacy
MASKED = "The capital of Canada is [MASK]."
FRANCE = "The capital of France is"


def numbers(found: Any) -> list[float]:
    """All numbers of a result, in order."""
    if isinstance(found, dict):
        return [n for key, value in found.items() if key not in ("provenance", "seconds") for n in numbers(value)]
    if isinstance(found, list):
        return [n for value in found for n in numbers(value)]
    return [float(found)] if isinstance(found, int | float) and not isinstance(found, bool) else []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("llama", ["attribute", TEXT, TARGET]),
        ("llama", ["patch", TEXT, TARGET, FRANCE, "--foil", " Paris"]),
        ("llama", ["trace", TEXT, TARGET, "--subject", "Canada", "--kind", "mlp", "--samples", "2"]),
        ("llama", ["edit", TEXT, " Rome", "--subject", "Canada", "--layer", "1", "--steps", "3"]),
        ("bert", ["attribute", MASKED, "Ottawa"]),
        ("bert", ["trace", MASKED, "Ottawa", "--subject", "Canada", "--samples", "2"]),
    ],
)
def test_the_same_numbers(name: str, words: list[str], tmp_path: Path) -> None:
    folder = str(save_tiny(name, tmp_path / name))
    bridge, hooked = (run_json(*words, "--model", folder, *more) for more in ([], ["--hooked"]))
    assert numbers(hooked) == pytest.approx(numbers(bridge), abs=1e-4)
    assert len(numbers(hooked)) > 3
