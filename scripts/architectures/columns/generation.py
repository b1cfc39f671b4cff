"""Generation: kntools and plain loops."""

from __future__ import annotations

import torch
from torch import Tensor

import kntools as kn
from scripts.architectures import plain
from scripts.architectures.build import Case
from scripts.architectures.primitives import (
    Compared,
    primitive,
)

NEW = 5


@primitive("generate", lambda case: kn.generate(case.model, case.tokens(), max_new_tokens=NEW))
def _(case: Case, found: str | Tensor) -> list[Compared]:
    tokens, words = case.tokens(), case.model.tokenizer
    with torch.no_grad():
        for _ in range(NEW):
            tokens = torch.cat([tokens, plain.run(case, tokens)[-1].argmax()[None, None]], dim=1)
    ids = tokens[0, -NEW:].tolist()
    if isinstance(found, Tensor):  # a model without a tokenizer gives token ids
        return [("tokens", found[0], torch.tensor(ids))]
    expected = words.decode(ids[: ids.index(words.eos_token_id)] if words.eos_token_id in ids else ids)
    return [("text", torch.tensor(float(found == expected)), torch.tensor(1.0))]
