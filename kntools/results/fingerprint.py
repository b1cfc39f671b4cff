"""One fingerprint of a model's weights, exact to the bit, and computed anew only where a weight has changed."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor

_CHUNK = 1 << 24  # bytes that are hashed at a time: no parameter is copied whole

# Model -> parameter's name -> its state when it was hashed, and the hash.
_kept: WeakKeyDictionary[Any, dict[str, tuple[object, str]]] = WeakKeyDictionary()


def fingerprint(model: Any, *, fresh: bool = False) -> str:
    """A hash of names, shapes, types and every bit of all parameters.

    Hashes of parameters are kept until one is written to or replaced: PyTorch counts what operations write in place
    (`copy_`, `load_state_dict`, edits of kntools, most optimisers), and `parameter.data = ...` is other memory. It does
    not count `parameter.data[...] = ...`, optimisers with `fused=True`, and writes through NumPy; those are noticed
    where they change the first row or column of a matrix (any write of a whole row or column does), or any entry of a
    vector, and not where they change other entries alone. `fresh=True` hashes everything. Whatever returns a result
    asks for it before it runs the model.
    """
    kept = {} if fresh else _kept.get(model, {})
    parameters = dict(sorted(model.named_parameters(), key=lambda item: item[0]))
    if absent := [name for name, parameter in parameters.items() if parameter.is_meta]:
        raise ValueError(
            f"{len(absent)} of {len(parameters)} weights of this model are not in memory (offloaded to disk, e.g. "
            f"{absent[0]}), and results record a fingerprint of the weights; load the model without "
            "device_map, perhaps with dtype='bfloat16'. kn.sweep and kn.generate work as it is"
        )
    states = {name: _state(parameter) for name, parameter in parameters.items()}
    todo = [name for name, state in states.items() if state is None or kept.get(name, (None, ""))[0] != state]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing releases the interpreter's lock
        hashed = dict(zip(todo, pool.map(_digest, [parameters[name] for name in todo]), strict=True))
    _kept[model] = {name: (state, hashed.get(name) or kept[name][1]) for name, state in states.items()}
    whole = hashlib.blake2b(digest_size=8)
    for name, (_, digest) in _kept[model].items():
        whole.update(f"{name} {digest}\n".encode())
    return whole.hexdigest()


def _state(parameter: Tensor) -> object:
    """What differs after a write; `None` where PyTorch does not count them."""
    if parameter.is_inference():
        return None
    x = parameter.detach()
    x = x.flatten(0, -2) if x.dim() > 1 else x.reshape(1, -1)
    edges = _bytes(torch.cat([x[:1].flatten(), x[:, :1].flatten()]))
    # An address may be that of memory that has been freed since; a dead reference equals no other one.
    where = (ref(parameter.untyped_storage()), parameter.data_ptr())
    memory = (*where, parameter._version, parameter.shape, parameter.stride())
    return (*memory, parameter.dtype, parameter.device, bytes(edges))


def _digest(parameter: Tensor) -> str:
    x = parameter.detach()
    digest = hashlib.blake2b(f"{tuple(x.shape)} {x.dtype}".encode(), digest_size=16)
    x = x if x.dim() else x[None]
    for piece in x.split(max(1, _CHUNK * len(x) // max(1, x.nbytes))):
        digest.update(_bytes(piece))
    return digest.hexdigest()


def _bytes(x: Tensor) -> memoryview:
    return x.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
