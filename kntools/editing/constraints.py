"""Keys and what a layer is to give for them, solved together: several edits of one `W_out` at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

#: Keys cannot be given a value each if a singular value of their system is below this (its columns have length 1).
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
        # Not symmetric where a direction is that of another key (ROME's published one).
        system = keys @ directions.T + ridge * torch.eye(len(keys), dtype=torch.float64)
        # Scaled: the sizes of keys may differ by orders of magnitude.
        row = system.norm(dim=1, keepdim=True).clamp(min=1e-300)
        column = (system / row).norm(dim=0).clamp(min=1e-300)
        scaled = system / row / column
        if ridge == 0 and len(keys) > 1:
            self._check_independent(scaled)
        solved = torch.linalg.solve(scaled, self.wanted.double() / row)
        return (directions.T @ (solved / column[:, None])).float()

    def _check_independent(self, scaled: Float[Tensor, "edit edit"]) -> None:
        if float(torch.linalg.svdvals(scaled)[-1]) > SAME_KEY:
            return
        rows, columns = normalize(scaled, dim=1), normalize(scaled, dim=0)
        cosine = torch.maximum((rows @ rows.T).abs(), (columns.T @ columns).abs()).fill_diagonal_(-1)
        first, second = divmod(int(cosine.argmax()), len(cosine))
        raise ValueError(
            f"the keys in layer {self.layer} are not independent, and cannot have a value each: the closest are those "
            f"of {self.labels[first]} and {self.labels[second]} (cosine {float(cosine[first, second]):.6f}); leave one "
            "of them out, or use kn.memit, which weighs them"
        )


def joined(sets: Sequence[Constraints]) -> Constraints:
    return Constraints(
        sets[0].layer,
        keys=torch.cat([s.keys for s in sets]),
        directions=torch.cat([s.directions for s in sets]),
        wanted=torch.cat([s.wanted for s in sets]),
        labels=tuple(label for s in sets for label in s.labels),
    )
