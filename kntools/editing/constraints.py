"""Keys and what a layer is to give for them, solved together: several edits of one `W_out` at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

#: Two keys whose cosine (in the metric of the solution) is closer to 1 than this cannot be given two values.
SAME_KEY = 1e-6


@dataclass(frozen=True, eq=False)
class Constraints:
    """What an edit wants of one layer: `keys[n] @ W_out` changes by `wanted[n]`.

    `directions` are `C^-1 k` (or `P k`): the update consists of outer products with them, which leaves other keys
    alone as far as C knows them.
    """

    layer: int
    keys: Float[Tensor, "edit d_mlp"]
    directions: Float[Tensor, "edit d_mlp"]
    wanted: Float[Tensor, "edit d_model"]
    labels: tuple[str, ...]  # what each key belongs to

    def solve(self, ridge: float = 0.0) -> Float[Tensor, "d_mlp d_model"]:
        """`M K^T (K M K^T + ridge I)^-1 D` with M K^T the directions, in float64.

        M = C^-1 and no ridge: EMMET's equality (Gupta et al. 2024), for one key ROME's update. M = C^-1 and ridge
        lambda: MEMIT's `(lambda C + K^T K)^-1 K^T D` (Meng et al. 2023, equation 14). M = P, the projector on the null
        space of C, and ridge l2: AlphaEdit (Fang et al. 2025).
        """
        keys, directions = self.keys.double(), self.directions.double()
        gram = keys @ directions.T
        size = gram.diagonal().clamp(min=1e-300).sqrt()
        cosine = gram / size[:, None] / size
        if ridge == 0 and len(keys) > 1:
            self._check_independent((cosine + cosine.T) / 2)
        # Scaled by the sizes of the keys, which may differ by orders of magnitude.
        scaled = cosine + torch.diag(ridge / size**2)
        solved = torch.linalg.solve(scaled, self.wanted.double() / size[:, None])
        return (directions.T @ (solved / size[:, None])).float()

    def _check_independent(self, cosine: Float[Tensor, "edit edit"]) -> None:
        if float(torch.linalg.eigvalsh(cosine)[0]) > SAME_KEY:
            return
        apart = cosine - 2 * torch.eye(len(cosine), dtype=cosine.dtype)
        first, second = divmod(int(apart.argmax()), len(cosine))
        raise ValueError(
            f"the keys of {self.labels[first]} and {self.labels[second]} are the same in layer {self.layer} (cosine "
            f"{float(cosine[first, second]):.6f}), and cannot have two values; leave one of them out, or "
            "use kn.memit, which weighs them"
        )


def joined(sets: Sequence[Constraints]) -> Constraints:
    return Constraints(
        sets[0].layer,
        keys=torch.cat([s.keys for s in sets]),
        directions=torch.cat([s.directions for s in sets]),
        wanted=torch.cat([s.wanted for s in sets]),
        labels=tuple(label for s in sets for label in s.labels),
    )
