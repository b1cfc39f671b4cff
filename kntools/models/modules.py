"""The modules of a model: modes, hooks of PyTorch, what is remembered while they are wired the same, rotary tables."""

from collections.abc import Callable, Hashable, Mapping
from itertools import count
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch.nn.modules import module as torch_module

# Whose hooks belong to the model.
_LIBRARIES = ("transformer_lens.", "transformers.", "accelerate.", "peft.", "torch.")

T = TypeVar("T")

_numbers: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
_next = count()

# By model: how it was wired when somebody last looked, and what it has been asked since.
_asked: WeakKeyDictionary[Any, tuple[int, dict[Hashable, Any]]] = WeakKeyDictionary()


def look(model: Any) -> None:
    """Forget what the model was asked if it is wired otherwise now: where prompts are encoded and runs are begun."""
    if not isinstance(model, torch.nn.Module):  # a tokenizer alone
        return
    now = wiring(model)
    if model not in _asked or _asked[model][0] != now:
        _asked[model] = now, {}


def answers(model: Any) -> dict[Hashable, Any]:
    """What the model has been asked, as it is wired: question -> answer."""
    if model not in _asked:
        look(model)
    return _asked[model][1]


def once(model: Any, question: Hashable, ask: Callable[[], T]) -> T:
    """What `ask` finds, which is not asked again while the model is wired the same."""
    known = answers(model)
    if question not in known:
        known[question] = ask()
    found: T = known[question]
    return found


def all_modules(model: Any) -> dict[torch.nn.Module, None]:
    """Its modules, in order. What a bridge has not wrapped is one of the original model alone.

    A walk of our own: `Module.modules` makes the names too, and takes seven times as long.
    """
    found, todo = dict[torch.nn.Module, None](), [model, getattr(model, "original_model", model)]
    while todo:
        module = todo.pop()
        if module is not None and module not in found:
            found[module] = None
            todo += module._modules.values()
    return found


def has_pytorch_hooks(model: Any) -> bool:
    """Has somebody attached hooks of PyTorch to a module, or to all modules? Those of the libraries do not count."""
    attached: list[Mapping[int, Any]] = [
        torch_module._global_forward_hooks,
        torch_module._global_forward_pre_hooks,
        torch_module._global_backward_hooks,
        torch_module._global_backward_pre_hooks,
    ]
    for m in all_modules(model):
        if m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks:
            attached += m._forward_hooks, m._forward_pre_hooks, m._backward_hooks, m._backward_pre_hooks
    functions = [fn for hooks in attached for fn in hooks.values()]
    return any(not str(getattr(fn, "__module__", "")).startswith(_LIBRARIES) for fn in functions)


def has_own_forward(module: torch.nn.Module) -> bool:
    """Is its forward somebody's, set on the module or by a class of theirs?"""
    written = getattr(type(module).forward, "__module__", "")
    return "forward" in vars(module) or not str(written).startswith(_LIBRARIES)


def wiring(model: Any) -> int:
    """A number that changes with the model's modules, their order, code, modes and settings, not with its weights."""
    modules = all_modules(model)
    own = [(_number(m), type(m), m.training) for m in modules]
    forwards = [(n, _number(f)) for n, m in enumerate(modules) if (f := m.__dict__.get("forward")) is not None]
    classes = [(kind, _number(kind.forward)) for kind in {type(m) for m in modules}]
    settings = [
        (name, value)
        for config in (model.cfg, getattr(getattr(model, "original_model", None), "config", None))
        if config is not None
        for name, value in vars(config).items()
        if isinstance(value, bool | int | float | str)
    ]
    types = {(p.dtype, p.device) for m in modules if m._parameters for p in m._parameters.values() if p is not None}
    return hash((tuple(own), tuple(forwards), frozenset(classes), frozenset(settings), frozenset(types)))


def _number(thing: Any) -> int:
    """The number of an object. Unlike its id, it is never given to another one."""
    try:
        found = _numbers.get(thing)  # `setdefault` alone makes a new reference each time
        return _numbers.setdefault(thing, next(_next)) if found is None else found
    except TypeError:  # it cannot be referred to weakly, or has no hash
        return id(thing)


def forget_lengths(model: Any) -> None:
    """Reset rotary tables that stretch in a long run and stay so (`rope_type="dynamic"`): no run changes the next."""
    for module, prefix in once(model, "dynamic tables", lambda: _dynamic_tables(model)):
        buffer = getattr(module, f"{prefix}inv_freq")
        setattr(module, f"{prefix}inv_freq", getattr(module, f"{prefix}original_inv_freq").to(buffer))
        setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)


def _dynamic_tables(model: Any) -> list[tuple[torch.nn.Module, str]]:
    """The modules with such tables, and how their names begin: a module may have one per type of layer."""
    found = []
    for module in all_modules(model):
        kinds = getattr(module, "rope_type", None)
        for layer, kind in (kinds if isinstance(kinds, dict) else {"": kinds}).items():
            if "dynamic" in str(kind):
                found.append((module, f"{layer}_" if layer else ""))
    return found
