"""The modules of a model: their modes, the hooks of PyTorch on them, and what a run of them depends on."""

from collections.abc import Mapping
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.nn.modules import module as torch_module

# Whose hooks belong to the model.
_LIBRARIES = ("transformer_lens.", "transformers.", "accelerate.", "peft.", "torch.")

_numbers: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
_next = count()


def all_modules(model: Any) -> set[torch.nn.Module]:
    """Its modules. What a bridge has not wrapped is one of the original model alone.

    A walk of our own: `Module.modules` makes the names too, and takes seven times as long.
    """
    found, todo = set[torch.nn.Module](), [model, getattr(model, "original_model", model)]
    while todo:
        module = todo.pop()
        if module is not None and module not in found:
            found.add(module)
            todo += module._modules.values()
    return found


def is_training(model: Any) -> bool:
    return any(module.training for module in all_modules(model))


def has_pytorch_hooks(model: Any) -> bool:
    """Has somebody attached hooks of PyTorch to a module, or to all modules? Those of the libraries do not count."""
    attached: list[Mapping[int, Any]] = [
        torch_module._global_forward_hooks,
        torch_module._global_forward_pre_hooks,
        torch_module._global_backward_hooks,
        torch_module._global_backward_pre_hooks,
    ]
    for module in all_modules(model):
        attached += module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    functions = [fn for hooks in attached if hooks for fn in hooks.values()]
    return any(not str(getattr(fn, "__module__", "")).startswith(_LIBRARIES) for fn in functions)


def wiring(model: Any) -> int:
    """A number that changes with the model's modules, their code, modes and settings, and not with its weights."""
    modules = all_modules(model)
    own = [(_number(m), type(m), m.training, _number(vars(m).get("forward"))) for m in modules]
    classes = [(kind, _number(kind.forward)) for kind in {type(m) for m in modules}]
    settings = [
        (name, value)
        for config in (model.cfg, getattr(getattr(model, "original_model", None), "config", None))
        if config is not None
        for name, value in vars(config).items()
        if isinstance(value, bool | int | float | str)
    ]
    return hash((frozenset(own), frozenset(classes), frozenset(settings)))


def _number(thing: Any) -> int:
    """The number of an object. Unlike its id, it is never given to another one."""
    if thing is None:
        return -1
    try:
        return _numbers.setdefault(thing, next(_next))
    except TypeError:  # it cannot be referred to weakly, or has no hash
        return id(thing)
