"""How far some texts have been read, for measurements that a killed run resumes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kntools.engine.texts import Texts, chunks, strings


class TextProgress:
    """The number of texts read so far, and a digest of them in order.

    ```python
    for new in progress.unread(texts, 16):      # those that an earlier call has read are compared, and left out
        progress.note(new)
        ...                                     # measure, and save progress.texts and progress.digest
    ```
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.texts, self.digest = 0, ""

    def resume(self, saved: Mapping[str, Any], about: Mapping[str, Any], texts: int, digest: str) -> None:
        """Go on behind the texts of a file.

        Raises:
            ValueError: it was made with other weights or settings.
        """
        for what in ("fingerprint", "settings"):
            if saved[what] != about[what]:
                raise ValueError(
                    f"{self.path} belongs to another measurement: its {what} is {saved[what]}, not {about[what]}; "
                    "give another file"
                )
        self.texts, self.digest = texts, digest

    def unread(self, texts: Texts, size: int) -> Iterator[list[str]]:
        """Lists of at most `size` texts.

        Raises:
            ValueError: the texts that an earlier call has read are not the first of these.
        """
        skip, expected = self.texts, self.digest
        self.texts, self.digest = 0, ""
        for chunk in chunks(strings(texts), size):
            again = chunk[: max(0, skip - self.texts)]
            self.note(again)
            if again and self.texts == skip and self.digest != expected:
                raise ValueError(f"{self.path} was made of other texts; give the same ones, or another file")
            if new := chunk[len(again) :]:
                yield new
        if self.texts < skip:
            raise ValueError(f"{self.path} holds {skip} texts, but only {self.texts} were given; give the same ones")

    def note(self, texts: list[str]) -> None:
        self.texts += len(texts)
        for text in texts:
            self.digest = hashlib.blake2b((self.digest + text).encode(), digest_size=16).hexdigest()
