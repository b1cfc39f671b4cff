"""Hook functions that say where they act, or what they share: what a sweep may do with them.

A `PositionedHook` lets a sweep leave out the part of a prompt before the first change: it is asked for its positions,
and moved when the first tokens are not there. A `StatefulHook` treats each token by itself.
"""

import re
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kntools.arguments import whole_numbers
from kntools.models import adapter, neuron_layers
from kntools.models.causality import is_masked
from kntools.sites import ANSWER, SITES, Answer, Positions, resolve_positions

# Attention scores and patterns are [batch head query key]: their position is the query's.
QUERY_AXIS = ("hook_pattern", "hook_attn_scores")
# Within attention these are [batch head pos d_head] in some architectures, and [batch pos head d_head] in others.
_HEADS_FIRST = re.compile(r"\.attn\.(hook_[qkv]|hook_[qk]_normed|\w+_norm\.\w+)$")
# Sites with one entry per token that is run, whatever was kept from a prefix.
_OUTSIDE = ("hook_embed", "hook_pos_embed", "hook_in", "hook_out", "hook_normalized", "hook_scale")
_PER_TOKEN = (*SITES.values(), *_OUTSIDE)


def position_axis(hook: Any, model: Any = None) -> int:
    """Which axis of an activation is the position (batch is always the first). `None`: of the model that is running."""
    declared, name = getattr(hook, "pos_dim", None), hook.name or ""  # transformer-lens 4.x says so at most hook points
    if declared is not None:
        return int(declared)
    if _HEADS_FIRST.search(name) and (owner := adapter.running_model() if model is None else model) is not None:
        return adapter.position_axes(owner).get(name, 1)
    return 2 if name.endswith(QUERY_AXIS) else 1


def axis_of_positions(activation: Tensor, hook: Any) -> int:
    """The same of an activation that has an axis of the batch and one of positions."""
    if activation.ndim < 3 and activation.is_floating_point():
        raise ValueError(
            f"{hook.name} is {tuple(activation.shape)} in this model: its rows are the tokens of all prompts, without "
            "positions; write a hook of your own, which gets it as it is"
        )
    return position_axis(hook)


@dataclass(frozen=True, eq=False, repr=False)
class PositionedHook:
    """Apply `edit` to an activation at `pos`, on a copy.

    `edit` gets `[batch chosen ...]` (positions moved to axis 1) and returns the new values, or `None` to change
    nothing. With `whole`, the activation `[1 pos ...]` of another run, it also gets that run's values at the same
    positions; with `with_axis`, the axis where the model has its positions. `name` is the hook point that it is for:
    where a layer without neurons calls something else by their name, it raises an error.
    """

    pos: Positions
    edit: Callable[..., Tensor | None]
    label: str
    _: KW_ONLY
    name: str = ""
    whole: Tensor | None = None
    with_axis: bool = False
    offset: int = 0  # how many tokens are left out of the run
    length: int | None = None  # ... and of how many; `None`: all of them are run

    def __post_init__(self) -> None:
        if not isinstance(self.pos, slice | Answer | None):
            whole_numbers("pos", self.pos)

    def __repr__(self) -> str:
        where = "all positions" if self.pos is None else "the answer" if self.pos is ANSWER else self.pos
        return f"<{self.label} at {where}>"

    def moved(self, offset: int, length: int) -> "PositionedHook":
        """This hook for a run that leaves out the first `offset` of `length` tokens."""
        return replace(self, offset=offset, length=length)

    def at(self, pos: Positions) -> "PositionedHook":
        """This hook at other positions: where the answer's are known, those of `ANSWER`."""
        return replace(self, pos=pos)

    def _last_token(self, rows: int) -> int:
        """Where `ANSWER` is in a run of tokens alone: at the last token, or nobody knows."""
        model = adapter.running_model()
        if model is None:
            raise RuntimeError(f"{self!r} was called outside of a model's forward pass; give it pos=")
        masked = is_masked(model)
        if masked or rows > 1:
            why = "a masked model answers at its mask" if masked else f"{rows} rows are run, which may be padded"
            raise ValueError(
                f"{self!r} has no position, and {why}: give pos= (-1 is the last token of every row), or "
                "run it with kn.sweep(model, prompt, [hooks])"
            )
        return -1

    def __call__(self, activation: Tensor, hook: Any) -> Tensor | None:
        if self.pos is ANSWER:
            return self.at(self._last_token(activation.shape[0]))(activation, hook)
        if neuron_layers.is_of_neurons(self.name) and (model := adapter.running_model()) is not None:
            neuron_layers.check_hook(model, self.name, activation.shape[:2])
        axis = axis_of_positions(activation, hook)
        x = activation.movedim(axis, 1)
        length = x.shape[1] if self.length is None else self.length
        absolute = resolve_positions(self.pos, length)
        local = [p - self.offset for p in absolute]
        everything = local == list(range(x.shape[1]))
        at = torch.tensor(local, device=x.device)
        chosen = x if everything else x.index_select(1, at)
        args: list[Any] = [axis] if self.with_axis else []
        if self.whole is not None:
            other = self.whole.movedim(axis, 1)
            if other.shape[1] != length:
                raise ValueError(
                    f"{self.label}: the other run has {other.shape[1]} tokens, this one {length}; "
                    "patching needs prompts of equal length"
                )
            args.append(other.index_select(1, torch.tensor(absolute, device=other.device)))
        new = self.edit(chosen, *args)
        if new is None:
            return None
        new = new.to(x.dtype)
        # An edit may hand back what it was given; the copy keeps the incoming activation untouched.
        out = (new if everything else x.index_copy(1, at, new)).movedim(1, axis)
        return activation.copy_(out) if shares_memory(self.name) else out


@dataclass(frozen=True, eq=False)
class StatefulHook:
    """A hook function that shares `state` with other hooks of its list, and treats each token by itself.

    Rows of a sweep are run side by side: every row gets functions with their own state; the same list may be
    given to several rows.
    """

    fn: Callable[[Tensor, dict[str, Any]], Tensor | None]
    state: dict[str, Any]

    def __call__(self, activation: Tensor, hook: Any) -> Tensor | None:
        return self.fn(activation, self.state)

    def for_row(self, states: dict[int, dict[str, Any]]) -> "StatefulHook":
        """This hook for one row; `states` are the row's own, by the states that they stand for."""
        return replace(self, state=states.setdefault(id(self.state), {}))


def shares_memory(name: str) -> bool:
    """Is this the hook on a tensor that the model also reads elsewhere?

    On a bridge `hook_resid_mid` is the input of the second norm alone; the residual stream goes on from the same
    tensor. Written in place an edit reaches both, as it does on a HookedTransformer.
    """
    return name.endswith("hook_resid_mid")


def is_local(name: str, fn: Any) -> bool:
    """May the tokens before this hook's first position be left out of the run?"""
    return isinstance(fn, PositionedHook) and name.endswith(_PER_TOKEN)
