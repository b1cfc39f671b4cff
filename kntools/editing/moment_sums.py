"""Sums of k k^T over a stream of texts."""

from pathlib import Path
from typing import Any

import torch

from kntools.engine.text_measurement import TextMeasurement
from kntools.engine.texts import check_context, neurons_in, passes, pieces, special_tokens
from kntools.models import adapter, neuron_layers
from kntools.models.causality import is_masked
from kntools.results.provenance import provenance


class Sums(TextMeasurement):
    def __init__(
        self, model: Any, layers: list[int], *, context: int | None, dtype: torch.dtype, path: str | Path | None
    ) -> None:
        self.model, self.context = model, check_context(model, context)
        widths, device = {n: neuron_layers.width(model, n) for n in layers}, adapter.device_of(model)
        self.totals = {n: torch.zeros(width, width, dtype=dtype, device=device) for n, width in widths.items()}
        about = provenance(
            model,
            layers=layers,
            context=self.context,
            prepend_bos=bool(special_tokens(model)[0]) and not is_masked(model),
            dtype=str(dtype).removeprefix("torch."),
            site="mlp.hook_post",
        )
        super().__init__(path, about)

    def add(self, texts: list[str]) -> None:
        for batch in passes(pieces(self.model, texts, self.context)):
            for layer, keys in neurons_in(self.model, batch, dict.fromkeys(self.totals, slice(None))).items():
                flat = keys.flatten(0, 1)
                self.totals[layer] += (flat.T @ flat).to(self.totals[layer])
            self.tokens += sum(len(piece.ids) for piece in batch)

    def state(self) -> dict[str, Any]:
        return {str(layer): total for layer, total in self.totals.items()}

    def restore(self, state: dict[str, Any]) -> None:
        for layer, total in self.totals.items():
            total.copy_(state[str(layer)])
