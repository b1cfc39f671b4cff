"""Edits of many facts at once: EMMET, MEMIT and AlphaEdit, which differ in how one linear system is weighed."""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, SupportsIndex

import torch
from jaxtyping import Float
from torch import Tensor

from kntools.arguments import decimal, instance, several, whole_numbers
from kntools.editing.changes import Change, Constraints, as_hooks, joined
from kntools.editing.joint_edit import JointEdit
from kntools.editing.requests import EditRequest, EditRows, make_requests, make_rows, new_targets
from kntools.editing.rome_batch import Subjects
from kntools.editing.rome_settings import RomeSettings, chosen_settings, published_lambda
from kntools.editing.rome_value import Value, find_values
from kntools.editing.second_moment import SecondMoment
from kntools.editing.weight_edits import applied_constraints
from kntools.engine.answers import answer_values
from kntools.models import adapter, neuron_layers
from kntools.prompts import Prompts
from kntools.results.provenance import provenance
from kntools.sites import hook_name

Keys = Float[Tensor, "edit d_mlp"]
Layers = SupportsIndex | Sequence[SupportsIndex]
#: C of each edited layer, as `kn.second_moment` returns it for one layer or several. `None` is C = I.
SecondMoments = SecondMoment | Mapping[int, SecondMoment] | Sequence[SecondMoment] | None

#: MEMIT's lambda where none is published, as a share of what the keys weigh: nearly all of each value is reached.
SHARE = 0.01


@dataclass(frozen=True)
class _Method:
    """How the system of each layer is weighed: directions of the keys, and what is added to its diagonal."""

    name: str
    moments: Mapping[int, SecondMoment | None]  # of the layers to edit, in ascending order
    directions: Callable[[Any, Keys], Keys]  # from C of the layer and its keys
    ridge: Callable[[Constraints], float] = lambda _: 0.0


def emmet(
    model: Any,
    prompts: Prompts,
    targets: str | Sequence[str],
    *,
    layers: Layers,
    second_moments: SecondMoments = None,
    settings: RomeSettings | None = None,
) -> JointEdit:
    """Edit many facts together; every key gets its value exactly (Gupta et al. 2024).

    ```python
    edit = kn.emmet(model, prompts, targets, layers=[5], second_moments=C)
    with edit.applied(model): ...
    ```

    Keys K and values are those of `kn.rome`. `dW = C^-1 K^T (K C^-1 K^T)^-1 D`, with D the changes of the layer's
    output that the values require. One fact is ROME with a consistent key. In several layers, each takes its share of
    what is left to do, as in `memit`. Keys of edits that are applied to the model stay as they are: edits made one on
    top of the other do not undo each other.

    Arguments:
        prompts, targets: as in `kn.rome`.
        layers: one layer, or several.
        second_moments: C of each layer: one, a list, or what `kn.second_moment(model, layers, texts)` returns. `None`
            is C = I: other keys are then not protected.
        settings: of the search for values; `None` takes `RomeSettings.for_model(model)`.

    Raises:
        ValueError: what `kn.rome` refuses; one edit twice, two targets for one fact (subject and old answer), two
            facts with the same key, a layer twice, C missing for a layer or of other weights, more edits than neurons.
        IndexError: no such layer.
    """
    moments = _moments(model, layers, second_moments)
    return _edit(model, prompts, targets, _Method("emmet", moments, _inverse), settings)


def memit(
    model: Any,
    prompts: Prompts,
    targets: str | Sequence[str],
    *,
    layers: Layers,
    second_moments: SecondMoments = None,
    regularisation: float | None = None,
    settings: RomeSettings | None = None,
) -> JointEdit:
    """Edit many facts together, spread over layers (Meng et al. 2023, "Mass-Editing Memory in a Transformer").

    ```python
    moments = kn.second_moment(model, [3, 4, 5], texts)
    edit = kn.memit(model, prompts, targets, layers=[3, 4, 5], second_moments=moments)
    ```

    Values are found at the last layer. In ascending order each layer takes the share `(z - h) / (layers left)` of what
    is still missing there, with keys that see the layers below edited: `dW = (lambda C + K^T K)^-1 K^T D`.

    Arguments:
        regularisation: lambda, the weight of what the layer does already against the new facts. `None`: the published
            one (GPT-2 XL 20,000, GPT-J 15,000); for other models `SHARE` of the mean of `k C^-1 k` over the facts.
        prompts, targets, layers, second_moments, settings: as in `emmet`.

    Raises:
        ValueError, IndexError: what `emmet` refuses, except equal keys; several layers where what an MLP gives is
            normalised or multiplied before it is added.
    """
    moments = _moments(model, layers, second_moments)
    weight = published_lambda(model) if regularisation is None else decimal("regularisation", regularisation, above=0)

    def ridge(c: Constraints) -> float:
        return SHARE * float((c.keys * c.directions).sum(1).mean()) if weight is None else weight

    return _edit(model, prompts, targets, _Method("memit", moments, _inverse, ridge), settings, regularisation=weight)


