"""The configurations of the architecture table: which tiny models are built, and what is expected of each.

They are the lines of `families.jsonl`, and some of them again in TransformerLens' compatibility mode.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

FILE = Path(__file__).with_name("families.jsonl")
NATIVE = "native"  # in place of a class of transformers: TransformerLens' own model

Compatibility = Literal["off", "folded", "unfolded"]


@dataclass(frozen=True)
class Family:
    """One configuration."""

    name: str
    model: str  # class of transformers
    kind: str  # of architecture, for the reader of the table
    options: dict[str, Any] = field(default_factory=dict)  # of its config, beside the sizes that all share
    neurons: Literal["all"] | tuple[int, ...] = "all"  # the layers that have some
    masked: bool = False
    compatibility: Compatibility = "off"


# What is also run in compatibility mode, with weights folded and centred, and without.
_COMPATIBLE = ("gpt2", "llama", "gpt-neox", "gpt-j", "gemma2", "qwen3", "olmo2", "bloom", "mixtral", "bert", "opt")


def _families() -> dict[str, Family]:
    listed = [_family(**json.loads(line)) for line in FILE.read_text(encoding="utf-8").splitlines()]
    by_name = {family.name: family for family in listed}
    modes: list[tuple[str, Compatibility]] = [("compatible", "folded"), ("compatible-unfolded", "unfolded")]
    variants = [
        replace(by_name[name], name=f"{name}-{word}", compatibility=mode)
        for name in _COMPATIBLE
        for word, mode in modes
    ]
    return {family.name: family for family in (*listed, *variants)}


def _family(*, neurons: Any = "all", **fields: Any) -> Family:
    return Family(neurons=neurons if neurons == "all" else tuple(neurons), **fields)


FAMILIES: dict[str, Family] = _families()
