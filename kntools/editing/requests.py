"""Which edits are asked for, and the texts that each is made from: the prompt behind each template, and an essence."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kntools.editing.rome_settings import TEMPLATES, RomeSettings
from kntools.engine.answers import ask
from kntools.engine.generation import sample_templates
from kntools.models.causality import is_masked
from kntools.prompts import Encoded, Prompt, PromptLike, Prompts, encode
from kntools.word_borders import occurrences

#: The essence of the subject, which the edit is to leave alone (Meng et al. 2022, section 3.1).
ESSENCE = "{} is a"


@dataclass(frozen=True)
class EditRequest:
    """One edit that is asked for: after `prompt` the model is to say `target`."""

    prompt: Prompt  # its own target is the answer to be replaced, and plays no part in the edit
    target: str
    prepend_bos: bool | None  # as the prompt was encoded; None: as the model does

    def encode(self, model: Any, template: str = "{}") -> Encoded:
        """The prompt in a template, asked for the new answer, whose pieces are teacher-forced."""
        text = template.replace("{}", self.prompt.text)
        asked = replace(self.prompt, text=text, target=self.target, foil=None, multi_token="sum")
        return encode(model, asked, prepend_bos=self.prepend_bos)


def make_requests(model: Any, prompts: Prompts, targets: str | Sequence[str], editor: str) -> list[EditRequest]:
    if is_masked(model):
        raise ValueError(
            f"{editor} edits causal models: it needs what follows the subject. "
            "For a masked model use kn.edit_values or kn.erase_values"
        )
    single = isinstance(prompts, Prompt | Encoded)
    if single != isinstance(targets, str):
        raise ValueError(
            f"one prompt takes one target, and a list of prompts a list of targets; got {prompts!r} and "
            f"{targets!r}. Write e.g. kn.{editor}(model, prompt, ' Rome', ...)"
        )
    listed = [prompts] if isinstance(prompts, Prompt | Encoded) else list(prompts)
    answers = [targets] if isinstance(targets, str) else list(targets)
    if len(listed) != len(answers) or not listed:
        raise ValueError(f"{len(listed)} prompts and {len(answers)} targets; give as many, at least one")
    requests = [_request(prompt, target) for prompt, target in zip(listed, answers, strict=True)]
    target_of: dict[str, str] = {}
    for r in requests:
        if target_of.setdefault(r.prompt.text, r.target) != r.target:
            raise ValueError(
                f"{r.prompt.text!r} is given two targets, {target_of[r.prompt.text]!r} and {r.target!r}; "
                f"give one, or call kn.{editor} once for each"
            )
    return requests


def _request(prompt: PromptLike, target: str) -> EditRequest:
    if not isinstance(prompt, Prompt | Encoded):
        raise TypeError(f"{prompt!r} is not a Prompt; write kn.Prompt(text, answer, subject=...)")
    if not isinstance(target, str):
        raise TypeError(f"target={target!r} is not a text; write the new answer as it follows the prompt, e.g. ' Rome'")
    if not target.strip():
        raise ValueError(f"the target of {prompt!r} is empty; write the new answer as it follows the text")
    asked, bos = (prompt.prompt, prompt.prepend_bos) if isinstance(prompt, Encoded) else (prompt, None)
    if target.strip() == asked.target.strip():
        raise ValueError(f"the target {target!r} is the prompt's own answer: there is nothing to edit")
    return EditRequest(asked, target, bos)


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

    def mean_of(self, keys: Float[Tensor, "prompt d_mlp"]) -> Float[Tensor, " d_mlp"]:
        return torch.tensor(self.weights, device=keys.device, dtype=keys.dtype) @ keys

    @property
    def encoded(self) -> tuple[Encoded, ...]:
        """All rows; the essence is the last one."""
        return (*self.prompts, self.essence)

    @property
    def ends(self) -> list[int]:
        """The subject's last token in each row: where the value is put, and the essence is read."""
        return [e.subject[-1] for e in self.encoded if e.subject is not None]


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
