"""May rows be added to this model's batch half-way, and may the beginning of a prompt be kept?

Asked of the model itself, once: a few tokens are run both ways and compared. That holds for architectures that
nobody has listed, and it is why a sweep's answer never depends on the shortcut taken.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from kntools.engine.forward import ForwardPass, NotBatched
from kntools.engine.plain import run_plain
from kntools.engine.plan import Intervention, Item, Pass
from kntools.hooks.states import scale_site
from kntools.models import adapter
from kntools.models.prefix import Rows


@dataclass(frozen=True)
class Capability:
    fork: bool
    prefix: bool


_known: WeakKeyDictionary[Any, Capability] = WeakKeyDictionary()


def capability(model: Any, tokens: Tensor) -> Capability:
    """Try it on the first tokens of the first prompt; remember the answer for this model.

    While somebody else's hooks are attached to the model, nothing is shared: they would see other batches, and
    fewer positions, than in a run of its own.
    """
    _check_dropout(model)
    if adapter.has_hooks(model):
        return Capability(False, False)
    if model not in _known:
        probe = tokens[:1, : min(4, tokens.shape[1])]
        fork = _same(model, probe, start=0)
        last = probe.shape[1] - 1
        prefix = fork and last > 0 and not adapter.is_masked(model) and _same(model, probe, start=last)
        if last == 0:
            return Capability(fork, False)  # one token says nothing about prefixes: ask again next time
        _known[model] = Capability(fork, prefix)
        if not fork:
            warnings.warn(
                f"{type(model).__name__} of this architecture cannot share a forward pass between interventions; "
                "each runs on its own: same numbers, but slower",
                stacklevel=4,
            )
    return _known[model]


def _check_dropout(model: Any) -> None:
    # What a bridge has not wrapped is a module of the original model alone.
    for module in {*model.modules(), *getattr(model, "original_model", model).modules()}:
        if not module.training:
            continue
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            rates = [module.p]
        else:  # the rate of a dropout that is no module of its own
            rates = [rate for key, rate in vars(module).items() if "dropout" in key and isinstance(rate, float)]
        if any(rate > 0 for rate in rates):
            raise ValueError(
                f"the model is in training mode, and its {type(module).__name__} drops {max(rates):.0%} of its values "
                "at random: no two runs are the same; call model.eval() first"
            )


def _same(model: Any, tokens: Tensor, start: int) -> bool:
    """Do three interventions in one pass give the logits of three passes?"""
    layers = adapter.n_layers(model)
    asked = [[tokens.shape[1] - 1]]
    items = [
        Item(n, Intervention(scale_site("attn_out", layer, 0.5, pos=-1)), layer, start)
        for n, layer in enumerate(sorted({0, layers // 2, layers - 1}))
    ]
    try:
        prefix = adapter.build_prefix(model, tokens[:, :start], Rows()) if start else None
        shared = ForwardPass(model, tokens, asked, Pass(start, items), prefix).run(gradients=False)
    except (
        NotBatched,
        RuntimeError,
        ValueError,
        TypeError,
        AttributeError,
        KeyError,
        IndexError,
        AssertionError,
    ):
        return False  # whatever an unknown architecture stumbles over: the plain loop does not need it
    plain = [run_plain(model, tokens, asked, item, gradients=False).logits[0] for item in items]
    together = torch.cat([shared.logits[shared.spans[i.number]] for i in items]).float().log_softmax(-1)
    alone = torch.stack(plain).float().log_softmax(-1)
    loose = 1e-3 if shared.logits.dtype in (torch.float32, torch.float64) else 0.2
    # A model whose logits are nan gives nan both ways; whoever reads them says so.
    return torch.allclose(together, alone, rtol=loose, atol=loose, equal_nan=True)
