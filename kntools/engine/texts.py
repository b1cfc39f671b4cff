"""Texts as token ids: what a measurement over a corpus reads, a chunk at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kntools.models import adapter
from kntools.models.causality import is_masked
from kntools.models.tokenizers import tokenizer_of

#: A list of texts, a file with one text per line, or rows with a `text` (a stream of `datasets`).
Texts = Iterable[str | Mapping[str, Any]] | Path

# Of a model with a longer context: attention over thousands of tokens costs more than it adds.
_LONGEST = 512


@dataclass(frozen=True)
class Piece:
    """A piece of a text that one row holds."""

    text: int  # number of the text
    start: int  # number of its first token within the text
    ids: tuple[int, ...]  # special tokens included
    before: int  # special tokens in front
    after: int  # ... and behind

    @property
    def own(self) -> slice:
        """The tokens of the text."""
        return slice(self.before, len(self.ids) - self.after)


def strings(texts: Texts) -> Iterator[str]:
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


def pieces(model: Any, texts: Iterable[str]) -> Iterator[Piece]:
    """Each text cut to the context (512 tokens at most), with the special tokens that the model expects around it."""
    tokenizer, masked = tokenizer_of(model), is_masked(model)
    bos = bool(getattr(model.cfg, "default_prepend_bos", True)) and tokenizer.bos_token_id is not None
    before = [tokenizer.cls_token_id] if masked else [tokenizer.bos_token_id] if bos else []
    after = [tokenizer.sep_token_id] if masked else []
    room = min(adapter.context_length(model), _LONGEST) - len(before) - len(after)
    for number, text in enumerate(texts):
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        for start in range(0, len(ids), room):
            inside = ids[start : start + room]
            yield Piece(number, start, (*before, *inside, *after), len(before), len(after))
