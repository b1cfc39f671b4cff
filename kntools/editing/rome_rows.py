"""The texts that a rank-one edit is made from: the prompt behind each template, and the one that must not change."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from kntools.prompts import Encoded, Prompt, encode

#: Put before the prompt, so that the key is the subject's and not the sentence's. Fixed: an edit is the same in every
#: run, and on every model. Short, of about equal length, and about nothing.
TEMPLATES = (
    "{}",
    "The weather was fine today. {}",
    "He asked me about it. {}",
    "We had dinner at home. {}",
    "This is what I know: {}",
    "They came back last year. {}",
    "She read the whole book. {}",
    "It was a long day. {}",
    "There is one more thing. {}",
    "My friend told me this: {}",
    "You can see it here. {}",
)

#: The essence of the subject, which the edit is to leave alone (Meng et al. 2022, section 3.1).
ESSENCE = "{} is a"


@dataclass(frozen=True)
class Rows:
    """Row 0 is the bare prompt, the last one `"{subject} is a"`, and between them are the other templates."""

    encoded: tuple[Encoded, ...]
    weights: tuple[float, ...]  # of each row's -log P(target); zero where the row is none of the templates
    target_ids: tuple[int, ...]

    @property
    def tokens(self) -> list[Tensor]:
        return [e.tokens[0] for e in self.encoded]

    @property
    def lookups(self) -> list[int]:
        """For each row the last token of the subject: where the value is put."""
        return [e.subject[-1] for e in self.encoded if e.subject is not None]

    @property
    def asked(self) -> Int[Tensor, "row piece"]:
        """Where each row's logits are read. The last row is read at its subject, as often as the target has pieces."""
        pieces = len(self.target_ids)
        at = [*(e.positions for e in self.encoded[:-1]), (self.lookups[-1],) * pieces]
        return torch.tensor(at, device=self.encoded[0].tokens.device)

    @property
    def essence(self) -> int:
        """The number of the row that is to stay as it is."""
        return len(self.encoded) - 1


def make_rows(
    model: Any, prompt: Prompt, target: str, templates: Sequence[str] | None, prepend_bos: bool | None
) -> Rows:
    """Encode them, each checked. `None` are the shipped templates, without those that hold the subject."""
    subject = prompt.subject
    if subject is None:
        raise ValueError(
            f"the prompt {prompt.text!r} has no subject; an edit is made at its subject: Prompt(..., subject='...')"
        )
    used = [t for t in TEMPLATES if not _holds(t, subject)] if templates is None else list(templates)
    check_templates(used, subject)
    texts = [template.replace("{}", prompt.text) for template in used]
    rest = [text for text in texts if text != prompt.text]
    asked = [encode(model, Prompt(t, target, subject), prepend_bos, multi_token="sum") for t in (prompt.text, *rest)]
    essence = encode(model, Prompt(ESSENCE.replace("{}", subject), target, subject), prepend_bos, multi_token="first")
    share = 1 / len(texts)
    bare = (len(texts) - len(rest)) * share
    return Rows((*asked, essence), (bare, *[share] * len(rest), 0.0), asked[0].target_ids)


def _holds(template: str, subject: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(subject.strip())}(?!\w)", template) is not None


def check_templates(templates: Sequence[str], subject: str) -> None:
    if isinstance(templates, str) or not templates:
        raise ValueError("templates must be a list of strings with one {} each, e.g. ['{}', 'It is well known. {}']")
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(f"the template {template!r} has {template.count('{}')} places {{}}; it needs exactly one")
        if not template.endswith("{}"):
            raise ValueError(f"the template {template!r} goes on after its {{}}; the answer must follow the prompt")
        if _holds(template, subject):
            raise ValueError(f"the template {template!r} holds the subject {subject!r} itself; choose other words")
