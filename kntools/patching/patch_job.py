"""What exact and first-order patching share: the pairs, the cells of the grid, the two runs of each pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from kntools.engine.sweep import Intervention, Metric, sweep
from kntools.hooks.interventions import capture, patch
from kntools.models import adapter
from kntools.patching.patch_grid import PatchGrid
from kntools.patching.prompt_pairs import Metrics, Pair, Prompts, encode_pairs, metric_for
from kntools.patching.read_outs import check_live
from kntools.prompts import MultiToken
from kntools.results.provenance import provenance
from kntools.sites import Hook, Positions, hook_name, resolve_positions

# Pairs whose captured activations are held at a time.
_TOGETHER = 8


@dataclass(frozen=True)
class Request:
    """The arguments of `activation_patch` and `attribution_patch`."""

    site: str
    metric: Metrics
    layers: Sequence[int] | None
    positions: Positions
    heads: bool | Sequence[int]
    neurons: bool | Sequence[int]
    noising: bool
    multi_token: MultiToken
    prepend_bos: bool | None
    max_rows: int | None


@dataclass(frozen=True)
class Runs:
    """What patching gives for some pairs: the cells, and the metric of the run that was patched."""

    values: Float[Tensor, "pair layer column"]
    own: Float[Tensor, " pair"]


@dataclass(frozen=True)
class Job:
    """A `Request` about pairs that have been encoded and checked."""

    model: Any
    request: Request
    pairs: list[Pair]
    metrics: list[Metric]
    metric_name: str
    layers: tuple[int, ...]
    columns: tuple[int, ...]
    axis: str

    @classmethod
    def of(cls, model: Any, clean: Prompts, corrupted: Prompts | str | Sequence[str], request: Request) -> Job:
        if request.heads is not False and request.neurons is not False:
            raise ValueError("heads and neurons are two kinds of columns; ask for one of them")
        pairs = encode_pairs(model, clean, corrupted, request.prepend_bos, request.multi_token)
        metrics, metric_name = metric_for(model, pairs, request.metric)
        layers = tuple(range(adapter.n_layers(model)) if request.layers is None else request.layers)
        if not layers:
            raise ValueError("layers is empty; leave it out for all layers")
        for layer in layers:
            adapter.check_layer(model, layer)
            adapter.hook_point(model, hook_name(request.site, layer))
        first = pairs[0].corrupted
        check_live(model, first.tokens, request.site, layers[0], first.position)
        axis, columns = _columns(model, request, pairs, layers[0])
        return cls(model, request, pairs, metrics, metric_name, layers, columns, axis)

    def patched_tokens(self, group: Sequence[int]) -> Tensor:
        """The prompts that are patched."""
        return torch.cat([self._both(n)[0].tokens for n in group])

    def asked(self, group: Sequence[int]) -> list[list[int]]:
        return [list(self.pairs[n].clean.positions) for n in group]

    def capture(self, group: Sequence[int]) -> tuple[list[dict[str, Tensor]], Float[Tensor, " pair"]]:
        """Of the other prompts: activations by hook name for each pair, and the metric."""
        sources: list[dict[str, Tensor]] = [{} for _ in group]
        values = sweep(
            self.model,
            torch.cat([self._both(n)[1].tokens for n in group]),
            [Intervention(capture(sources[p], [self.request.site], self.layers), prompt=p) for p in range(len(group))],
            pos=self.asked(group),
            metric=[self.metrics[n] for n in group],
            max_rows=self.request.max_rows,
        )
        for name, x in (item for source in sources for item in source.items()):
            if bool(x.isnan().any()):
                raise FloatingPointError(f"{name} holds nan: activations overflow; load the model in float32")
        return sources, values.float().cpu()

    def hooks(self, pair: Pair, source: dict[str, Tensor], layer: int, column: int) -> list[Hook]:
        """The patch of one cell; none where both runs are the same, whatever the model computes."""
        where = resolve_positions(column if self.axis == "position" else self.request.positions, pair.length)
        if not adapter.is_masked(self.model):  # a causal model's states before the first difference are equal
            where = tuple(p for p in where if p >= pair.first_difference)
        if not where:
            return []
        heads = [column] if self.axis == "head" else None
        neurons = [column] if self.axis == "neuron" else None
        return patch(source, self.request.site, layer, where, heads=heads, neurons=neurons)

    def sum_per_column(self, x: Float[Tensor, "pos ..."], pair: Pair) -> Float[Tensor, " column"]:
        """The sum of `x`, `[pos d]` or `[pos head d]`, over what each column patches."""
        if self.axis == "position":
            return x.flatten(1).sum(1)[list(self.columns)]
        patched = x[list(resolve_positions(self.request.positions, pair.length))].sum(0)
        return (patched.sum(-1) if self.axis == "head" else patched)[list(self.columns)]

    def grid(
        self,
        method: str,
        run: Callable[[list[int], list[dict[str, Tensor]]], Runs],
        progress: bool,
    ) -> PatchGrid:
        """Run all pairs, in groups of equal length."""
        about = provenance(
            self.model, multi_token=self.request.multi_token, prepend_bos=self.pairs[0].clean.prepend_bos
        )
        values: dict[int, Tensor] = {}
        metrics: dict[int, tuple[Tensor, Tensor]] = {}
        cells = len(self.layers) * len(self.columns)
        with tqdm(total=len(self.pairs) * cells, disable=not progress, unit="cell", leave=False) as bar:
            for group in self._groups():
                sources, other = self.capture(group)
                runs = run(group, sources)
                for p, n in enumerate(group):
                    values[n] = runs.values[p]
                    metrics[n] = (runs.own[p], other[p]) if self.request.noising else (other[p], runs.own[p])
                bar.update(len(group) * cells)
        in_order = range(len(self.pairs))
        return PatchGrid(
            per_pair=torch.stack([values[n] for n in in_order]),
            clean_per_pair=torch.stack([metrics[n][0] for n in in_order]),
            corrupted_per_pair=torch.stack([metrics[n][1] for n in in_order]),
            layers=self.layers,
            columns=self.columns,
            axis=self.axis,
            site=self.request.site,
            method=method,
            metric=self.metric_name,
            noising=self.request.noising,
            tokens=tuple(p.labels for p in self.pairs),
            pairs=tuple((p.clean.prompt, p.corrupted.prompt) for p in self.pairs),
            provenance=about,
        )

    def _both(self, n: int) -> tuple[Any, Any]:
        """The prompt that is patched, and the other one."""
        pair = self.pairs[n]
        return (pair.clean, pair.corrupted) if self.request.noising else (pair.corrupted, pair.clean)

    def _groups(self) -> list[list[int]]:
        alike: dict[tuple[int, int], list[int]] = {}
        for n, pair in enumerate(self.pairs):
            alike.setdefault((pair.length, len(pair.clean.positions)), []).append(n)
        return [same[i : i + _TOGETHER] for same in alike.values() for i in range(0, len(same), _TOGETHER)]


def _columns(model: Any, request: Request, pairs: Sequence[Pair], layer: int) -> tuple[str, tuple[int, ...]]:
    """The axis of the grid's columns, and which they are."""
    if request.heads is False and request.neurons is False:
        lengths = {p.length for p in pairs}
        if len(lengths) > 1:
            raise ValueError(
                f"the pairs have {sorted(lengths)} tokens: their positions do not line up; "
                "patch pairs of one length together, or heads=True"
            )
        return "position", resolve_positions(request.positions, lengths.pop())
    for pair in pairs:
        resolve_positions(request.positions, pair.length)  # out of range is an error before any work
    seen: dict[str, Tensor] = {}
    sweep(model, pairs[0].clean.tokens, [capture(seen, [request.site], [layer])])
    [found] = seen.values()
    if request.heads is not False:
        if found.ndim != 4:
            raise ValueError(f"site {request.site!r} has no heads; those of z, q, k, v and pattern do")
        axis = 1 if hook_name(request.site, layer).endswith(("hook_pattern", "hook_attn_scores")) else 2
        return "head", _chosen(request.heads, found.shape[axis], "head")
    if found.ndim != 3:
        raise ValueError(f"site {request.site!r} is split into heads; neurons are entries of e.g. mlp.hook_post")
    return "neuron", _chosen(request.neurons, found.shape[-1], "neuron")


def _chosen(asked: bool | Sequence[int], count: int, what: str) -> tuple[int, ...]:
    wanted = tuple(range(count)) if isinstance(asked, bool) else tuple(asked)
    for i in wanted:
        if not 0 <= i < count:
            raise IndexError(f"{what} {i} does not exist: there are {count}")
    if not wanted:
        raise ValueError(f"{what}s is empty; True stands for all of them")
    return wanted
