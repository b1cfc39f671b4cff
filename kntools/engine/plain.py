"""The plain loop: what a sweep means, and what it falls back to where a model's batch cannot grow."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from kntools.engine.forward import PassOutput
from kntools.engine.pass_hooks import MustFire, Watched, watch
from kntools.engine.plan import Item
from kntools.models import adapter
from kntools.sites import resolve_positions


def run_plain(model: Any, tokens: Tensor, asked: Sequence[Sequence[int]], item: Item) -> PassOutput:
    """One intervention in a run of its own: the whole prompt, every row from the embedding on."""
    inter, must_fire = item.intervention, MustFire()
    watched: dict[str, Watched] = {}
    watches = [(name, watch(name, resolve_positions(pos, tokens.shape[1]), watched)) for name, pos in inter.wrt]
    hooks = [
        (adapter.hook_point(model, name), must_fire.wrap(f"{name!r} (intervention {item.number})", fn))
        for name, fn in [*inter.hooks, *watches]
    ]
    logits = adapter.run(model, tokens[inter.prompt].expand(inter.rows, -1), hooks=hooks)
    must_fire.check()
    picked = logits[:, list(asked[inter.prompt])]
    return PassOutput(picked, {item.number: slice(0, inter.rows)}, {item.number: watched})
