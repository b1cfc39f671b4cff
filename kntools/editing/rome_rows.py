"""The texts that one rank-one edit is made from: the prompt behind each template, and one that must not change."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kntools.editing.requests import EditRequest
from kntools.editing.rome_settings import TEMPLATES, RomeSettings
from kntools.engine.answers import ask
from kntools.engine.generation import sample_templates
from kntools.prompts import Encoded, encode
from kntools.word_borders import occurrences

#: The essence of the subject, which the edit is to leave alone (Meng et al. 2022, section 3.1).
ESSENCE = "{} is a"


@dataclass(frozen=True)
class EditRows:
    """The rows of one edit; the first one is the bare prompt, whether or not it is one of the templates."""

    templates: tuple[str, ...]
    prompts: tuple[Encoded, ...]
    weights: tuple[float, ...]  # of each prompt's -log P(target); they add up to 1
    essence: Encoded

    @property
    def bare(self) -> Encoded:
        return self.prompts[0]

    @property
    def essence_position(self) -> int:
        """Where the essence is read: the last token of its subject."""
        assert self.essence.subject is not None  # it was encoded with one
        return self.essence.subject[-1]

    def mean_of(self, keys: Float[Tensor, "prompt d_mlp"]) -> Float[Tensor, " d_mlp"]:
        return torch.tensor(self.weights, device=keys.device, dtype=keys.dtype) @ keys

    @property
    def encoded(self) -> tuple[Encoded, ...]:
        """All rows; the essence is the last one."""
        return (*self.prompts, self.essence)


def make_rows(model: Any, requests: Sequence[EditRequest], settings: RomeSettings) -> list[EditRows]:
    given = settings.templates
    if isinstance(given, int):
        templates: Sequence[str] = sample_templates(model, given, seed=settings.seed)
    else:
        templates = TEMPLATES if given is None else given
    return [_rows(model, request, templates, chosen=not isinstance(given, int | None)) for request in requests]


def new_targets(model: Any, rows: Sequence[EditRows]) -> list[float]:
    """The probabilities of the targets in the unedited model."""
    answers = ask(model, [own.bare for own in rows])
    for own, answer in zip(rows, answers, strict=True):
        if answer.exact:
            raise ValueError(
                f"the target {own.bare.prompt.target!r} is what the model answers already to "
                f"{own.bare.prompt.text!r}: there is nothing to edit"
            )
    return [answer.probability for answer in answers]


def _rows(model: Any, request: EditRequest, templates: Sequence[str], *, chosen: bool) -> EditRows:
    prompt, subject = request.prompt, request.prompt.subject
    if subject is None:
        raise ValueError(
            f"the prompt {prompt.text!r} has no subject; an edit is made at its subject: Prompt(..., subject='...')"
        )
    holding = [template for template in templates if occurrences(template, subject.strip())]
    if holding and chosen:
        raise ValueError(f"the template {holding[0]!r} holds the subject {subject!r} itself; choose other words")
    used = [template for template in templates if template not in holding]
    others = [template for template in used if template != "{}"]
    # The essence is not asked for anything, so that any answer that fits behind "is a" will do.
    essence = replace(prompt, text=ESSENCE.replace("{}", subject.strip()), target=" the", foil=None, occurrence=0)
    return EditRows(
        templates=tuple(used),
        prompts=tuple(request.encode(model, template) for template in ("{}", *others)),
        weights=tuple(n / len(used) for n in (len(used) - len(others), *[1] * len(others))),
        essence=encode(model, replace(essence, multi_token="first"), prepend_bos=request.prepend_bos),
    )
