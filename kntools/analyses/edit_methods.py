"""Ways to edit facts, under one signature: `(model, prompts, targets) -> edits`, each made on the unedited model."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from types import NoneType
from typing import Any

from kntools.arguments import check_list, instance, several, shown
from kntools.attribution.integrated_gradients import integrated_gradients
from kntools.editing.fine_tuning import fine_tune
from kntools.editing.joint_editing import alpha_edit, emmet, memit
from kntools.editing.requests import make_requests, make_rows
from kntools.editing.rome import rome
from kntools.editing.rome_settings import MEMIT, RomeSettings, chosen_settings, layer_for
from kntools.editing.rome_value import find_values, shared_values
from kntools.editing.second_moment import SecondMoment
from kntools.editing.value_edits import edit_values
from kntools.editing.weight_edits import WeightEdit
from kntools.models.names import check_name
from kntools.prompts import Prompt, encode_many
from kntools.results.fingerprint import fingerprint

Method = Callable[[Any, Sequence[Prompt], Sequence[str]], Sequence[WeightEdit]]
#: C of one layer, or layer -> C.
Moments = SecondMoment | Mapping[int, SecondMoment] | None


@dataclass(frozen=True)
class Editor:
    """An editing method, its settings, and how it edits many facts at once."""

    edit: Method
    settings: Mapping[str, Any] = field(default_factory=dict)
    joint: Callable[[Any, Sequence[Prompt], Sequence[str]], WeightEdit] | None = None

    def __call__(self, model: Any, prompts: Sequence[Prompt], targets: Sequence[str]) -> Sequence[WeightEdit]:
        with _quiet():
            return self.edit(model, prompts, targets)

    def at_once(self, model: Any, prompts: Sequence[Prompt], targets: Sequence[str]) -> Sequence[WeightEdit]:
        """Edits of all facts together: one joint edit, or one per fact."""
        with _quiet():
            return self.edit(model, prompts, targets) if self.joint is None else [self.joint(model, prompts, targets)]


def settings_of(methods: Mapping[str, Method]) -> dict[str, Any]:
    """What a run writes down: a function that is no `Editor` is known by its name only."""
    return {name: dict(method.settings) if isinstance(method, Editor) else {} for name, method in methods.items()}


def _quiet() -> Any:
    """What edits warn of is left to the scores."""
    return warnings.catch_warnings(action="ignore", category=UserWarning)


def rome_method(layer: int, second_moment: SecondMoment | None = None, settings: RomeSettings | None = None) -> Editor:
    """Rank-one edits."""
    how: dict[str, Any] = {"layer": layer, "second_moment": second_moment, "settings": settings}
    about = {"layer": layer, "C": second_moment and second_moment.identity(), "search": settings and asdict(settings)}
    return Editor(lambda model, prompts, targets: rome(model, prompts, targets, **how), about)


def joint_method(
    edit: Callable[..., WeightEdit],
    layers: Sequence[int],
    second_moments: Moments = None,
    settings: RomeSettings | None = None,
    **options: Any,
) -> Editor:
    """`kn.emmet`, `kn.memit` or `kn.alpha_edit`; alone each fact is an edit of one; values are found together."""
    options |= {"layers": list(layers), "second_moments": second_moments, "settings": settings}
    each = second_moments.values() if isinstance(second_moments, Mapping) else [second_moments]
    used, joint = [c.identity() for c in each if c is not None], partial(edit, **options)

    def alone(model: Any, prompts: Sequence[Prompt], targets: Sequence[str]) -> list[WeightEdit]:
        chosen, requests = chosen_settings(model, settings), make_requests(model, prompts, targets, edit.__name__)
        with shared_values():
            find_values(model, make_rows(model, requests, chosen), max(layers), chosen)
            return [joint(model, [p], [t]) for p, t in zip(prompts, targets, strict=True)]

    return Editor(alone, {**options, "second_moments": used, "settings": settings and asdict(settings)}, joint)


def fine_tune_method(layer: int, **options: Any) -> Editor:
    """Constrained fine-tuning (FT-L); `options` are those of `kn.fine_tune`."""
    return Editor(partial(fine_tune, layer=layer, **options), {"layer": layer, **options})


def values_method(count: int = 5, amounts: tuple[float, float] = (1.0, 8.0)) -> Editor:
    """Value slots of the `count` neurons with the highest attribution for the first token of the old answer."""

    def edit(model: Any, prompts: Sequence[Prompt], targets: Sequence[str]) -> Sequence[WeightEdit]:
        first = [replace(prompt, subject=None, foil=None, multi_token="first") for prompt in prompts]
        asked = [replace(prompt, target=target) for prompt, target in zip(first, targets, strict=True)]
        old, new = ([e.target_ids[0] for e in encode_many(model, listed)] for listed in (first, asked))
        att = integrated_gradients(model, first)
        return [
            edit_values(model, att.top(count, prompt=n), old[n], new[n], amounts=amounts) for n in range(len(first))
        ]

    return Editor(edit, {"count": count, "amounts": list(amounts)})


def chosen_editors(
    model: Any, methods: Mapping[str, Method] | Sequence[str] | None, layer: int | None, second_moment: Moments
) -> Mapping[str, Method]:
    """Methods by name, or as given."""
    if not isinstance(methods, Mapping):
        methods = editors(model, methods, layer=layer, second_moment=second_moment)
    elif layer is not None or second_moment is not None:
        raise ValueError("layer and second_moment are for methods by name; give them to editors(model, names, ...)")
    if not methods or "before" in methods:
        raise ValueError(
            f"methods {list(methods)}; give at least one, and none called 'before', which is the unedited model"
        )
    for name, method in methods.items():
        if not isinstance(name, str) or not callable(method):
            raise TypeError(f"methods has {name!r}: {shown(method)}; give names with functions, as editors(model) does")
    return methods


def edit_each(model: Any, method: Method, prompts: Sequence[Prompt], targets: Sequence[str]) -> list[WeightEdit | str]:
    """The edit of each fact, or why it cannot be made."""
    try:
        found = method(model, prompts, targets)
    except (ValueError, FloatingPointError) as error:
        if len(prompts) == 1:
            return [str(error)]
        # One of them: the others are edited all the same.
        return [edit for p, t in zip(prompts, targets, strict=True) for edit in edit_each(model, method, [p], [t])]
    check_list("edits of a method", found, WeightEdit, "kn.rome(model, prompts, targets, layer=5)")
    if len(found) != len(prompts):
        raise ValueError(f"a method gave {len(found)} edits of {len(prompts)} facts; give one of each")
    return list(found)


@contextmanager
def same_weights(model: Any) -> Iterator[None]:
    """A block that may edit the model, and must leave it bit by bit as it was."""
    clean = fingerprint(model, fresh=True)
    yield
    if fingerprint(model, fresh=True) != clean:
        raise RuntimeError("the weights changed during the evaluation; load the model again")


#: The editors that `editors` makes by name.
EDITORS = ("rome", "rome published key", "emmet", "memit", "alpha_edit", "fine_tune", "edit_values")


def editors(
    model: Any,
    names: Sequence[str] | None = None,
    *,
    layer: int | None = None,
    second_moment: Moments = None,
    settings: RomeSettings | None = None,
    bound: float = 5e-4,
    threshold: float = 0.02,
) -> dict[str, Editor]:
    """Editors of one layer by name, for `edit_consistency` and `forgetting_curve`.

    ```python
    editors(model, ["rome", "emmet", "fine_tune"], layer=5, second_moment=C)
    ```

    Arguments:
        names: of `EDITORS`; `None`: all (without C, all but `alpha_edit`).
        layer: `None`: `layer_for(model)`.
        second_moment: C of that layer; layer -> C for `memit` and `alpha_edit` in all of these layers.
        settings: of the search for values; `None`: `RomeSettings.for_model(model)`. `memit` and `alpha_edit` measure
            and bound values as MEMIT does.
        bound: the largest change of a weight by `fine_tune`.
        threshold: of `alpha_edit`: eigenvalues of C below it count as null.

    Raises:
        ValueError: an unknown name, `alpha_edit` without C, or no C for `layer`.
    """
    chosen, at = settings or RomeSettings.for_model(model), layer_for(model) if layer is None else layer
    instance("second_moment", second_moment, (SecondMoment, Mapping, NoneType), "kn.second_moment(model, layer, texts)")
    moments = {second_moment.layer: second_moment} if isinstance(second_moment, SecondMoment) else second_moment or {}
    possible = [name for name in EDITORS if moments or name != "alpha_edit"]
    wanted = possible if names is None else several("names", names, "['rome', 'emmet']")
    for name in wanted:
        check_name("editor", name, EDITORS)
    if moments and at not in moments:
        raise ValueError(
            f"second_moment is of layer(s) {list(moments)}, the edit is in layer {at}; give C of that layer"
        )
    if "alpha_edit" in wanted and not moments:
        raise ValueError(
            f"alpha_edit needs C: second_moment=kn.second_moment(model, {at}, texts); or leave alpha_edit out"
        )
    c, spread = moments.get(at), sorted(moments) or [at]
    wide = replace(chosen, clamp=MEMIT.clamp, scale=MEMIT.scale, key="consistent")
    made = {
        "rome": lambda: rome_method(at, c, chosen),
        "rome published key": lambda: rome_method(at, c, replace(chosen, key="published")),
        "emmet": lambda: joint_method(emmet, [at], c, replace(chosen, key="consistent")),
        "memit": lambda: joint_method(memit, spread, moments or None, wide),
        "alpha_edit": lambda: joint_method(alpha_edit, spread, moments, wide, threshold=threshold),
        "fine_tune": lambda: fine_tune_method(at, limit=bound, lr=bound),
        "edit_values": values_method,
    }
    return {name: made[name]() for name in wanted}
