"""The rows of one or several rank-one edits, run together with a vector added at each subject.

Everything below the edited layer, and before the subject's last token, is the same in every run and is computed once.
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from kntools.editing.requests import EditRows
from kntools.engine.from_layer import Group, row_groups
from kntools.models import adapter
from kntools.models.neuron_layers import output_site
from kntools.sites import Hook, hook_name

# In place of a piece that a shorter target does not have.
_NO_PIECE = -100


class RowBatch:
    """All rows of some edits. `groups` are those that share a pass; their `numbers` index the other attributes.

    `keys` and `outputs` are the neurons and what `W_out` makes of them at each row's subject, with nothing changed;
    `states` holds, if asked for, the residual stream behind the layer.
    """

    def __init__(self, model: Any, edits: Sequence[EditRows], layer: int, *, states: bool = False) -> None:
        self.model, self.layer, self.site = model, layer, output_site(model, layer)
        device = adapter.device_of(model)
        self.tokens = [e.tokens[0] for edit in edits for e in edit.encoded]
        subjects = [end for edit in edits for end in edit.ends]
        weights = [w for edit in edits for w in (*edit.weights, 0.0)]
        ends = torch.tensor([len(edit.encoded) for edit in edits]).cumsum(0).tolist()
        self.bare = [0, *ends[:-1]]  # the rows of the bare prompts
        self.edit = torch.tensor([n for n, edit in enumerate(edits) for _ in edit.encoded], device=device)
        self.weights = torch.tensor(weights, device=device, dtype=torch.float32)  # of -log P
        self.subjects = torch.tensor(subjects, device=device)
        self.asked, self.targets = padded([row for edit in edits for row in _asked(edit)], device)
        self.keep(range(len(edits)))
        self.essences = {end - 1 for end in ends}
        self.original: dict[int, Tensor] = {}  # their log-probabilities, from the first run: nothing is added in it
        names = [hook_name(s, layer) for s in ("mlp.hook_post", self.site, *(("resid_post",) if states else ()))]
        self.keys, self.outputs, *self.states = _read_at(self.groups, self.subjects, names)

    def keep(self, edits: Collection[int]) -> None:
        """Run the rows of these edits alone from now on."""
        rows = [row for row, edit in enumerate(self.edit.tolist()) if edit in edits]
        subjects = self.subjects[rows].tolist()
        self.groups = row_groups(self.model, [self.tokens[row] for row in rows], subjects, self.layer)
        for group in self.groups:
            group.numbers = [rows[n] for n in group.numbers]

    def losses(self, delta: Float[Tensor, "edit d_model"], kl_weight: float) -> Float[Tensor, "2 edit"]:
        """-log P(target) and the weighted KL of each edit, with its `delta` added to the MLP's output at its subjects.

        Where gradients are on, theirs is added to `delta.grad`.
        """
        sums = torch.zeros(2, len(delta), device=delta.device, dtype=torch.float32)
        for group in self.groups:  # a backward pass follows each forward pass: there is memory for one
            losses = self._row_losses(group, delta, kl_weight)
            if torch.is_grad_enabled():
                losses.sum().backward(inputs=[delta])
            sums.index_add_(1, self.edit[group.numbers], losses.detach())
        return sums

    def _row_losses(
        self, group: Group, delta: Float[Tensor, "edit d_model"], kl_weight: float
    ) -> Float[Tensor, "2 row"]:
        """The same of each row; KL(edited || original) is that of the essences, of others 0."""
        at = self.subjects[group.numbers] - group.start
        rows, added = torch.arange(len(at), device=at.device), delta[self.edit[group.numbers]]

        def add(x: Tensor, hook: Any) -> Tensor:
            return x.index_put((rows, at), (x[rows, at].float() + added).to(x.dtype))

        logits = group.run([(hook_name(self.site, self.layer), add)], self.asked[group.numbers]).float()
        nll = self.weights[group.numbers] * answer_loss(logits, self.targets[group.numbers])
        kl = torch.zeros_like(nll)
        if essences := [row for row, number in enumerate(group.numbers) if number in self.essences]:
            edited = logits[essences, 0].log_softmax(-1)
            kept = zip((group.numbers[row] for row in essences), edited.detach(), strict=True)
            original = torch.stack([self.original.setdefault(number, own) for number, own in kept])
            kl = kl.index_put((torch.tensor(essences),), (edited.exp() * (edited - original)).sum(-1))
        return torch.stack([nll, kl_weight * kl])


class Subjects:
    """The prompts of some edits, run from block `layer` on with any hooks, and read at their subjects' last tokens."""

    def __init__(self, model: Any, edits: Sequence[EditRows], layer: int) -> None:
        self.counts = [len(edit.prompts) for edit in edits]
        tokens = [e.tokens[0] for edit in edits for e in edit.prompts]
        self.at = torch.tensor([end for edit in edits for end in edit.ends[:-1]], device=adapter.device_of(model))
        # Hooks may change every token: none is run in advance.
        self.groups = row_groups(model, tokens, [0] * len(tokens), layer)

    def read(self, site: str, layer: int, hooks: Sequence[Hook]) -> tuple[Float[Tensor, "prompt width"], ...]:
        """What the prompts of each edit have there, the bare one first."""
        [rows] = _read_at(self.groups, self.at, [hook_name(site, layer)], hooks)
        return rows.split(self.counts)

    def bare(self, layer: int, hooks: Sequence[Hook]) -> Float[Tensor, "edit d_model"]:
        """The residual stream behind the layer, of the bare prompts."""
        return torch.stack([own[0] for own in self.read("resid_post", layer, hooks)]).cpu()


