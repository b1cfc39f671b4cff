"""Pairs of prompts in batches of equal length: what every kind of patching runs over."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from kntools.arguments import flag
from kntools.engine.inputs import bos_of, in_batches
from kntools.engine.metric_choice import Metrics, choose_metrics
from kntools.engine.prompt_pairs import Corrupted, Pair, encode_pairs
from kntools.engine.sweep import Intervention, sweep
from kntools.engine.values import Metric
from kntools.hooks.states import capture
from kntools.patching.cells import CellChoice, Cells, make_cells
from kntools.patching.patch_grid import PatchGrid
from kntools.prompts import Encoded, Prompts
from kntools.results.provenance import provenance

#: Activations of one run of each pair, by hook name.
States = list[dict[str, Tensor]]


@dataclass(frozen=True)
class Batch:
    """Pairs of equal length. One run of each is patched with activations of the other."""

    model: Any
    pairs: list[Pair]
    metrics: list[Metric]
    cells: Cells
    noising: bool

    @property
    def patched(self) -> list[Encoded]:
        return [p.clean if self.noising else p.corrupted for p in self.pairs]

    @property
    def other(self) -> list[Encoded]:
        return [p.corrupted if self.noising else p.clean for p in self.pairs]

    def capture(self, prompts: list[Encoded], sites: dict[int, list[str]]) -> tuple[States, Float[Tensor, " pair"]]:
        """The activations at some sites of each layer, and the metric of the runs."""
        states: States = [{} for _ in prompts]
        runs = [
            Intervention([h for layer, names in sites.items() for h in capture(names, [layer], into)], prompt=p)
            for p, into in enumerate(states)
        ]
        values = sweep(self.model, prompts, runs, metric=self.metrics)
        for name, x in (item for seen in states for item in seen.items()):
            if bool(x.isnan().any()):
                raise FloatingPointError(f"{name} holds nan: activations overflow; load the model in float32")
        return states, values.float().cpu()

    def capture_cells(self, prompts: list[Encoded]) -> tuple[States, Float[Tensor, " pair"]]:
        layers = sorted({layer for window in self.cells.windows for layer in window})
        return self.capture(prompts, {layer: [self.cells.site] for layer in layers})


#: From a batch and the activations that are put in: the metric of the runs that are patched as they are, and what the
#: grid holds of each pair (`per_pair`, and fields of its own).
Compute = Callable[[Batch, States], tuple[Float[Tensor, " pair"], dict[str, Tensor]]]


def patch_grid(
    model: Any,
    clean: Prompts,
    corrupted: Corrupted,
    choice: CellChoice,
    metric: Metrics | str,
    noising: bool,
    compute: Compute,
    **about: Any,
) -> PatchGrid:
    """Check what is asked for, and fill the grid batch by batch. `about` are further fields of it."""
    flag("noising", noising)
    pairs = encode_pairs(model, clean, corrupted)
    metrics, metric_name = choose_metrics(model, [p.clean for p in pairs], metric)
    cells = make_cells(model, pairs, choice)
    made_by = provenance(model, prepend_bos=bos_of([p.clean for p in pairs]))

    def filled(group: list[int]) -> dict[str, Tensor]:
        batch = Batch(model, [pairs[n] for n in group], [metrics[n] for n in group], cells, noising)
        sources, other = batch.capture_cells(batch.other)
        own, found = compute(batch, sources)
        ends = (own, other) if noising else (other, own)
        return {**found, "clean_per_pair": ends[0], "corrupted_per_pair": ends[1]}

    tensors: dict[str, Any] = in_batches([p.clean for p in pairs], filled)
    return PatchGrid(
        **tensors,
        **about,
        layers=cells.layers,
        columns=cells.columns,
        axis=cells.axis,
        site=cells.site,
        window=choice.window,
        metric=metric_name,
        noising=noising,
        tokens=tuple(p.labels for p in pairs),
        pairs=tuple((p.clean.prompt, p.corrupted.prompt) for p in pairs),
        provenance=made_by,
    )


def patched_cells(batch: Batch, sources: States) -> tuple[Float[Tensor, " pair"], dict[str, Tensor]]:
    """The metric of the runs as they are, and with each cell patched: a row of one sweep per cell."""
    cells = batch.cells
    runs = [Intervention((), prompt=p) for p in range(len(batch.pairs))]
    places = []
    for p, i, j in cells.places(len(batch.pairs)):
        hooks = cells.hooks(batch.pairs[p], sources[p], cells.windows[i], cells.columns[j])
        if hooks:
            places.append((p, i, j))
            runs.append(Intervention(hooks, prompt=p))
    found = sweep(batch.model, batch.patched, runs, metric=batch.metrics).float().cpu()
    own, patched = found.split([len(batch.pairs), len(places)])
    return own, {"per_pair": cells.filled(own, places, patched)}
