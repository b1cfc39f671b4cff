"""Where some neurons are active in texts: one pass over the texts for all of them, in bounded memory."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kntools import randomness
from kntools.engine.text_measurement import TextMeasurement
from kntools.engine.texts import Piece, Texts, chunks, neurons_in, passes, pieces, rows_of_texts
from kntools.sites import Neuron

# Texts and their pieces that are read ahead, to find some of equal length.
_AHEAD = 256
# Tokens after which a file is written again.
_EVERY = 50_000
# Tokens whose activations are kept for the quantiles: all of them up to this number, then a random sample.
_SAMPLE = 20_000
# Tokens of a context before and after the one where the neuron is most active.
_BEFORE, _AFTER = 40, 10


@dataclass(order=True, frozen=True)
class Peak:
    """The highest activation of a neuron in a piece of text. The smallest of a heap is the one to give up."""

    value: float
    text: int  # minus its number: of equal values the earlier text is kept
    start: int  # minus the number of the piece's first token, likewise
    first: int = field(compare=False)  # number of the first token kept, within the text
    peak: int = field(compare=False)  # within the tokens kept
    ids: tuple[int, ...] = field(compare=False)
    activations: Tensor = field(compare=False)


class Activity(TextMeasurement):
    """Moments, a sample and the leading contexts of each neuron."""

    def __init__(
        self, model: Any, neurons: Sequence[Neuron], k: int, path: str | Path | None, about: dict[str, Any]
    ) -> None:
        super().__init__(path, about)
        self.model, self.neurons, self.k = model, neurons, k
        self.total = torch.zeros(len(neurons), dtype=torch.float64)
        self.active = torch.zeros(len(neurons), dtype=torch.long)
        self.peaks: list[list[Peak]] = [[] for _ in neurons]
        self._generator = randomness.generator(0)
        self._keys, self._kept = torch.empty(0, dtype=torch.float32), torch.empty(0, len(neurons), dtype=torch.float32)
        self._columns: dict[int, list[int]] = {}
        for column, n in enumerate(neurons):
            self._columns.setdefault(n.layer, []).append(column)

    def read_texts(self, texts: Texts) -> None:
        self.read(texts, max(rows_of_texts(), _AHEAD), every=_EVERY)

    def quantiles(self, at: Sequence[float]) -> Float[Tensor, "neuron quantile"]:
        return self._kept.quantile(torch.tensor(at, dtype=torch.float32), dim=0).T

    def state(self) -> dict[str, Any]:
        return {
            "total": self.total,
            "active": self.active,
            "keys": self._keys,
            "kept": self._kept,
            "generator": self._generator.get_state(),
            "peaks": self.peaks,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.total, self.active, self._keys, self._kept = (state[name] for name in ("total", "active", "keys", "kept"))
        self._generator.set_state(state["generator"])
        self.peaks = [[Peak(**{**peak, "ids": tuple(peak["ids"])}) for peak in heap] for heap in state["peaks"]]

    def add(self, texts: list[tuple[int, str]]) -> None:
        """Pieces of equal length share a pass: nothing is filled up."""
        for ahead in chunks(pieces(self.model, texts), _AHEAD):
            for batch in passes(ahead):
                self._add(batch)

    def _add(self, batch: Sequence[Piece]) -> None:
        wanted = {layer: [self.neurons[c].index for c in columns] for layer, columns in self._columns.items()}
        found = torch.empty(len(batch), len(batch[0].ids), len(self.neurons), dtype=torch.float32)
        for layer, x in neurons_in(self.model, batch, wanted).items():
            found[..., self._columns[layer]] = x.cpu()
        found = found[:, batch[0].own]
        flat = found.flatten(0, 1)
        self.tokens += len(flat)
        self.total += flat.double().sum(0)
        self.active += (flat > 0).sum(0)
        self._sample(flat)
        highest, where = found.max(1)  # [piece neuron]
        for column, heap in enumerate(self.peaks):
            least = heap[0].value if len(heap) == self.k else -torch.inf
            for row in (highest[:, column] >= least).nonzero()[:, 0].tolist():
                self._push(heap, batch[row], found[row, :, column], int(where[row, column]))

    def _push(self, heap: list[Peak], piece: Piece, activations: Tensor, peak: int) -> None:
        first, last = max(0, peak - _BEFORE), peak + _AFTER + 1
        ids = piece.ids[piece.own][first:last]
        part = activations[first:last].clone()
        new = Peak(float(activations[peak]), -piece.text, -piece.start, piece.start + first, peak - first, ids, part)
        if len(heap) < self.k:
            heapq.heappush(heap, new)
        else:
            heapq.heappushpop(heap, new)

    def _sample(self, flat: Float[Tensor, "token neuron"]) -> None:
        """Every token draws a number; those with the highest ones are kept."""
        keys = torch.cat([self._keys, torch.rand(len(flat), generator=self._generator, dtype=torch.float32)])
        kept = torch.cat([self._kept, flat])
        if len(keys) > _SAMPLE:
            keys, chosen = keys.topk(_SAMPLE)
            kept = kept[chosen]
        self._keys, self._kept = keys, kept
