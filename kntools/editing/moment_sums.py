"""Sums of k k^T over a stream of texts, kept in a file from which a killed run goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from kntools.models import adapter, neuron_layers
from kntools.models.causality import is_masked
from kntools.models.tokenizers import tokenizer_of
from kntools.options import options, progress_bar
from kntools.results.provenance import provenance
from kntools.results.result import Result, load
from kntools.sites import hook_name

# Of a model with a longer context: attention over thousands of tokens costs more than it adds.
_LONGEST = 512
# Pieces of text per forward pass, unless `max_rows` says another number.
_ROWS = 16
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
        tokenizer = tokenizer_of(model)
        self.model, self.rows, self.masked = model, options().max_rows or _ROWS, is_masked(model)
        limit = adapter.context_length(model)
        self.context = min(limit, _LONGEST) if context is None else context
        bos = bool(getattr(model.cfg, "default_prepend_bos", True))
        self.bos = bos and not self.masked and tokenizer.bos_token_id is not None
        if not 2 + self.masked <= self.context <= limit:
            raise ValueError(f"context={context}; it must be between {2 + self.masked} and the model's {limit}")
        widths, device = {n: neuron_layers.width(model, n) for n in layers}, adapter.device_of(model)
        self.totals = {n: torch.zeros(width, width, dtype=dtype, device=device) for n, width in widths.items()}
        self.count = self.texts = 0
        self.digest = ""  # of all texts read so far, in order
        self.settings = {
            "layers": layers,
            "context": self.context,
            "prepend_bos": self.bos,
            "dtype": str(dtype).removeprefix("torch."),
            "site": _SITE,
        }
        self.about = provenance(model, **self.settings)

    def read(self, texts: Any, *, tokens: int | None, checkpoint: Path | None, every: int) -> None:
        """Add texts up, in passes of `rows` texts, until there are `tokens`."""
        if checkpoint is not None and checkpoint.exists():
            self._load(checkpoint)
        skip, expected, saved = self.texts, self.digest, self.count
        self.texts, self.digest = 0, ""
        total, unit = (len(texts), "text") if isinstance(texts, Sized) and tokens is None else (tokens or 0, "token")
        with progress_bar(total, unit) as bar:
            for chunk in _chunks(_strings(texts), self.rows):
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
        """One chunk of texts, cut into pieces. Pieces of equal length share a pass: nothing is filled up."""
        pieces = [piece for text in texts for piece in self._pieces(text)]
        by_length: dict[int, list[list[int]]] = {}
        for piece in pieces:
            by_length.setdefault(len(piece), []).append(piece)
        for _, same in sorted(by_length.items()):
            for start in range(0, len(same), self.rows):
                self._add_pass(torch.tensor(same[start : start + self.rows], device=adapter.device_of(self.model)))

    def _pieces(self, text: str) -> Iterator[list[int]]:
        tokenizer = self.model.tokenizer
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        before = [tokenizer.cls_token_id] if self.masked else [tokenizer.bos_token_id] if self.bos else []
        after = [tokenizer.sep_token_id] if self.masked else []
        room = self.context - len(before) - len(after)
        for start in range(0, len(ids), room):
            yield [*before, *ids[start : start + room], *after]

    @torch.no_grad()
    def _add_pass(self, tokens: Tensor) -> None:
        last = max(self.totals)
        found: dict[int, Tensor] = {}

        def keep(layer: int) -> Any:
            def hook(x: Tensor, hook: Any) -> None:
                found[layer] = x.flatten(0, 1)
                if layer == last:
                    raise adapter.StopRun

            return hook

        points = [(adapter.hook_point(self.model, hook_name(_SITE, n)), keep(n)) for n in self.totals]
        with suppress(adapter.StopRun):
            adapter.run(self.model, tokens, hooks=points)
        for layer, keys in found.items():
            product = keys.float().T @ keys.float()
            if not bool(torch.isfinite(product).all()):
                raise FloatingPointError(f"keys of layer {layer} are nan or inf; load the model in float32")
            self.totals[layer] += product.to(self.totals[layer])
        self.count += tokens.numel()

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


def _strings(texts: Iterable[str | Mapping[str, Any]] | Path) -> Iterator[str]:
    """Texts that are not empty."""
    if isinstance(texts, str):
        raise ValueError("texts is one string; give a list of texts, or pathlib.Path(...) for a file")
    if isinstance(texts, Path):
        with texts.open(encoding="utf-8") as lines:
            yield from (line.strip() for line in lines if line.strip())
        return
    for row in texts:
        text = row if isinstance(row, str) else row["text"]
        if text.strip():
            yield text


def _chunks(texts: Iterator[str], size: int) -> Iterator[list[str]]:
    while chunk := list(islice(texts, size)):
        yield chunk
