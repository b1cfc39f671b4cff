"""Measurements over a stream of texts, saved in a file from which an interrupted run resumes."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from kntools.engine.texts import Texts, chunks, numbered
from kntools.options import progress_bar
from kntools.results.result import Result, load


@dataclass(frozen=True, eq=False, repr=False)
class Checkpoint(Result):
    state: dict[str, Any]
    tokens: int
    texts: int
    digest: str  # of these texts, in order
    provenance: dict[str, Any]
    before: int = 0  # tokens without the last pass

    def to_frame(self) -> pd.DataFrame:
        return pd.DataFrame({"tokens": [self.tokens], "texts": [self.texts]})


class TextMeasurement(ABC):
    """The base of what is measured over texts. A subclass adds texts, counts `tokens`, and gives and takes its state.

    `path` is the file, if there is one; `about` is the provenance of what is in it.
    """

    def __init__(self, path: str | Path | None, about: dict[str, Any]) -> None:
        self.path, self.about = None if path is None else Path(path), about
        self.tokens = self.texts = self.before = 0
        self.digest = ""

    @abstractmethod
    def add(self, texts: list[tuple[int, str]]) -> None: ...

    @abstractmethod
    def state(self) -> dict[str, Any]: ...

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None: ...

    def read(self, texts: Texts, size: int, *, every: int, most: int | None = None) -> None:
        """Add texts, `size` at a time, until there are `most` tokens; save every `every` tokens."""
        skip, expected = self._resume(most)
        saved = self.tokens
        total = most or (len(texts) if isinstance(texts, Sized) else None)
        with progress_bar(total or 2, "token" if most else "text") as bar:
            bar.total = total
            for chunk in chunks(numbered(texts), size):
                again = chunk[: max(0, skip - self.texts)]
                self._note(again)
                if again and self.texts == skip and self.digest != expected:
                    raise ValueError(f"{self.path} was made of other texts; give the same ones, or another file")
                new = [] if self._has(most) else chunk[len(again) :]
                if new:
                    self.before = self.tokens
                    self.add(new)
                    self._note(new)
                    bar.update((self.tokens if most else self.texts) - bar.n)
                if self.tokens - saved >= every:
                    self._save()
                    saved = self.tokens
                if self._has(most) and self.texts >= skip:
                    break  # before more texts are read, which may have to be written first
        if self.texts < skip:
            raise ValueError(f"{self.path} holds {skip} texts, but only {self.texts} were given; give the same ones")
        if not self.tokens:
            raise ValueError("no text was given; give at least one text")
        if self.tokens > saved:
            self._save()

    def _has(self, most: int | None) -> bool:
        return most is not None and self.tokens >= most

    def _note(self, texts: list[tuple[int, str]]) -> None:
        self.texts += len(texts)
        for _, text in texts:
            self.digest = hashlib.blake2b((self.digest + text).encode(), digest_size=16).hexdigest()

    def _save(self) -> None:
        if self.path is not None:
            Checkpoint(self.state(), self.tokens, self.texts, self.digest, self.about, self.before).save(self.path)

    def _resume(self, most: int | None) -> tuple[int, str]:
        """Take the state of the file; how many texts are in it, and their digest."""
        if self.path is None or not self.path.exists():
            return 0, ""
        saved = load(self.path, Checkpoint)
        for what in ("fingerprint", "settings"):
            if saved.provenance[what] != self.about[what]:
                raise ValueError(
                    f"{self.path} is another measurement: its {what} is {saved.provenance[what]}, "
                    f"not {self.about[what]}; give another file"
                )
        if most is not None and saved.before >= most:
            raise ValueError(
                f"{self.path} holds {saved.tokens:,} tokens already, more than tokens={most}; "
                f"give tokens={saved.tokens}, or another file"
            )
        self.tokens, self.before = saved.tokens, saved.before
        self.restore(saved.state)
        return saved.texts, saved.digest
