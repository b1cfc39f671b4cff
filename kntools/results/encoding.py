"""Values as JSON and tensors, and back by the types of their fields: what files and runs hold. Never code.

A tensor becomes `{"$tensor": name}`, a result `{"$kind": name of its class, field: value, ...}`, a data frame
`{"$frame": types of its columns, "rows": [...]}`, nan `{"$float": "nan"}`, a range `{"$range": its three numbers}`,
another dataclass a mapping of its fields, a tuple a list. A key of a mapping that begins with `$` gets another one.
Reading goes by these marks and by type hints: without a hint, a tuple comes back as a list, a dataclass as a mapping.
"""

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd
import torch
from torch import Tensor

TENSOR, KIND, FRAME, FLOAT, RANGE = "$tensor", "$kind", "$frame", "$float", "$range"

_classes: dict[str, type] = {}
_hints = cache(get_type_hints)


class Registered:
    """A base whose subclasses are found by their names, which no two modules share."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        known = _classes.get(cls.__name__)
        if known is None or known.__module__ in (cls.__module__, "__main__"):
            _classes[cls.__name__] = cls
        elif cls.__module__ != "__main__":  # which is `python -m` of the module that is known
            raise TypeError(f"a result called {cls.__name__} is in {known.__module__} already; choose another name")


def encode(value: Any, name: str, tensors: dict[str, Tensor] | None = None) -> Any:
    """`value` as JSON. Its tensors go into `tensors`; without that, small ones become lists.

    Raises:
        TypeError: something that JSON cannot hold, such as a function; a data frame with an index of its own.
    """
    if isinstance(value, Tensor) and tensors is not None:
        while name in tensors:  # {"a.b": ..., "a": {"b": ...}}
            name += "'"
        # A copy: two names for the same memory cannot be written.
        tensors[name] = value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        return {TENSOR: name}
    if isinstance(value, np.generic | np.ndarray | Tensor):
        return encode(value.tolist(), name, tensors)
    if isinstance(value, float) and not math.isfinite(value):
        return {FLOAT: str(value)}
    if isinstance(value, str | bool | int | float | NoneType):
        return value
    if isinstance(value, pd.DataFrame):
        if not value.index.equals(pd.RangeIndex(len(value))):
            raise TypeError(f"{name} has an index, which is not saved; give the data frame as frame.reset_index()")
        types = {column: str(dtype) for column, dtype in value.dtypes.items() if isinstance(column, str)}
        if len(types) < value.shape[1]:
            raise TypeError(f"{name} has columns {list(value)}; give each a name of its own, which is text")
        rows = value.astype(object).where(value.notna(), None).to_numpy().tolist()
        return {FRAME: types, "rows": encode(rows, name, tensors)}
    if isinstance(value, Path | torch.dtype | torch.device):
        return str(value)
    if isinstance(value, range):
        return list(value) if tensors is None else {RANGE: [value.start, value.stop, value.step]}
    if isinstance(value, list | tuple):
        return [encode(item, f"{name}.{n}", tensors) for n, item in enumerate(value)]
    if is_dataclass(value) and not isinstance(value, type):
        found = {f.name: encode(getattr(value, f.name), f"{name}.{f.name}", tensors) for f in fields(value)}
        return {KIND: type(value).__name__, **found} if isinstance(value, Registered) else found
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {_escaped(key): encode(item, f"{name}.{key}", tensors) for key, item in value.items()}
    raise TypeError(f"{name}={value!r} cannot be saved: it is a {type(value).__name__}; give text or numbers")


def decode(value: Any, hint: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `encode` was given. `hint` is its type."""
    if isinstance(value, dict) and TENSOR in value:
        return tensors[value[TENSOR]]
    if isinstance(value, dict) and FLOAT in value:
        return float(value[FLOAT])
    if isinstance(value, dict) and RANGE in value:
        return range(*value[RANGE])
    if isinstance(value, dict) and FRAME in value:
        frame = pd.DataFrame(decode(value["rows"], Any, tensors), columns=[*value[FRAME]])
        numbers = ("float", "int", "uint", "bool")
        return frame.astype({column: dtype for column, dtype in value[FRAME].items() if dtype.startswith(numbers)})
    if isinstance(value, dict) and KIND in value:
        value = dict(value)
        hint = class_of(value.pop(KIND))
    if get_origin(hint) in (Union, UnionType):
        [hint, *others] = [option for option in get_args(hint) if option is not NoneType]
        if value is None or others:
            return value
    if isinstance(hint, type) and is_dataclass(hint):
        hints = _hints(hint)
        return hint(**{name: decode(item, hints.get(name, Any), tensors) for name, item in value.items()})
    if hint is range:  # of files from before it had a mark
        return range(*value)
    inner = get_args(hint)
    if isinstance(value, list) and get_origin(hint) is tuple:
        each = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        return tuple(decode(item, h, tensors) for item, h in zip(value, each, strict=True))
    if isinstance(value, list):
        return [decode(item, inner[0] if inner else Any, tensors) for item in value]
    if isinstance(value, dict):
        of_items = inner[1] if inner else Any
        return {key[key.startswith("$$") :]: decode(item, of_items, tensors) for key, item in value.items()}
    return value


def _escaped(key: str) -> str:
    return f"${key}" if key.startswith("$") else key


def same(a: Any, b: Any) -> bool:
    """Are two values equal, tensors and fields of dataclasses included? Not-a-number equals itself."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            return False
        b = b.to(a.device)
        return bool(((a == b) | ((a != a) & (b != b))).all())
    if isinstance(a, pd.DataFrame):
        return a.equals(b)
    if is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b) or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


def class_of(kind: str) -> Any:
    if kind not in _classes:
        import_module("kntools.face")  # with all results of kntools; any of them may have been saved
    if kind not in _classes:
        raise LookupError(f"{kind!r} is not a result of this version of kntools; import the module that defines it")
    return _classes[kind]


def without_numpy(value: Any) -> Any:
    """Numbers of numpy as Python's, `layer=np.int64(8)`, also within tuples, lists and dictionaries."""
    if isinstance(value, np.generic):
        return value.item()
    if type(value) in (tuple, list):
        return type(value)(map(without_numpy, value))
    if type(value) is dict:
        return {key: without_numpy(item) for key, item in value.items()}
    return value


def without_nan(value: Any) -> Any:
    """For other programs: tables become lists of rows; nan and infinity, which JSON does not have, become `null`."""
    if isinstance(value, pd.DataFrame):
        value = value.to_dict("records")
    if isinstance(value, Mapping):
        return {str(k): without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
