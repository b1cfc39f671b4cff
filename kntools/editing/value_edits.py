"""Edits of value slots: the rows of `W_out` that belong to knowledge neurons (Dai et al. 2022, section 5)."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kntools.arguments import decimal, several, shown, whole
from kntools.editing.changes import Change
from kntools.editing.weight_edits import LayerEdit
from kntools.models import adapter, neuron_layers
from kntools.models.causality import is_masked
from kntools.prompts import MASK, Prompt, encode
from kntools.results.provenance import provenance
from kntools.sites import Neuron, NeuronLike, as_neurons, by_layer
from kntools.tokenisation import text_of


def edit_values(
    model: Any,
    neurons: Iterable[NeuronLike],
    old: str | int,
    new: str | int,
    *,
    amounts: tuple[float, float] = (1.0, 8.0),
) -> LayerEdit:
    """Make some neurons write the new answer instead of the old one, in a causal or a masked model.

    ```python
    att = kn.integrated_gradients(model, kn.Prompt("The capital of Canada is", " Ottawa"))
    edit = kn.edit_values(model, att.top(5), " Ottawa", " Rome")
    with edit.applied(model): ...
    ```

    For each neuron with value row v = W_out[n]: `v -= l1 |v| / |e_old| e_old`, then `v += l2 |v| / |e_new| e_new`
    with the same |v|, where e is the answer's output embedding and `(l1, l2)` are the `amounts` (Dai et al. 2022,
    section 5.1, updating facts; (1, 8) is published). Answers are of one token, as they follow a word (`" Rome"`; for a
    masked model `"Rome"`), or token ids.

    Raises:
        ValueError: no neurons, an answer of several tokens, the same answer twice.
        IndexError: a neuron that does not exist.
    """
    before, after = (_token(model, answer) for answer in (old, new))
    if len(listed := [decimal("amounts", amount) for amount in several("amounts", amounts, "(1.0, 8.0)")]) != 2:
        raise ValueError(f"amounts={shown(amounts)}; give two, of the old answer and of the new one: (1.0, 8.0)")
    weak, strong = listed
    wanted = as_neurons(neurons)
    changes = rewritten(model, wanted, before, after, (weak, strong))
    label = f"values of {len(wanted)} neurons: {_spelled(model, before)} -> {_spelled(model, after)}"
    return _edit(model, wanted, changes, label, method="edit_values", old=before, new=after, amounts=[weak, strong])


def erase_values(model: Any, neurons: Iterable[NeuronLike]) -> LayerEdit:
    """Erase the output of some neurons: set their value rows to zero (Dai et al. 2022, section 5.2, erasing relations).

    ```python
    edit = kn.erase_values(model, relation_neurons(of_the_relation, unrelated))
    ```

    Raises:
        ValueError, IndexError: no neurons; one that does not exist.
    """
    wanted = as_neurons(neurons)
    return _edit(model, wanted, erased(model, wanted), f"{len(wanted)} neurons erased", method="erase_values")


def rewritten(
    model: Any, neurons: Sequence[Neuron], old: int, new: int, amounts: tuple[float, float] = (1.0, 8.0)
) -> tuple[Change, ...]:
    """What `edit_values` changes, without the record of the weights that an edit keeps."""
    if old == new:
        raise ValueError(f"the old answer and the new one are the same token, {old}: there is nothing to edit")
    e_old, e_new = (model.W_U[:, token].detach().float().cpu() for token in (old, new))

    def update(v: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
        size = v.norm(dim=1, keepdim=True)
        return size * (amounts[1] * e_new / e_new.norm() - amounts[0] * e_old / e_old.norm())

    return _changes(model, neurons, update)


def erased(model: Any, neurons: Sequence[Neuron]) -> tuple[Change, ...]:
    return _changes(model, neurons, lambda v: -v)


def relation_neurons(
    facts: Sequence[Iterable[NeuronLike]],
    unrelated: Sequence[Iterable[NeuronLike]] = (),
    *,
    count: int = 20,
    most_shared: float = 0.1,
) -> tuple[Neuron, ...]:
    """The `count` leading knowledge neurons of a relation, the most frequent first: those of most of its facts.

    ```python
    kn.erase_values(model, relation_neurons([att.top(5, prompt=n) for n in range(100)], other_facts))
    ```

    Neurons of more than a share `most_shared` of the `unrelated` facts (of other relations) are left out.
    """
    count, most_shared = whole("count", count, least=1), decimal("most_shared", most_shared, 0, 1)
    of_relation, of_others = (Counter(n for fact in of for n in as_neurons(fact)) for of in (facts, unrelated))
    common = {n for n, times in of_others.items() if times > most_shared * len(unrelated)}
    kept = [(-times, n) for n, times in of_relation.items() if n not in common]
    return tuple(n for _, n in sorted(kept)[:count])


def _changes(model: Any, neurons: Sequence[Neuron], update: Callable[[Tensor], Tensor]) -> tuple[Change, ...]:
    changes = []
    for layer, own in sorted(by_layer(neuron_layers.check_neurons(model, neurons)).items()):
        rows = torch.tensor([n.index for n in own])
        w = adapter.w_out(model, layer).detach()
        changes.append(Change(layer, update(w[rows.to(w.device)].float().cpu()), rows))
    return tuple(changes)


def _edit(
    model: Any, neurons: tuple[Neuron, ...], changes: tuple[Change, ...], label: str, **settings: Any
) -> LayerEdit:
    details = {"neurons": [[n.layer, n.index] for n in neurons]}
    return LayerEdit(changes, label, provenance(model, **settings), details)


def _token(model: Any, answer: str | int) -> int:
    if isinstance(answer, str):
        text = f"It is {MASK}." if is_masked(model) else "It is"
        ids = encode(model, Prompt(text, answer, multi_token="sum")).target_ids
        if len(ids) > 1:
            raise ValueError(
                f"{answer!r} is {len(ids)} tokens {list(ids)}, but a value row is written towards one token; give "
                f"its id, e.g. {ids[0]} for the first one"
            )
        return ids[0]
    if not 0 <= whole("the answer", answer) < int(model.cfg.d_vocab):
        raise IndexError(f"token id {answer} does not exist: the vocabulary has {model.cfg.d_vocab}")
    return answer


def _spelled(model: Any, token: int) -> str:
    return f"token {token}" if model.tokenizer is None else repr(text_of(model.tokenizer, [token]))