def alpha_edit(
    model: Any,
    prompts: Prompts,
    targets: str | Sequence[str],
    *,
    layers: Layers,
    second_moments: SecondMoments,
    threshold: float = 0.02,
    regularisation: float = 10.0,
    settings: RomeSettings | None = None,
) -> JointEdit:
    """Edit many facts together in the null space of the layer's keys (Fang et al. 2025, AlphaEdit).

    ```python
    edit = kn.alpha_edit(model, prompts, targets, layers=[5], second_moments=C)
    ```

    `dW = (P (K_p^T K_p + K^T K) + l2 I)^-1 P K^T D`: P projects on the eigenvectors of C whose eigenvalues are below
    `threshold`, and K_p are the keys of edits that are applied to the model.

    Arguments:
        threshold: eigenvalues of C below it count as null; published for C of Wikipedia (0.02). `math.inf`: P = I.
        regularisation: l2.
        prompts, targets, layers, second_moments, settings: as in `emmet`; C is needed.

    Raises:
        ValueError, IndexError: what `memit` refuses, no `second_moments`, or no eigenvalue below `threshold`.
    """
    if second_moments is None:
        raise ValueError("alpha_edit needs second_moments; measure kn.second_moment(model, layers, texts)")
    moments = _moments(model, layers, second_moments)
    everything = isinstance(threshold, float) and threshold == math.inf
    limit = math.inf if everything else decimal("threshold", threshold)
    ridge = decimal("regularisation", regularisation, above=0)
    method = _Method("alpha_edit", moments, lambda c, keys: c.project(keys, limit), lambda _: ridge)
    return _edit(model, prompts, targets, method, settings, threshold=limit, l2=ridge)


def _edit(
    model: Any,
    prompts: Prompts,
    targets: str | Sequence[str],
    method: _Method,
    settings: RomeSettings | None,
    **weights: float | None,
) -> JointEdit:
    layers = list(method.moments)
    chosen = chosen_settings(model, settings)
    if chosen.key != "consistent":
        raise ValueError(f"key={chosen.key!r} is ROME's alone; {method.name} uses the mean key: key='consistent'")
    requests = make_requests(model, prompts, targets, method.name)
    _check_facts(model, requests, layers, method.name)
    rows = make_rows(model, requests, chosen)
    before = new_targets(model, rows)
    moments = {str(n): c.identity() for n, c in method.moments.items() if c is not None}
    used = {"second_moments": moments, "prepend_bos": rows[0].bare.prepend_bos}
    about = provenance(model, **asdict(chosen), **used, **weights)
    values = find_values(model, rows, layers[-1], chosen)
    constraints, ridges, changes = zip(*_solved(model, rows, values, layers, method), strict=True)
    edit = JointEdit(
        method=method.name,
        changes=changes,
        constraints=constraints,
        ridges=ridges,
        prompts=tuple(r.prompt for r in requests),
        targets=tuple(r.target for r in requests),
        steps=tuple(value.steps for value in values),
        before=tuple(before),
        after=(),
        provenance=about,
    )
    [after] = answer_values(model, [own.bare for own in rows], [edit.hooks(model)])
    edit = replace(edit, after=tuple(after.tolist()))
    for text in edit.warnings():
        warnings.warn(f"{edit.title()}: {text}", stacklevel=3)
    return edit


def _solved(
    model: Any, rows: Sequence[EditRows], values: Sequence[Value], layers: Sequence[int], method: _Method
) -> list[tuple[Constraints, float, Change]]:
    """Layer by layer: the keys as they are with the layers below edited, and the share of what is left to do."""
    delta = torch.stack([value.delta for value in values]).cpu()
    labels = tuple(repr(own.bare.prompt.text) for own in rows)
    subjects = Subjects(model, rows, layers[0]) if len(layers) > 1 else None
    start = None if subjects is None else _start(model, subjects, layers)
    found: list[tuple[Constraints, float, Change]] = []
    for n, layer in enumerate(layers):
        seen: Iterable[Tensor] = (value.keys for value in values)
        missing = delta
        if subjects is not None and start is not None:
            hooks = as_hooks(model, [change for *_, change in found])
            seen = subjects.read("mlp.hook_post", layer, hooks)
            missing = delta - (subjects.bare(layers[-1], hooks) - start)
        keys = torch.stack([own.mean_of(each) for own, each in zip(rows, seen, strict=True)]).cpu()
        directions_of = partial(method.directions, method.moments[layer])
        own = Constraints(layer, keys, directions_of(keys), missing / (len(layers) - n), labels)
        ridge = method.ridge(own)
        # What the layer gives for the keys of edits that are applied now stays.
        held = applied_constraints(model, layer)
        kept = [replace(c, directions=directions_of(c.keys), wanted=torch.zeros_like(c.wanted)) for c in held]
        found.append((own, ridge, Change(layer, joined([own, *kept]).solve(ridge))))
    return found


