"""Prompts, and the one way in which kntools turns them into tokens.

A prompt is a text and the answer that a model should give. For a causal model the answer follows the text; for a
masked one the text holds one `[MASK]`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from kntools.arguments import shown, whole, whole_text
from kntools.models import adapter
from kntools.models.modules import look
from kntools.results.display import excerpt
from kntools.results.result import Result
from kntools.tokenisation import MASK as MASK
from kntools.tokenisation import MultiToken, PromptError, Reason, Tokenisation

_EXAMPLE = "write kn.Prompt(text, answer), e.g. kn.Prompt('1 + 1 =', ' 2')"


@dataclass(frozen=True)
class Prompt:
    """A text, its answer, and (optionally) its subject and a wrong answer for comparison.

    ```python
    Prompt("The capital of Canada is", " Ottawa", subject="Canada", foil=" Rome")   # causal model
    Prompt("The capital of Canada is [MASK].", "Ottawa", subject="Canada")          # masked model
    ```

    Arguments:
        text: the words before the answer; for a masked model the sentence, with `[MASK]` in place of the answer.
        target: the answer, exactly as in the text: with a leading space where a word follows a word.
        subject: what the prompt is about, as the text writes it.
        foil: a wrong answer, written like the target.
        multi_token: an answer of several tokens is an `"error"`; `"first"` uses only its first token; `"sum"`
            appends the answer's own tokens (teacher forcing) and sums their log-probabilities.
        occurrence: which occurrence to use, if the subject occurs more than once (0, 1, ... or -1).
    """

    text: str
    target: str
    subject: str | None = None
    foil: str | None = None
    multi_token: MultiToken = "error"
    occurrence: int | None = None

    def __post_init__(self) -> None:
        for name in ("text", "target", "subject", "foil"):
            value = getattr(self, name)
            if value is None and name in ("subject", "foil"):
                continue
            if not isinstance(value, str):
                raise TypeError(f"{name}={value!r} is not a text; write kn.Prompt('The capital of ...', ' Ottawa')")
            # A line break is an answer.
            if not value.strip(" " if name in ("target", "foil") else None):
                raise ValueError(f"the {name} of Prompt({self.text!r}, {self.target!r}) is empty; write it out")
            whole_text(name, value)
        if self.multi_token not in get_args(MultiToken):
            raise ValueError(f"multi_token={self.multi_token!r} is unknown; use 'error', 'first' or 'sum'")
        if self.occurrence is not None:
            if self.subject is None:
                raise ValueError(f"occurrence={self.occurrence}, but there is no subject; give subject= too")
            object.__setattr__(self, "occurrence", whole("occurrence", self.occurrence))


@dataclass(frozen=True, eq=False, repr=False)
class Encoded(Result):
    """A tokenised prompt. Run `tokens` and read the logits at `positions`.

    ```python
    e = kn.encode(model, prompt)
    p = model(e.tokens)[0, e.position].softmax(-1)[e.target_ids[0]]
    e.str_tokens[e.subject.start : e.subject.stop]     # the subject's tokens
    ```
    """

    prompt: Prompt
    tokens: Int[Tensor, "1 pos"]
    positions: tuple[int, ...]  # where the logits predict the target: one position, or one per piece
    target_ids: tuple[int, ...]  # as many as there are positions
    foil_ids: tuple[int, ...] | None
    subject: range | None  # tokens of the subject
    prepend_bos: bool
    str_tokens: tuple[str, ...]

    @property
    def position(self) -> int:
        """The answer position: the `[MASK]`, or the last token of the text."""
        return self.positions[0]

    def describe(self) -> str:
        return f"{excerpt(self.prompt.text)!r} -> {self.prompt.target!r}: {len(self.str_tokens)} tokens"

    def to_frame(self) -> pd.DataFrame:
        """One row per token: `position, token, id, subject, answer`."""
        asked = dict(zip(self.positions, self.target_ids, strict=True))
        rows = [
            (p, repr(token), id, "subject" if p in (self.subject or ()) else "", f"-> {asked[p]}" if p in asked else "")
            for p, (token, id) in enumerate(zip(self.str_tokens, self.tokens[0].tolist(), strict=True))
        ]
        return pd.DataFrame(rows, columns=["position", "token", "id", "subject", "answer"])


#: What every primitive takes: one prompt or several, tokenised or not.
PromptLike = Prompt | Encoded
Prompts = PromptLike | Sequence[PromptLike]


def encode(model: Any, prompt: PromptLike, *, prepend_bos: bool | None = None) -> Encoded:
    """Tokenise `prompt` for `model` (on its device). An `Encoded` is returned unchanged.

    ```python
    e = kn.encode(model, Prompt("The capital of Canada is", " Ottawa", subject="Canada"))
    model(e.tokens)[0, e.position].softmax(-1)[e.target_ids[0]]
    ```

    `prepend_bos` puts the beginning-of-sequence token first; `None` follows `model.cfg.default_prepend_bos`. No
    second one is added to a text that begins with it. A masked model gets its special tokens in any case, once each.

    Raises:
        PromptError: (a ValueError) no or two masks for a masked model, a mask for a causal one, an answer that is
            attached to the word before it or of several tokens, a subject that is not in the text or more than once, a
            text that ends in a space or is longer than the context.
    """
    [encoded] = encode_many(model, [prompt], prepend_bos=prepend_bos)
    return encoded


def encode_many(model: Any, prompts: Prompts, *, prepend_bos: bool | None = None) -> list[Encoded]:
    """Tokenise one prompt or several, as `encode` does each. The tokenizer is called on all of them at once."""
    listed = [prompts] if isinstance(prompts, Prompt | Encoded) else prompts
    if isinstance(listed, str) or not isinstance(listed, Iterable):
        raise TypeError(f"{shown(prompts)} is not a Prompt; {_EXAMPLE}")
    adapter.check_model(model)
    look(model)
    asked = list(listed)
    if not asked:
        raise ValueError("no prompts given; pass a Prompt, or a list with at least one")
    for prompt in asked:
        if not isinstance(prompt, Prompt | Encoded):
            raise TypeError(f"{shown(prompt)} is not a Prompt; {_EXAMPLE}")
    new = iter(encode_each(model, [p for p in asked if isinstance(p, Prompt)], prepend_bos=prepend_bos))
    # A model without a tokenizer cannot tell what it reads.
    compared = model.tokenizer is not None and any(isinstance(p, Encoded) for p in asked)
    piece = Tokenisation(model).piece if compared else None
    out = []
    for prompt in asked:
        if isinstance(prompt, Encoded) and prepend_bos not in (None, prompt.prepend_bos):
            raise ValueError(
                f"prepend_bos={prepend_bos}, but {excerpt(prompt.prompt.text)!r} was encoded with "
                f"prepend_bos={prompt.prepend_bos}; give the Prompt: encoded.prompt"
            )
        result = _own(prompt, piece) if isinstance(prompt, Encoded) else next(new)
        if isinstance(result, PromptError):
            raise result
        out.append(result)
    return out


def _own(encoded: Encoded, piece: Callable[[int], str] | None) -> Encoded:
    """An `Encoded`, if a model reads the same in its tokens: `piece` is what it reads in one."""
    read = encoded.str_tokens if piece is None else tuple(map(piece, encoded.tokens[0].tolist()))
    if read != encoded.str_tokens:
        raise ValueError(
            f"the tokens of {excerpt(encoded.prompt.text)!r} are of another model: this one reads "
            f"{excerpt(''.join(read))!r} in them; give the Prompt: encoded.prompt"
        )
    return encoded


def encode_each(
    model: Any, prompts: Sequence[Prompt], *, prepend_bos: bool | None = None
) -> list[Encoded | PromptError]:
    """Each prompt tokenised, or the error that says why it cannot be: for data sets, which count what is left out."""
    if not prompts:
        return []
    own = Tokenisation(model, prepend_bos)
    problems: dict[int, PromptError] = {}
    texts: list[str] = []
    for n, prompt in enumerate(prompts):
        answers = {"target": prompt.target} | ({} if prompt.foil is None else {"foil": prompt.foil})
        try:
            own.check(prompt.text, answers)
            texts += [own.written(prompt.text), *(own.filled(prompt.text, answer) for answer in answers.values())]
        except PromptError as error:
            problems[n] = error
    own.read(texts)
    found: list[Encoded | PromptError] = []
    for n, prompt in enumerate(prompts):
        try:
            found.append(problems.get(n) or _encoded(model, own, prompt))
        except PromptError as error:
            found.append(error)
    return found


def _encoded(model: Any, own: Tokenisation, prompt: Prompt) -> Encoded:
    text, how = prompt.text, prompt.multi_token
    ids, place = own.placed(text)
    subject = None if prompt.subject is None else own.subject(text, prompt.subject, prompt.occurrence)
    target_ids = own.answer(text, "target", prompt.target, how)
    foil_ids = None if prompt.foil is None else own.answer(text, "foil", prompt.foil, how)
    if foil_ids == target_ids:
        raise PromptError(
            Reason.SAME, f"target {prompt.target!r} and foil {prompt.foil!r} are the same token(s) {target_ids}"
        )
    # Teacher forcing: each piece of the answer is read by the prediction of the next one.
    row, first = (ids, place) if own.masked else ([*ids, *target_ids[:-1]], place - 1)
    if first < 0:
        raise PromptError(Reason.UNSEEN, f"nothing of the text {text!r} is left: this tokenizer drops it")
    if len(row) > (limit := adapter.context_length(model)):
        raise PromptError(
            Reason.TOO_LONG,
            f"the prompt is {len(row)} tokens long, the model's context holds {limit}; shorten the text",
        )
    return Encoded(
        prompt=prompt,
        tokens=torch.tensor([row], device=adapter.device_of(model)),
        positions=tuple(range(first, first + len(target_ids))),
        target_ids=target_ids,
        foil_ids=foil_ids,
        subject=subject,
        prepend_bos=not own.masked and row[0] == own.tokenizer.bos_token_id,
        str_tokens=tuple(map(own.piece, row)),
    )


def text_tokens(model: Any, text: str) -> Int[Tensor, " pos"]:
    """The tokens of a text on its own, which begin as those of a prompt do."""
    checked, own = Prompt(text, " the").text, Tokenisation(model)
    ids = list(own.tokenizer(checked, add_special_tokens=False)["input_ids"])
    return torch.tensor([*own.before, *ids[own.own(ids)], *own.after], device=adapter.device_of(model))
