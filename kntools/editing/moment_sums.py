"""Sums of k k^T over a stream of texts, kept in a file from which a killed run goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from kntools.engine.texts import (
    check_context,
    chunks,
    neurons_in,
    passes,
    pieces,
    rows_of_texts,
    special_tokens,
    strings,
)
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
        self.digest = ""  # of all texts read so far, in order
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
        if checkpoint is not None and checkpoint.exists():
            self._load(checkpoint)
        skip, expected, saved = self.texts, self.digest, self.count
        self.texts, self.digest = 0, ""
        total, unit = (len(texts), "text") if isinstance(texts, Sized) and tokens is None else (tokens or 0, "token")
        with progress_bar(total, unit) as bar:
            for chunk in chunks(strings(texts), rows_of_texts()):
                again = chunk[: max(0, skip - self.texts)]  # read by an earlier call
                self._note(again)
                if again and self.texts == skip and self.digest != expected:
                    raise ValueError(f"{checkpoint} was made of other texts; give the same ones, or another file")
                new = chunk[len(again) :]
                if not new:
                    continue
                if tokens is not None and self.count >= tokens:
                    break
                self._note(new)
                self._add(new)
                bar.update((self.texts if unit == "text" else self.count) - bar.n)
                if checkpoint is not None and self.count - saved >= every:
                    self._save(checkpoint)
                    saved = self.count
        if self.texts < skip:
            raise ValueError(f"{checkpoint} holds {skip} texts, but only {self.texts} were given; give the same ones")
        if self.count == 0:
            raise ValueError("no text was given: there is no second moment of nothing")
        if checkpoint is not None and self.count > saved:
            self._save(checkpoint)

    def _note(self, texts: list[str]) -> None:
        self.texts += len(texts)
        for text in texts:
            self.digest = hashlib.blake2b((self.digest + text).encode(), digest_size=16).hexdigest()

    def _add(self, texts: list[str]) -> None:
        for batch in passes(pieces(self.model, texts, self.context)):
            for layer, keys in neurons_in(self.model, batch, dict.fromkeys(self.totals, slice(None))).items():
                flat = keys.flatten(0, 1)
                self.totals[layer] += (flat.T @ flat).to(self.totals[layer])
            self.count += sum(len(piece.ids) for piece in batch)

    def _save(self, path: Path) -> None:
        totals = {str(n): total for n, total in self.totals.items()}
        MomentSums(totals, self.count, self.texts, self.digest, self.about).save(path)

    def _load(self, path: Path) -> None:
        saved = load(path, MomentSums)
        for what in ("fingerprint", "settings"):
            if saved.provenance[what] != self.about[what]:
                raise ValueError(
                    f"{path} is another measurement: its {what} is {saved.provenance[what]}, not {self.about[what]}; "
                    "give another file"
                )
        for layer, total in self.totals.items():
            total.copy_(saved.totals[str(layer)])
        self.count, self.texts, self.digest = saved.count, saved.texts, saved.digest