def _start(model: Any, subjects: Subjects, layers: Sequence[int]) -> Float[Tensor, "edit d_model"]:
    """The residual stream behind the last layer; what an MLP gives must be added to it as it is."""
    last = layers[-1]
    start = subjects.bare(last, [])
    probe = torch.linspace(-1, 1, start.shape[1], dtype=torch.float32) * float(start.norm(dim=1).mean()) / 10

    def add(x: Tensor, hook: Any) -> Tensor:
        return x + probe.to(x)

    site = neuron_layers.output_site(model, last)
    moved = subjects.bare(last, [(hook_name(site, last), add)]) - start
    if float((moved - probe).norm(dim=1).max()) > 0.01 * float(probe.norm()):
        raise ValueError(
            f"in this model the output of W_out is normalised or multiplied before it is added to the residual stream "
            f"(layer {last}), and layers cannot share an edit; give one layer: layers=[{last}]"
        )
    return start


def _inverse(c: SecondMoment | None, keys: Keys) -> Keys:
    return keys if c is None else c.solve(keys)[0]


def _moments(model: Any, layers: Layers, given: SecondMoments) -> dict[int, SecondMoment | None]:
    """C of each layer to edit, in ascending order."""
    listed = [adapter.check_layer(model, n) for n in whole_numbers("layers", layers)]
    if not listed:
        raise ValueError("no layers given; name one or several, e.g. layers=[5]")
    if len(set(listed)) < len(listed):
        raise ValueError(f"layers={listed} names a layer twice; name each once")
    numbers = sorted(listed)
    for n in numbers:
        neuron_layers.width(model, n)
    if given is None:
        return dict.fromkeys(numbers)
    each = [given] if isinstance(given, SecondMoment) else given.values() if isinstance(given, Mapping) else given
    example = "kn.second_moment(model, layers, texts)"
    moments = [instance("second_moments", c, SecondMoment, example) for c in several("second_moments", each, example)]
    if isinstance(given, Mapping):
        for n, c in given.items():
            if n != c.layer:
                raise ValueError(f"second_moments has the C of layer {c.layer} under {n!r}; give {{{c.layer}: C}}")
    of = {c.layer: c for c in moments}
    if len(of) < len(moments):
        raise ValueError(f"second_moments has two C of one layer ({[c.layer for c in moments]}); give one of each")
    missing = [n for n in numbers if n not in of]
    if missing:
        raise ValueError(
            f"second_moments has no C for layer(s) {missing} (it has {sorted(of)}); measure "
            f"kn.second_moment(model, {numbers}, texts)"
        )
    for n in numbers:
        of[n].check(model, n)
    return {n: of[n] for n in numbers}


def _check_facts(model: Any, facts: Sequence[EditRequest], layers: Sequence[int], name: str) -> None:
    first_of: dict[tuple[str | None, str], EditRequest] = {}
    for n, fact in enumerate(facts):
        if any((fact.prompt.text, fact.target) == (other.prompt.text, other.target) for other in facts[:n]):
            raise ValueError(f"the edit {fact.prompt.text!r} -> {fact.target!r} is given twice; give it once")
        first = first_of.setdefault((fact.prompt.subject, fact.prompt.target.strip()), fact)
        if fact.target.strip() != first.target.strip():
            raise ValueError(
                f"{fact.prompt.subject!r} -> {fact.prompt.target!r} is edited to {first.target!r} "
                f"({first.prompt.text!r}) and to {fact.target!r} ({fact.prompt.text!r}); give one of them"
            )
    for layer in layers:
        held = sum(len(c.keys) for c in applied_constraints(model, layer))
        width = neuron_layers.width(model, layer)
        if len(facts) + held > width:
            raise ValueError(
                f"{len(facts)} edits (and {held} that are applied) need as many neurons; layer {layer} has {width}: "
                f"give kn.{name} fewer at a time"
            )
