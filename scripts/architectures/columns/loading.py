"""`load_model` of a model in memory: what it answers, and what transformers alone does."""

from __future__ import annotations

import torch
from torch import Tensor

import kntools as kn
from scripts.architectures.build import Case, fresh
from scripts.architectures.primitives import Compared, primitive


def _load(case: Case) -> Tensor:
    source = fresh(case.family, case.tokenizer)
    model = kn.load_model(source, tokenizer=case.tokenizer, device="cpu")
    with torch.no_grad():
        return model(case.tokens())[0].softmax(-1)


@primitive("load_model", _load)
def _(case: Case, found: Tensor) -> list[Compared]:
    with torch.no_grad():
        return [("probabilities", found, fresh(case.family, case.tokenizer)(case.tokens()).logits[0].softmax(-1))]
