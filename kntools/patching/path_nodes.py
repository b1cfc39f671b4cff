"""The ends of a path: heads, MLPs, neurons, and the logits."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kntools.arguments import several
from kntools.models import adapter, neuron_layers
from kntools.patching.branches import attention_site, mlp_site
from kntools.patching.cells import CellChoice
from kntools.sites import Neuron, Positions

#: `"L9.H6"` (a head), `"L9.H6.q"` (what it reads as query, key or value), `"L9.MLP"`, `"L9.N1005"`, a `Neuron`.
NodeLike = str | Neuron

LOGITS = "logits"
_NODE = re.compile(r"^L(\d+)\.(?:H(\d+)(?:\.([qkv]))?|N(\d+)|(MLP))$")
# All of a kind, by its name or its site.
_ALL = {"head": "head", "z": "head", "mlp": "mlp", "mlp_out": "mlp", "neuron": "neuron", "mlp.hook_post": "neuron"}


@dataclass(frozen=True)
class Node:
    layer: int
    kind: str  # "head", "q", "k", "v", "mlp" or "neuron"
    index: int | None = None

    def site(self, model: Any) -> str:
        """Where it is seen: a head by its output, an MLP by all of its neurons."""
        if self.kind == "head":
            return attention_site(model)
        if self.kind == "mlp":
            return mlp_site(model)
        return "mlp.hook_post" if self.kind == "neuron" else self.kind

    def __str__(self) -> str:
        if self.kind == "mlp":
            return f"L{self.layer}.MLP"
        if self.kind == "neuron":
            return f"L{self.layer}.N{self.index}"
        return f"L{self.layer}.H{self.index}" + ("" if self.kind == "head" else f".{self.kind}")


def parse(model: Any, text: NodeLike) -> Node:
    match = _NODE.match(str(text).strip())
    if match is None:
        raise ValueError(
            f"{text!r} names no part of a model; write 'L9.H6' for a head, 'L9.H6.q' (k, v) for what it reads, "
            "'L9.MLP', 'L9.N1005' for a neuron, or 'logits' (a receiver)"
        )
    layer, head, reads, neuron, _ = match.groups()
    adapter.check_layer(model, int(layer))
    if neuron is not None:
        neuron_layers.check_neurons(model, [Neuron(int(layer), int(neuron))])
        return Node(int(layer), "neuron", int(neuron))
    return Node(int(layer), "mlp") if head is None else Node(int(layer), reads or "head", int(head))


def senders(model: Any, sender: NodeLike | Sequence[NodeLike], positions: Positions) -> CellChoice:
    """The cells of a grid of senders: all heads, MLPs or neurons, or the layers and columns of those given."""
    if isinstance(sender, str) and sender in _ALL:
        kind, layers, columns = _ALL[sender], None, None
        site = Node(0, kind).site(model)
    else:
        nodes = [parse(model, node) for node in _listed(sender)]
        kinds = {node.kind for node in nodes}
        if len(kinds) != 1 or kinds & {"q", "k", "v"}:
            raise ValueError(
                f"sender={sender!r}; senders are heads, MLPs or neurons, of one kind: 'head', 'mlp' or 'neuron' for "
                "all of them, or e.g. ['L3.H1', 'L5.H0']"
            )
        [kind] = kinds
        site, layers = nodes[0].site(model), sorted({node.layer for node in nodes})
        columns = sorted({node.index for node in nodes if node.index is not None})
    axis: dict[str, Any] = {} if kind == "mlp" else {f"{kind}s": True if columns is None else columns}
    return CellChoice(site, layers, positions, **axis)


def receivers(model: Any, receiver: NodeLike | Sequence[NodeLike]) -> list[Node]:
    """The receivers, without the logits, which are last."""
    listed = _listed(receiver)
    if listed == [LOGITS]:
        return []
    if LOGITS in listed or not listed:
        raise ValueError(f"receiver={receiver!r}; give 'logits' alone, or heads, MLPs and neurons")
    return sorted({parse(model, node) for node in listed}, key=str)


def check_path(model: Any, choice: CellChoice, ends: Sequence[Node]) -> None:
    """Does some sender stand before some receiver? In a layer the attention is first, or beside the MLP."""
    if choice.layers is None or not ends:
        return
    attention = choice.heads is not False and not getattr(model.cfg, "parallel_attn_mlp", False)
    first, last = min(choice.layers), max(end.layer for end in ends)
    beside = attention and any(end.layer == last and end.kind in ("mlp", "neuron") for end in ends)
    if first > last or (first == last and not beside):
        names = ", ".join(map(str, ends))
        raise ValueError(f"no sender stands before a receiver ({names}): there is no path; give later receivers")


def _listed(nodes: NodeLike | Sequence[NodeLike]) -> list[NodeLike]:
    return [nodes] if isinstance(nodes, str | Neuron) else several("sender and receiver", nodes, "'L9.H6' or 'logits'")
