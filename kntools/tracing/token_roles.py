"""The role of each token in a prompt about a subject, for averages over prompts of different lengths."""

import torch
from jaxtyping import Float
from torch import Tensor

#: In the order of the text. Each token has one; see `token_roles`.
ROLES = (
    "before the subject",
    "first subject token",
    "middle subject tokens",
    "last subject token",
    "first subsequent token",
    "further tokens",
    "last token",
)


def token_roles(length: int, subject: range, answer: int) -> tuple[str, ...]:
    """The role of each token (Meng et al. 2022, figure 1).

    The only token of a subject is its last. The last token is the one whose logits give the answer: for a masked
    model the mask, wherever it stands. The others are placed by the subject alone. A subject that ends the prompt
    keeps its roles; such a prompt has no "last token".
    """
    return tuple(_role(p, subject, answer) for p in range(length))


def _role(p: int, subject: range, answer: int) -> str:
    if p in subject:
        if p == subject[-1]:
            return "last subject token"
        return "first subject token" if p == subject[0] else "middle subject tokens"
    if p == answer:
        return "last token"
    if p < subject[0]:
        return "before the subject"
    return "first subsequent token" if p == subject[-1] + 1 else "further tokens"


def by_role(values: Float[Tensor, "layer token"], roles: tuple[str, ...]) -> Float[Tensor, "role layer"]:
    """Mean over the tokens of each role, in the order of `ROLES`; nan where a prompt has none."""
    tokens = [[i for i, other in enumerate(roles) if other == role] for role in ROLES]
    return torch.stack([values[:, at].mean(1) for at in tokens])  # the mean of none is nan
