"""Texts that are run again and again with a change in one layer: only the blocks from that layer on, and only the
tokens from where the change is.

What enters block `layer` is computed once and kept; so are the keys and values of the tokens before the change. Texts
of different lengths share a pass: they are filled up behind their end, which in a causal model changes nothing before
it. Below `layer` a pass still runs one row of the model, whose result is dropped.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise, takewhile
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kntools.engine.capability import capability
from kntools.engine.forward import Pick, gather_positions
from kntools.engine.inputs import alike
from kntools.engine.memory import rows_that_fit
from kntools.engine.plan import pass_overhead
from kntools.models import adapter
from kntools.models.attachment import PointHook
from kntools.models.prefix import Rows
from kntools.options import options
from kntools.sites import Hook


def row_groups(model: Any, tokens: Sequence[Tensor], starts: Sequence[int], layer: int) -> "list[Group]":
    """Rows of any lengths, in groups that share passes from block `layer` on, on whose way in kept states enter.

    `starts` are each row's first position that may change; keys and values before it are kept.
    """
    adapter.check_layer(model, layer)
    lengths = [len(row) for row in tokens]
    can = capability(model, max(tokens, key=len)[None])
    if not can.fork:  # each row in a run of its own, from the first block on
        return [Group(model, [n], [row], 0, layer, shared=False) for n, row in enumerate(tokens)]
    begins = list(starts) if can.prefix else [0] * len(tokens)
    fit = options().max_rows or rows_that_fit(model, max(lengths), gradients=True)
    overhead = pass_overhead(model)
    found = []
    # What may not be filled up shares a pass with rows of its own length alone.
    for group in [list(range(len(tokens)))] if can.fill else alike(lengths):
        for part in grouped([begins[n] for n in group], [lengths[n] for n in group], fit, overhead):
            rows = [group[i] for i in part]
            found.append(Group(model, rows, [tokens[n] for n in rows], min(begins[n] for n in rows), layer))
    return found


class Group:
    """The rows of one pass. `numbers` says which of all rows they are, `start` where their window begins."""

    def __init__(
        self, model: Any, numbers: list[int], tokens: list[Tensor], start: int, layer: int, *, shared: bool = True
    ) -> None:
        self.model, self.numbers, self.start, self.layer = model, numbers, start, layer
        # Filled up with each row's own last token: any token would do, but the padding token is special to some models.
        length = max(len(row) for row in tokens)
        self.tokens = torch.stack([torch.cat([row, row[-1:].expand(length - len(row))]) for row in tokens])
        self.prefix = adapter.build_prefix(model, self.tokens[:, :start]) if start else None
        self.entry = self._states_at(layer) if shared else None  # None: each run is a whole one

    def run(self, hooks: Iterable[Hook], asked: Int[Tensor, "row asked"]) -> Float[Tensor, "row asked d_vocab"]:
        """Logits at the `asked` positions (of the whole text), with hooks that see the window `[row window ...]`."""
        given = list(hooks)
        pick = Pick(self.model, dict(given), lambda x: gather_positions(x, asked - self.start))
        points = [*((adapter.hook_point(self.model, name), fn) for name, fn in given), *pick.points]
        if self.entry is None:
            return pick.of(adapter.run(self.model, self.tokens, hooks=points))
        return pick.of(self._pass(points, self.layer, self.entry))

    @torch.no_grad()
    def _states_at(self, layer: int) -> Float[Tensor, "row window d_model"]:
        """What enters block `layer`, untouched."""
        embedded = adapter.run_embedding(self.model, self.tokens, [])[:, self.start :]
        if layer == 0:
            return embedded
        return adapter.run_until(adapter.fork_point(self.model, layer), lambda stop: self._pass([stop], 0, embedded))

    def _pass(self, points: Sequence[PointHook], layer: int, entry: Float[Tensor, "row window d_model"]) -> Tensor:
        """A run in which `entry` is what enters block `layer`."""
        count = self.tokens.shape[0]
        rows = Rows(1, torch.zeros(1, dtype=torch.long, device=self.tokens.device))

        def enter(activation: Tensor, hook: Any) -> Tensor:
            rows.count, rows.prompt_of = count, torch.arange(count, device=activation.device)
            adapter.after_fork(self.model, layer, count, activation.shape[1])
            return entry

        if self.prefix is not None:
            self.prefix.use(rows)
        fork = (adapter.fork_point(self.model, layer), enter)
        return adapter.run(self.model, self.tokens[:1, self.start :], self.prefix, [fork, *points])


def shared_starts(rows: Sequence[tuple[int, ...]], limits: Sequence[int], overhead: int) -> list[int]:
    """How many tokens, up to its limit, each row has in common with another; none if that is not worth a pass."""
    starts = [0] * len(rows)
    for a, b in pairwise(sorted(range(len(rows)), key=rows.__getitem__)):
        common = len(list(takewhile(lambda ids: ids[0] == ids[1], zip(rows[a], rows[b], strict=False))))
        for n in (a, b):
            starts[n] = min(limits[n], max(starts[n], common))
    begun = {row[:start] for row, start in zip(rows, starts, strict=True)}
    return starts if sum(starts) - sum(map(len, begun)) >= overhead else [0] * len(rows)


def grouped(starts: Sequence[int], lengths: Sequence[int], max_rows: int, overhead: int) -> list[list[int]]:
    """Which rows share a pass, so that as few positions as possible are run: the cheapest cut of their order."""
    order = sorted(range(len(starts)), key=lambda n: (starts[n], lengths[n]))
    best: list[tuple[int, int]] = [(0, 0)]  # for the first n rows: the cost, and where their last group begins
    for stop in range(1, len(order) + 1):
        ways, longest = [], 0
        for begin in range(stop - 1, max(0, stop - max_rows) - 1, -1):
            longest = max(longest, lengths[order[begin]])
            window = longest - starts[order[begin]]
            ways.append((best[begin][0] + overhead + (stop - begin) * window, begin))
        best.append(min(ways))
    cuts = [len(order)]
    while cuts[-1]:
        cuts.append(best[cuts[-1]][1])
    cuts.reverse()
    return [order[a:b] for a, b in pairwise(cuts)]
