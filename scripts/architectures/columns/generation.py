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
def _(case: Case, found: Tensor) -> list[Compared]:
    tokens = case.tokens()
    with torch.no_grad():
        for _ in range(NEW):
            tokens = torch.cat([tokens, plain.run(case, tokens)[-1].argmax()[None, None]], dim=1)
    return [("tokens", found[0], tokens[0, -NEW:])]
