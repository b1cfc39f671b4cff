"""Sums of k k^T over a stream of texts, saved in a file that an interrupted run resumes from."""

from collections.abc import Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from kntools.engine.text_progress import TextProgress
from kntools.engine.texts import check_context, neurons_in, passes, pieces, rows_of_texts, special_tokens
from kntools.models import adapter, neuron_layers
from kntools.models.causality import is_masked
from kntools.options import progress_bar
from kntools.results.provenance import provenance
from kntools.results.result import Result, load

_SITE = "mlp.hook_post"


@dataclass(frozen=True, eq=False, repr=False)
class MomentSums(Result):
    """What a checkpoint holds."""

    totals: dict[str, Tensor]  # layer -> sum of k k^T
    count: int  # tokens
    texts: int
    digest: str  # of these texts, in order
    provenance: dict[str, Any]

    def to_frame(self) -> pd.DataFrame:
        """One row per layer: `layer, tokens, texts`."""
        return pd.DataFrame({"layer": [*self.totals], "tokens": self.count, "texts": self.texts})


class Sums:
    """The sums of some layers, and how much text is in them."""

    def __init__(self, model: Any, layers: list[int], *, context: int | None, dtype: torch.dtype) -> None:
        self.model, self.context = model, check_context(model, context)
        widths, device = {n: neuron_layers.width(model, n) for n in layers}, adapter.device_of(model)
        self.totals = {n: torch.zeros(width, width, dtype=dtype, device=device) for n, width in widths.items()}
        self.count = self.texts = 0
        self.settings = {
            "layers": layers,
            "context": self.context,
            "prepend_bos": bool(special_tokens(model)[0]) and not is_masked(model),
            "dtype": str(dtype).removeprefix("torch."),
            "site": _SITE,
        }
        self.about = provenance(model, **self.settings)

    def read(self, texts: Any, *, tokens: int | None, checkpoint: Path | None, every: int) -> None:
        """Add texts up, a few at a time, until there are `tokens`."""
        progress = TextProgress(checkpoint)
        if checkpoint is not None and checkpoint.exists():
            self._load(checkpoint, progress)
        saved = self.count
        total, unit = (len(texts), "text") if isinstance(texts, Sized) and tokens is None else (tokens or 0, "token")

        def save() -> None:
            if checkpoint is not None:
                totals = {str(n): total for n, total in self.totals.items()}
                MomentSums(totals, self.count, progress.texts, progress.digest, self.about).save(checkpoint)

        with progress_bar(total, unit) as bar:
            for new in progress.unread(texts, rows_of_texts()):
                if tokens is not None and self.count >= tokens:
                    break
                progress.note(new)
                self._add(new)
                bar.update((progress.texts if unit == "text" else self.count) - bar.n)
                if self.count - saved >= every:
                    save()
                    saved = self.count
        if self.count == 0:
            raise ValueError("no text was given; give at least one text")
        if self.count > saved:
            save()
        self.texts = progress.texts

    def _add(self, texts: list[str]) -> None:
        for batch in passes(pieces(self.model, texts, self.context)):
            for layer, keys in neurons_in(self.model, batch, dict.fromkeys(self.totals, slice(None))).items():
                flat = keys.flatten(0, 1)
                self.totals[layer] += (flat.T @ flat).to(self.totals[layer])
            self.count += sum(len(piece.ids) for piece in batch)

    def _load(self, path: Path, progress: TextProgress) -> None:
        saved = load(path, MomentSums)
        progress.resume(saved.provenance, self.about, saved.texts, saved.digest)
        for layer, total in self.totals.items():
            total.copy_(saved.totals[str(layer)])
        self.count = saved.count