@torch.no_grad()
def _read_at(
    groups: Sequence[Group], at: Int[Tensor, " row"], names: Sequence[str], hooks: Sequence[Hook] = ()
) -> list[Float[Tensor, "row ..."]]:
    """What each row has at its position, at hook points in the order of the pass, which ends at the last of them."""
    found: list[dict[int, Tensor]] = [{} for _ in names]

    def note(group: Group, number: int) -> Callable[..., None]:
        def keep(x: Tensor, hook: Any) -> None:
            own = x[torch.arange(len(x), device=x.device), at[group.numbers] - group.start]
            found[number].update(zip(group.numbers, own, strict=True))
            if number == len(names) - 1:
                raise adapter.StopRun

        return keep

    for group in groups:
        with suppress(adapter.StopRun):
            group.run([*hooks, *((name, note(group, n)) for n, name in enumerate(names))], at[group.numbers][:, None])
    return [torch.stack([kept[n] for n in range(len(at))]).float() for kept in found]


def padded(
    rows: Sequence[tuple[Sequence[int], Sequence[int]]], device: torch.device
) -> tuple[Int[Tensor, "row piece"], Int[Tensor, "row piece"]]:
    """Positions and wanted ids of each row, as many for every row as the longest has pieces."""
    width = max(len(positions) for positions, _ in rows)
    asked = [[*positions, *[positions[-1]] * (width - len(positions))] for positions, _ in rows]
    wanted = [[*ids, *[_NO_PIECE] * (width - len(ids))] for _, ids in rows]
    return torch.tensor(asked, device=device), torch.tensor(wanted, device=device)


def answer_loss(logits: Float[Tensor, "row piece d_vocab"], wanted: Int[Tensor, "row piece"]) -> Float[Tensor, " row"]:
    """-log P of each row's answer; the pieces of a longer one add up."""
    losses = cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none", ignore_index=_NO_PIECE)
    return losses.view(wanted.shape).sum(-1)


def _asked(edit: EditRows) -> list[tuple[Sequence[int], Sequence[int]]]:
    return [*((e.positions, e.target_ids) for e in edit.prompts), ([edit.ends[-1]], [_NO_PIECE])]
