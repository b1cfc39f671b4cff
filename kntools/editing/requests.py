"""Which edits are asked for: prompts, and what the model is to say after each of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from kntools.models.causality import is_masked
from kntools.prompts import Encoded, Prompt, PromptLike, Prompts, encode


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
