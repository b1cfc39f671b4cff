"""Where some neurons are active in texts: one pass over the texts for all of them, in bounded memory."""

import heapq
from collections.abc import Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kntools import randomness
from kntools.engine.text_progress import TextProgress
from kntools.engine.texts import Piece, Texts, chunks, neurons_in, passes, pieces, rows_of_texts
from kntools.options import progress_bar
from kntools.results.result import Result, load
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


@dataclass(frozen=True, eq=False, repr=False)
class ActivitySoFar(Result):
    """What a file holds from which a killed run is resumed."""

    tokens: int
    total: Float[Tensor, " neuron"]
    active: Int[Tensor, " neuron"]
    keys: Float[Tensor, " token"]
    kept: Float[Tensor, "token neuron"]
    generator: Tensor
    peaks: tuple[tuple[Peak, ...], ...]
    texts: int
    digest: str
    provenance: dict[str, Any]

    def to_frame(self) -> pd.DataFrame:
        """One row: `tokens, texts`."""
        return pd.DataFrame({"tokens": [self.tokens], "texts": [self.texts]})


class Activity:
    """Moments, a sample and the leading contexts of each neuron."""

    def __init__(self, model: Any, neurons: Sequence[Neuron], k: int) -> None:
        self.model, self.neurons, self.k = model, neurons, k
        self.tokens = 0
        self.total = torch.zeros(len(neurons), dtype=torch.float64)
        self.active = torch.zeros(len(neurons), dtype=torch.long)
        self.peaks: list[list[Peak]] = [[] for _ in neurons]
        self._generator = randomness.generator(0)
        self._keys, self._kept = torch.empty(0, dtype=torch.float32), torch.empty(0, len(neurons), dtype=torch.float32)
        self._columns: dict[int, list[int]] = {}
        for column, n in enumerate(neurons):
            self._columns.setdefault(n.layer, []).append(column)

    def read(self, texts: Texts, path: Path | None, about: dict[str, Any]) -> None:
        """Add texts. Pieces of equal length share a pass: nothing is filled up. `path` keeps what was read."""
        total = len(texts) if isinstance(texts, Sized) else 0
        progress = TextProgress(path)
        if path is not None and path.exists():
            self._load(path, progress, about)
        saved = self.tokens
        with progress_bar(total or 2, "text") as bar:
            if not total:
                bar.total = None
            for new in progress.unread(texts, max(rows_of_texts(), _AHEAD)):
                for ahead in chunks(pieces(self.model, new, first=progress.texts), _AHEAD):
                    for batch in passes(ahead):
                        self._add(batch)
                progress.note(new)
                bar.update(progress.texts - bar.n)
                if path is not None and self.tokens - saved >= _EVERY:
                    self._save(path, progress, about)
                    saved = self.tokens
        if not self.tokens:
            raise ValueError("no text was given: texts is empty")
        if path is not None and self.tokens > saved:
            self._save(path, progress, about)

    def quantiles(self, at: Sequence[float]) -> Float[Tensor, "neuron quantile"]:
        return self._kept.quantile(torch.tensor(at, dtype=torch.float32), dim=0).T

    def _save(self, path: Path, progress: TextProgress, about: dict[str, Any]) -> None:
        peaks, drawn = tuple(map(tuple, self.peaks)), self._generator.get_state()
        sums = self.tokens, self.total, self.active, self._keys, self._kept
        ActivitySoFar(*sums, drawn, peaks, progress.texts, progress.digest, about).save(path)

    def _load(self, path: Path, progress: TextProgress, about: dict[str, Any]) -> None:
        saved = load(path, ActivitySoFar)
        progress.resume(saved.provenance, about, saved.texts, saved.digest)
        self.tokens, self.total, self.active = saved.tokens, saved.total, saved.active
        self._keys, self._kept, self.peaks = saved.keys, saved.kept, list(map(list, saved.peaks))
        self._generator.set_state(saved.generator)

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
