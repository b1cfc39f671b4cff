"""The rows of one or several rank-one edits, run together with a vector added at each subject.

Everything below the edited layer, and before the subject's last token, is the same in every run and is computed once.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from kntools.editing.rome_rows import EditRows
from kntools.engine.from_layer import Group, WindowHook, row_groups
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
        self.layer, self.site, device = layer, output_site(model, layer), adapter.device_of(model)
        rows = [encoded for edit in edits for encoded in edit.encoded]
        subjects = [e.subject[-1] for e in rows if e.subject is not None]  # their last tokens: where the value is put
        weights = [w for edit in edits for w in (*edit.weights, 0.0)]
        ends = torch.tensor([len(edit.encoded) for edit in edits]).cumsum(0).tolist()
        self.bare = [0, *ends[:-1]]  # the rows of the bare prompts
        self.edit = torch.tensor([n for n, edit in enumerate(edits) for _ in edit.encoded], device=device)
        self.weights = torch.tensor(weights, device=device, dtype=torch.float32)  # of -log P
        self.subjects = torch.tensor(subjects, device=device)
        self.asked, self.targets = _asked(edits, device)
        self.groups = row_groups(model, [e.tokens[0] for e in rows], subjects, layer)
        self.original: dict[int, Tensor] = {}  # log-probabilities of the rows that are to stay as they are
        sites = ("mlp.hook_post", self.site, *(("resid_post",) if states else ()))
        self.keys, self.outputs, *self.states = self._run_clean(sites, essences={end - 1 for end in ends})

    @torch.no_grad()
    def _run_clean(self, sites: Sequence[str], essences: set[int]) -> list[Float[Tensor, "row ..."]]:
        found: list[dict[int, Tensor]] = [{} for _ in sites]
        for group in self.groups:
            at = self.subjects[group.numbers] - group.start
            names = [hook_name(site, self.layer) for site in sites]
            hooks = [_note(name, group, at, into) for name, into in zip(names, found, strict=True)]
            log_p = group.run(hooks, self.asked[group.numbers])[:, 0].float().log_softmax(-1)
            self.original |= {n: log_p[row] for row, n in enumerate(group.numbers) if n in essences}
        return [torch.stack([kept[n] for n in range(len(self.edit))]).float() for kept in found]

    def run(self, group: Group, delta: Float[Tensor, "edit d_model"]) -> Float[Tensor, "row piece d_vocab"]:
        """Logits with each edit's `delta` added to the MLP's output at the subjects of its rows."""
        at = self.subjects[group.numbers] - group.start
        rows, added = torch.arange(len(at), device=at.device), delta[self.edit[group.numbers]]

        def add(x: Tensor, hook: Any) -> Tensor:
            return x.index_put((rows, at), (x[rows, at].float() + added).to(x.dtype))

        return group.run([(hook_name(self.site, self.layer), add)], self.asked[group.numbers]).float()

    def nll(self, logits: Float[Tensor, "row piece d_vocab"], group: Group) -> Float[Tensor, " row"]:
        """-log P(target), weighted; the pieces of a longer target add up."""
        targets, weights = self.targets[group.numbers], self.weights[group.numbers]
        losses = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none", ignore_index=_NO_PIECE)
        return weights * losses.view(targets.shape).sum(-1)

    def kl(self, logits: Float[Tensor, "row piece d_vocab"], group: Group) -> Float[Tensor, " row"]:
        """KL(edited || original) of the essences; zero for other rows."""
        zeros = logits.new_zeros(len(group.numbers))
        rows = [row for row, number in enumerate(group.numbers) if number in self.original]
        if not rows:
            return zeros
        edited = logits[rows, 0].log_softmax(-1)
        original = torch.stack([self.original[group.numbers[row]] for row in rows])
        return zeros.index_put((torch.tensor(rows),), (edited.exp() * (edited - original)).sum(-1))


class Subjects:
    """The prompts of some edits, run from block `layer` on with any hooks, and read at their subjects' last tokens."""

    def __init__(self, model: Any, edits: Sequence[EditRows], layer: int) -> None:
        self.edits = edits
        rows = [e for edit in edits for e in edit.prompts]
        self.at = torch.tensor([e.subject[-1] for e in rows if e.subject is not None], device=adapter.device_of(model))
        # Hooks may change every token: none is run in advance.
        self.groups = row_groups(model, [e.tokens[0] for e in rows], [0] * len(rows), layer)

    def means(self, site: str, layer: int, hooks: Sequence[Hook]) -> Float[Tensor, "edit width"]:
        return torch.stack([edit.mean_of(own) for edit, own in self._read(site, layer, hooks)]).cpu()

    def bare(self, site: str, layer: int, hooks: Sequence[Hook]) -> Float[Tensor, "edit width"]:
        return torch.stack([own[0] for _, own in self._read(site, layer, hooks)]).cpu()

    @torch.no_grad()
    def _read(self, site: str, layer: int, hooks: Sequence[Hook]) -> list[tuple[EditRows, Float[Tensor, "row width"]]]:
        found: dict[int, Tensor] = {}
        for group in self.groups:
            at = self.at[group.numbers]
            group.run([*hooks, _note(hook_name(site, layer), group, at, found)], at[:, None])
        rows = iter(found[n].float() for n in range(len(self.at)))
        return [(edit, torch.stack([next(rows) for _ in edit.prompts])) for edit in self.edits]


def _note(name: str, group: Group, at: Int[Tensor, " row"], into: dict[int, Tensor]) -> WindowHook:
    """A hook that keeps what each row has at a position, by the row's number."""

    def note(x: Tensor, hook: Any) -> None:
        into.update(zip(group.numbers, x[torch.arange(len(at), device=x.device), at].detach(), strict=True))

    return name, note


def _asked(edits: Sequence[EditRows], device: torch.device) -> tuple[Tensor, Tensor]:
    """Asked positions and wanted ids `[row piece]`, as many for every row as the longest target has pieces."""
    pieces = max(len(e.positions) for edit in edits for e in edit.prompts)
    asked: list[list[int]] = []
    targets: list[list[int]] = []
    for edit in edits:
        for e in edit.prompts:
            missing = pieces - len(e.positions)
            asked.append([*e.positions, *[e.positions[-1]] * missing])
            targets.append([*e.target_ids, *[_NO_PIECE] * missing])
        asked.append([edit.essence_position] * pieces)
        targets.append([_NO_PIECE] * pieces)
    return torch.tensor(asked, device=device), torch.tensor(targets, device=device)
