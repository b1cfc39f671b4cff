"""Texts as token ids, and neurons in them: what a measurement over a corpus reads, a chunk at a time."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from kntools.arguments import shown, whole, whole_text
from kntools.engine.capability import check_dropout
from kntools.models import adapter
from kntools.options import options
from kntools.sites import hook_name
from kntools.tokenisation import Tokenisation

T = TypeVar("T")

#: A list of texts, a file with one text per line, or rows with a `text` (a stream of `datasets`).
Texts = Iterable[str | Mapping[str, Any]] | Path

# Of a model with a longer context: attention over thousands of tokens costs more than it adds.
_LONGEST = 512
# Pieces of text per forward pass, unless `max_rows` says another number.
_ROWS = 16


@dataclass(frozen=True)
class Piece:
    text: int  # number of the text
    start: int  # number of its first token within the text
    ids: tuple[int, ...]  # special tokens included
    before: int  # special tokens in front
    after: int  # ... and behind

    @property
    def own(self) -> slice:
        return slice(self.before, len(self.ids) - self.after)


def numbered(texts: Texts) -> Iterator[tuple[int, str]]:
    """Texts that are not blank, each after its number among those given."""
    if isinstance(texts, str):
        raise ValueError("texts is one string; give a list of texts, or pathlib.Path(...) for a file")
    if isinstance(texts, Path):
        try:
            with texts.open(encoding="utf-8") as lines:
                yield from ((number, line.strip()) for number, line in enumerate(lines) if line.strip())
        except UnicodeDecodeError as error:
            raise ValueError(f"{texts} is not in UTF-8 ({error}); save it as UTF-8") from error
        return
    if isinstance(texts, Tensor | np.ndarray) or not isinstance(texts, Iterable):
        raise TypeError(f"texts={shown(texts)}; give a list of texts, rows with a 'text', or pathlib.Path(...)")
    for number, row in enumerate(texts):
        text = row["text"] if isinstance(row, Mapping) and "text" in row else row
        if not isinstance(text, str):
            raise TypeError(f"{shown(row)} is not a text; give texts, or rows {{'text': ...}}")
        if whole_text(f"text {number}", text).strip():
            yield number, text


def check_context(model: Any, context: int | None) -> int:
    """How many tokens a piece may have; `None` is the model's context, at most 512."""
    limit, tokenisation = adapter.context_length(model), Tokenisation(model)
    chosen = min(limit, _LONGEST) if context is None else whole("context", context)
    least = max(2, 1 + len(tokenisation.before) + len(tokenisation.after))
    if not least <= chosen <= limit:
        raise ValueError(f"context={context}; it must be between {least} and the model's {limit}")
    return chosen


def pieces(model: Any, texts: Iterable[tuple[int, str]], context: int | None = None) -> Iterator[Piece]:
    """Each text cut to the context, with the special tokens that the model expects around it."""
    tokenisation = Tokenisation(model)
    before, after = tokenisation.before, tokenisation.after
    room = check_context(model, context) - len(before) - len(after)
    for number, text in texts:
        ids = list(tokenisation.tokenizer(text, add_special_tokens=False)["input_ids"])
        ids = ids[tokenisation.own(ids)]
        for start in range(0, len(ids), room):
            inside = ids[start : start + room]
            yield Piece(number, start, (*before, *inside, *after), len(before), len(after))


def rows_of_texts() -> int:
    return options().max_rows or _ROWS


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter."""
    each = iter(items)
    while chunk := list(islice(each, size)):
        yield chunk


def passes(ahead: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Pieces of equal length, which share a forward pass: nothing is filled up."""
    by_length: dict[int, list[Piece]] = {}
    for piece in ahead:
        by_length.setdefault(len(piece.ids), []).append(piece)
    for _, same in sorted(by_length.items()):
        yield from chunks(same, rows_of_texts())


@torch.no_grad()
def neurons_in(
    model: Any, batch: Sequence[Piece], wanted: Mapping[int, Sequence[int] | slice]
) -> dict[int, Float[Tensor, "row pos neuron"]]:
    """Activations of some neurons of each layer. Layers above the last of them are not run."""
    check_dropout(model)
    found: dict[int, Tensor] = {}
    last = max(wanted)

    def keep(layer: int) -> Any:
        def hook(x: Tensor, hook: Any) -> None:
            found[layer] = x[..., wanted[layer]].float()
            if layer == last:
                raise adapter.StopRun

        return hook

    points = [(adapter.hook_point(model, hook_name("mlp.hook_post", layer)), keep(layer)) for layer in wanted]
    with suppress(adapter.StopRun):
        adapter.run(model, torch.tensor([p.ids for p in batch], device=adapter.device_of(model)), hooks=points)
    for layer, x in found.items():
        if not bool(torch.isfinite(x).all()):
            raise FloatingPointError(f"activations of layer {layer} are nan or inf; load the model in float32")
    return found
