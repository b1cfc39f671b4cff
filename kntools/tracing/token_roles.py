"""The role of each token in a prompt about a subject, for averages over prompts of different lengths."""

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
    roles = ["before the subject"] * subject[0] + ["further tokens"] * (length - subject[0])
    roles[subject.stop : subject.stop + 1] = ["first subsequent token"] * (subject.stop < length)
    roles[answer] = "last token"
    roles[subject[0] : subject.stop] = ["middle subject tokens"] * len(subject)
    roles[subject[0]], roles[subject[-1]] = "first subject token", "last subject token"
    return tuple(roles)
