"""What a sweep runs, and in which forward passes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import attrgetter
from typing import Any

from kntools.arguments import several, shown, whole
from kntools.engine.inputs import Inputs
from kntools.hooks.positioned import PositionedHook, StatefulHook, is_local
from kntools.models import adapter
from kntools.sites import ANSWER, Hook, Positions, layer_of, resolve_positions

# Parts before block 0, and `hook_...` of them; everything else outside the blocks comes after the last one.
_EMBEDDING = {"embed", "pos_embed", "token_type_embed", "full_embed", "embed_ln", "rotary_emb", "tokens"}

#: Hooks before block 0, for each prompt: every run of that prompt has them.
Embedding = Sequence[Sequence[Hook]]

# A pass costs about as much as this many token positions, whatever is in it: every weight is read once. On two cores
# benchmarks/pass_overhead.py finds 51 to 82.
PASS_OVERHEAD = 64
# A GPU also waits for Python to launch the operations of every block. In this time it could compute so many positions,
# times d_model squared; four times as many in 16 bits. Both from benchmarks/pass_overhead.py on one H200.
GPU_PASS_OVERHEAD = 3.5e9


@dataclass(frozen=True)
class Intervention:
    """Hooks and their prompt: one row of a sweep. A plain `list[Hook]` does where the rest is not needed.

    ```python
    runs = [kn.Intervention(kn.ablate_neurons([(3, 7)]), prompt=n) for n in range(len(tokens))]
    kn.sweep(model, tokens, runs)       # one row per prompt
    ```

    Arguments:
        prompt: which row of the sweep's `tokens` it starts from.
        rows: the batch size that the hooks see. With `rows=10`, one hook may treat ten samples at once.
        wrt: for `sweep_gradients`: `(hook name, positions)` of the activations to differentiate by. What counts is
            the activation after this intervention's own hooks at that point.
    """

    hooks: Sequence[Hook]
    prompt: int = 0
    rows: int = 1
    wrt: Sequence[tuple[str, Positions]] = ()

    def __post_init__(self) -> None:
        hooks = checked_hooks(self.hooks)
        if not all(map(_is_named, self.wrt)):
            raise TypeError(f"wrt={shown(self.wrt)}; give pairs of hook name and position: [(name, -1)]")
        names = [name for name, _ in self.wrt]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"wrt names {twice[0]!r} twice; give its positions together: ({twice[0]!r}, [0, -1])")
        checked = {"hooks": hooks, "prompt": whole("prompt", self.prompt), "rows": whole("rows", self.rows, 1)}
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def names(self) -> list[str]:
        return [name for name, _ in self.hooks] + [name for name, _ in self.wrt]


def _is_named(pair: Any) -> bool:
    return isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[0], str)


@dataclass(frozen=True)
class Item:
    """An intervention with its number and what the plan needs to know of it."""

    number: int
    intervention: Intervention
    fork: int  # the block on whose way in its rows appear; -1: rows from the embedding on
    start: int  # first position at which it may differ from the clean run


@dataclass
class Pass:
    """Items that share one forward pass over the tokens from `start` on."""

    start: int
    items: list[Item] = field(default_factory=list)

    @property
    def prompts(self) -> list[int]:
        return sorted({i.intervention.prompt for i in self.items})


def as_interventions(given: Sequence[Any], prompts: int) -> list[Intervention]:
    """Check what is swept over so many prompts."""
    listed = several("interventions", given, "[hooks] for a single one, [[]] for the unmodified run")
    if not listed:
        raise ValueError("no interventions given; pass a list with at least one list of hooks ([] changes nothing)")
    out = []
    for number, one in enumerate(listed):
        if not isinstance(one, Intervention) and prompts > 1:
            raise ValueError(
                f"the sweep has {prompts} prompts, and a list of hooks does not name its prompt; "
                "write kn.Intervention(hooks, prompt=n)"
            )
        # Checked here too: a type checker at run time would report the field alone.
        inter = one if isinstance(one, Intervention) else Intervention(checked_hooks(one))
        if not 0 <= inter.prompt < prompts:
            raise IndexError(f"intervention {number} starts from prompt {inter.prompt}; there are {prompts}")
        out.append(inter)
    return out


def checked_hooks(given: Any) -> tuple[Hook, ...]:
    hooks = tuple(given) if isinstance(given, Iterable) else (given,)
    if not all(_is_named(hook) and callable(hook[1]) for hook in hooks):
        raise TypeError(
            f"an intervention is a list of hooks, pairs (name, function), but got {shown(given)}; a sweep takes a list "
            "of interventions: write [hooks], not hooks, for a single one"
        )
    return hooks


def stage_of(name: str, layers: int) -> int:
    """The block in which a hook fires: -1 before the first, the last one for what comes after it."""
    layer = layer_of(name)
    if layer is not None:
        return layer
    return -1 if name.split(".")[0].removeprefix("hook_") in _EMBEDDING else layers - 1


def start_of(inter: Intervention, inputs: Inputs) -> int:
    """The first position at which a resolved intervention acts, or whose logits or gradients are asked for."""
    places = [pos for _, pos in inter.wrt]
    for name, fn in inter.hooks:
        # A hook that has no position may look anywhere: nothing can be left out.
        if not (isinstance(fn, PositionedHook) and is_local(name, fn)):
            return 0
        places.append(fn.pos)
    acting = [p for pos in places for p in resolve_positions(pos, inputs.length)]
    return min([*inputs.asked[inter.prompt], *acting])


def pass_overhead(model: Any) -> int:
    """What a pass costs whatever is in it, in token positions."""
    if adapter.device_of(model).type == "cpu":
        return PASS_OVERHEAD
    speed = 4 if next(model.parameters()).element_size() == 2 else 1
    return max(PASS_OVERHEAD, int(speed * GPU_PASS_OVERHEAD / model.cfg.d_model**2))


def make_passes(items: Sequence[Item], *, max_rows: int, overhead: int) -> list[Pass]:
    """Group items by the position at which they start, in passes of at most `max_rows` rows, clean ones included.

    One of a single item may have more. A small group joins the one before it where that costs less than a pass.
    """
    merged: list[tuple[int, list[Item]]] = []
    for start, alike in groupby(sorted(items, key=attrgetter("start")), attrgetter("start")):
        group = list(alike)
        rows = sum(i.intervention.rows for i in group)
        if merged and rows * (start - merged[-1][0]) < overhead:
            merged[-1][1].extend(group)
        else:
            merged.append((start, group))
    passes = []
    for start, group in merged:
        rows, prompts = max_rows, set[int]()
        for item in sorted(group, key=attrgetter("fork")):
            inter = item.intervention
            if rows + inter.rows + len(prompts | {inter.prompt}) > max_rows:
                passes.append(Pass(start))
                rows, prompts = 0, set()
            passes[-1].items.append(item)
            rows += inter.rows
            prompts.add(inter.prompt)
    return passes


def resolve(inter: Intervention, inputs: Inputs) -> Intervention:
    """A row's own hooks and positions: what is at the answer is at that of its prompt."""
    states: dict[int, dict[str, Any]] = {}

    def own(fn: Any) -> Any:
        if isinstance(fn, StatefulHook):
            return fn.for_row(states)
        return fn.at(inputs.answer_of(inter.prompt)) if isinstance(fn, PositionedHook) and fn.pos is ANSWER else fn

    wrt = [(name, inputs.answer_of(inter.prompt) if pos is ANSWER else pos) for name, pos in inter.wrt]
    return replace(inter, hooks=[(name, own(fn)) for name, fn in inter.hooks], wrt=wrt)
