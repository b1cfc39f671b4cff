"""Which states of the clean run are put back into a corrupted one, as hooks."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor

from kntools.arguments import whole
from kntools.engine.inputs import check_choice
from kntools.hooks.states import freeze, patch
from kntools.models import adapter
from kntools.models.attachment import has_hooks
from kntools.models.causality import is_causal_with_hooks
from kntools.models.neuron_layers import layers_of
from kntools.sites import Hook, hook_name, layer_window

Kind = Literal["hidden", "mlp", "attn"]
Severed = Literal["mlp", "attn"]
SeverAt = Literal["restored", "all"]
KINDS = get_args(Kind)

# How many layers are restored together where nothing is said (Meng et al. 2022).
WINDOW = 10


@dataclass(frozen=True)
class Restoration:
    """Which states are put back together, and what is held at its corrupted values above them.

    Some layers of a hybrid model have no attention. Where no layer of a window has a state, nothing is restored.
    """

    kind: Kind
    site: str
    layers: range
    having: tuple[int, ...]  # the layers with the site
    window: int
    sever: Severed | None
    severed: dict[str, tuple[int, ...]]  # sites, and the layers that have them
    sever_at: SeverAt
    early: bool  # restored where the next block reads it
    causal: bool

    def hooks(self, clean: dict[str, Tensor], held: dict[str, Tensor], layer: int, token: int) -> list[Hook]:
        """Restore one state, and hold what is severed in all layers above."""
        window = layer_window(layer, self.window, len(self.layers))
        together = [n for n in window if n in self.having]
        if not together:
            return []
        if self.early and layer + 1 in self.layers:
            entry = {hook_name("resid_pre", layer + 1): clean[hook_name(self.site, layer)]}
            restored = patch("resid_pre", layer + 1, entry, [token])
        else:
            restored = freeze([self.site], together, clean, [token])
        # In a causal model, no token before the restored one can have learnt of it.
        where = [token] if self.sever_at == "restored" else slice(token if self.causal else 0, None)
        above = {site: [n for n in layers if n >= window.stop] for site, layers in self.severed.items()}
        return restored + [hook for site, layers in above.items() for hook in freeze(site, layers, held, where)]


def make_restoration(
    model: Any, kind: Kind, window: int | None, sever: Severed | None, sever_at: SeverAt
) -> Restoration:
    check_choice("kind", kind, KINDS)
    check_choice("sever", sever, (None, *get_args(Severed)))
    check_choice("sever_at", sever_at, get_args(SeverAt))
    layers = adapter.n_layers(model)
    if sever is None and sever_at != "restored":
        raise ValueError(f"sever_at={sever_at!r}, but nothing is severed; give sever='mlp' or 'attn' too")
    size = 1 if kind == "hidden" else whole("window", min(WINDOW, layers) if window is None else window, 1, layers)
    sites = [] if sever is None else [adapter.state_site(model, sever)]
    severed = {site: layers_of(model, site) for site in sites}
    # The output of a block is the input of the next: restored there, its rows need not run the block itself. Not
    # with somebody's hooks on that input, which act on the restored state.
    early = kind == "hidden" and not has_hooks(model)
    site, causal = adapter.state_site(model, kind), is_causal_with_hooks(model)
    having = layers_of(model, site)
    return Restoration(kind, site, range(layers), having, size, sever, severed, sever_at, early, causal)
