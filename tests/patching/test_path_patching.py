"""Path patching against a plain reference: two runs per path, one at a time, with everything between held."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import kntools as kn
from kntools.engine.prompt_pairs import encode_pairs
from tests import zoo
from tests.patching.test_patching import pair

# Sequential, grouped queries, and attention and MLP in parallel.
NAMES = ["gpt2", "llama", "gptj", "neox"]
Change = Callable[[Tensor, Tensor], Tensor]


class Reference:
    """One pair, by `run_with_hooks` alone. Between sender and receiver `attn_out` and `mlp_out` are held."""

    def __init__(self, name: str, *, noising: bool = False) -> None:
        self.model = zoo.tiny(name)
        [both] = encode_pairs(self.model, *pair(name))
        start, source = (both.clean, both.corrupted) if noising else (both.corrupted, both.clean)
        self.tokens, self.pos = start.tokens, both.clean.position
        self.metric = kn.logit_difference(both.clean.target_ids[0], both.clean.foil_ids[0])
        with torch.no_grad():
            self.base = self.model.run_with_cache(self.tokens)[1]
            self.other = self.model.run_with_cache(source.tokens)[1]
            self.own = float(self.metric(self.model(self.tokens)[:, self.pos]))

    def name(self, site: str, layer: int) -> str:
        return f"blocks.{layer}.{kn.sites.SITES[site]}"

    def change(self, site: str, layer: int, source: Tensor, entry: tuple[Any, ...]) -> Any:
        def write(x: Tensor, hook: Any) -> Tensor:
            x = x.clone()
            x[entry] = source[entry]
            return x

        return self.name(site, layer), write

    def value(
        self, sender: tuple[str, int, tuple[Any, ...]], receivers: list[tuple[str, int, tuple[Any, ...]]] | None
    ) -> float:
        """The metric with the path to the receivers patched; to the logits if these are `None`."""
        site, layer, entry = sender
        seen: dict[str, Tensor] = {}

        def look(x: Tensor, hook: Any, name: str) -> None:
            seen[name] = x.clone()

        hooks: list[Any] = []
        for r_site, r_layer, _ in receivers or []:
            inside = r_site == site or {r_site, site} == {"mlp_out", "mlp.hook_post"}
            if r_layer != layer or not inside:  # there is no path to itself
                name = self.name(r_site, r_layer)
                hooks.append((name, lambda x, hook, name=name: look(x, hook, name)))
        hooks.append(self.change(site, layer, self.other[self.name(site, layer)], entry))
        for n in range(layer, self.model.cfg.n_layers):
            if n > layer:
                hooks.append((self.name("attn_out", n), lambda x, hook, n=n: self.base[self.name("attn_out", n)]))
            if n > layer or site == "z":
                hooks.append((self.name("mlp_out", n), lambda x, hook, n=n: self.base[self.name("mlp_out", n)]))
        with torch.no_grad():
            logits = self.model.run_with_hooks(self.tokens, fwd_hooks=hooks)
            if receivers is not None:
                put = [
                    self.change(r_site, r_layer, seen[self.name(r_site, r_layer)], r_entry)
                    for r_site, r_layer, r_entry in receivers
                    if self.name(r_site, r_layer) in seen
                ]
                logits = self.model.run_with_hooks(self.tokens, fwd_hooks=put)
            return float(self.metric(logits[:, self.pos]))


ALL = slice(None)


def head(index: int) -> tuple[Any, ...]:
    return (ALL, ALL, index)


SENDERS: list[tuple[str, str, Callable[[int], tuple[Any, ...]]]] = [
    ("head", "z", head),
    ("mlp", "mlp_out", lambda position: (ALL, position)),
    ("neuron", "mlp.hook_post", lambda neuron: (ALL, ALL, neuron)),
]
LAST = 2
RECEIVERS: dict[str, tuple[Any, list[tuple[str, int, tuple[Any, ...]]] | None]] = {
    "logits": ("logits", None),
    "query": (f"L{LAST}.H0.q", [("q", LAST, head(0))]),
    "key": (f"L{LAST}.H1.k", [("k", LAST, head(1))]),
    "value": (f"L{LAST}.H1.v", [("v", LAST, head(1))]),
    "head": (f"L{LAST}.H0", [("z", LAST, head(0))]),
    "mlp": (f"L{LAST}.MLP", [("mlp_out", LAST, (ALL,))]),
    "neuron": (kn.Neuron(LAST, 5), [("mlp.hook_post", LAST, (ALL, ALL, 5))]),
    "several": (
        ["L1.MLP", f"L{LAST}.H0.q", f"L{LAST}.H2.q", f"L{LAST}.H1.v"],
        [("mlp_out", 1, (ALL,)), ("q", LAST, head(0)), ("q", LAST, head(2)), ("v", LAST, head(1))],
    ),
}


@pytest.mark.parametrize("receiver", RECEIVERS)
@pytest.mark.parametrize("name", NAMES)
def test_every_path_equals_the_reference(name: str, receiver: str) -> None:
    reference, (given, ends) = Reference(name), RECEIVERS[receiver]
    kinds = SENDERS if receiver in ("logits", "query", "mlp") else SENDERS[:1]
    for sender, site, entry in kinds:
        asked = sender if sender != "neuron" else [f"L{n}.N{k}" for n in (0, 1, LAST) for k in (3, 40)]
        grid = kn.path_patch(reference.model, *pair(name), sender=asked, receiver=given)
        for layer in grid.layers:
            for column, label in [*enumerate(grid.columns)][layer % 2 :: 2]:  # in every layer and every column, some
                expected = reference.value((site, layer, entry(label)), ends)
                assert float(grid.values[layer, column]) == pytest.approx(expected, abs=2e-4, rel=1e-4)
        least = 1e-5 if "neuron" in (sender, receiver) else 1e-3
        assert float(grid.effect.abs().max()) > least, "no path carries anything: the comparison is empty"
        assert grid.axis == {"head": "head", "mlp": "position", "neuron": "neuron"}[sender]
        for layer in (n for n in grid.layers if receiver != "logits" and n > LAST):
            assert float(grid.effect[layer].abs().max()) == 0, "the sender stands behind the receiver"


def test_noising_and_positions() -> None:
    reference = Reference("llama", noising=True)
    grid = kn.path_patch(
        reference.model, *pair("llama"), sender="head", receiver="L2.H3.q", positions=[4, -1], noising=True
    )
    for layer in (0, 1):
        for column in grid.columns:
            value = reference.value(("z", layer, (ALL, [4, 5], column)), [("q", 2, head(3))])
            assert float(grid.values[layer, column]) == pytest.approx(value, abs=2e-4)
    assert grid.noising and grid.clean == pytest.approx(reference.own, abs=1e-4)


@pytest.mark.parametrize("name", ["bert", "gemma2", "bloom", "mpt"])
def test_other_architectures(name: str) -> None:
    """A norm after each addition, norms behind the branches, and outputs that hold the residual stream.

    What one neuron tells the logits directly: held are inputs of the output matrices, `z` and the neurons.
    """
    reference, grids = Reference(name), []
    for receiver in ("logits", "L2.H1.v"):
        grids.append(kn.path_patch(reference.model, *pair(name), sender=["L0.H1", "L1.H2"], receiver=receiver))
    model, base = reference.model, reference.base
    for layer, column in ((0, 1), (1, 2)):
        hooks = [reference.change("z", layer, reference.other[reference.name("z", layer)], head(column))]
        seen: dict[str, Tensor] = {}
        hooks += kn.capture(seen, ["v"], [2])
        for n in range(layer, model.cfg.n_layers):
            sites = ["mlp.hook_post"] if n == layer else ["z", "mlp.hook_post"]
            hooks += [(reference.name(s, n), lambda x, hook, s=s, n=n: base[reference.name(s, n)]) for s in sites]
        with torch.no_grad():
            direct = reference.metric(model.run_with_hooks(reference.tokens, fwd_hooks=hooks)[:, reference.pos])
            put = [reference.change("v", 2, seen[reference.name("v", 2)], head(1))]
            through = reference.metric(model.run_with_hooks(reference.tokens, fwd_hooks=put)[:, reference.pos])
        for grid, value in zip(grids, (direct, through), strict=True):
            found = grid.values[grid.layers.index(layer), grid.columns.index(column)]
            assert float(found) == pytest.approx(float(value), abs=5e-4, rel=1e-4)


def test_all_paths_to_the_logits_sum_where_the_norm_is_held() -> None:
    """Direct effects add up: all heads and MLPs and the embedding are all that the last norm reads."""
    reference = Reference("gpt2")
    model, scale = reference.model, reference.base["ln_final.hook_scale"]
    handle = [("ln_final.hook_scale", lambda x, hook: scale)]
    with model.hooks(fwd_hooks=handle):
        sent = [kn.path_patch(model, *pair("gpt2"), sender=s, receiver="logits") for s in ("head", "mlp")]
        total = sum(float(grid.effect.sum()) for grid in sent)
        with torch.no_grad():
            clean = model(kn.encode(model, pair("gpt2")[0]).tokens)[:, reference.pos]
    assert total == pytest.approx(float(reference.metric(clean)) - reference.own, abs=2e-3)


def test_the_result(tmp_path: Path) -> None:
    model = zoo.tiny("llama")
    clean = [kn.Prompt("The capital of Canada is", " Ottawa"), kn.Prompt("Is Japan near France? Yes, it is", " Paris")]
    other = ["The capital of Italy is", "Is Japan near Italy? Yes, it is"]
    grid = kn.path_patch(model, clean, other, sender="head", receiver=["L3.H1.q", "L2.MLP"], metric="log_probability")
    assert grid.method == "path" and grid.receivers == ("L2.MLP", "L3.H1.q") and grid.per_pair.shape == (2, 4, 4)
    for n in range(2):
        alone = kn.path_patch(
            model, clean[n], other[n], sender="head", receiver=["L3.H1.q", "L2.MLP"], metric="log_probability"
        )
        torch.testing.assert_close(grid.per_pair[n], alone.values, atol=1e-4, rtol=1e-4)
    assert kn.load(grid.save(tmp_path / "grid.safetensors")) == grid
    assert "Path patching of z to L2.MLP and L3.H1.q" in repr(grid) and "Path patching" in grid.plot().layout.title.text


def test_errors() -> None:
    model, both = zoo.tiny("llama"), pair("llama")

    def path(sender: Any, receiver: Any, model: Any = model) -> Any:
        return inspect.unwrap(kn.path_patch)(model, *both, sender=sender, receiver=receiver)

    for sender, receiver in (("heads", "logits"), ("L1.H2", "L3"), ("L1.Q2", "logits"), ("logits", "logits")):
        with pytest.raises(ValueError, match=r"names no part of a model; write 'L9\.H6'"):
            path(sender, receiver)
    for sender in ("L1.H2.q", ["L1.H2", "L1.MLP"], []):
        with pytest.raises(ValueError, match="of one kind"):
            path(sender, "logits")
    for receiver in (["logits", "L1.H2"], []):
        with pytest.raises(ValueError, match="give 'logits' alone"):
            path("head", receiver)
    for sender, receiver, said in (
        ("head", "L9.H0.q", "layer 9"),
        ("head", "L2.H2.k", "L2.H2.k does not exist: layer 2 has 2 heads of k"),
        ("head", "L2.H4", "L2.H4 does not exist"),
        ("L1.H4", "logits", "head 4 does not exist"),
        ("head", "L2.N48", "L2.N48 does not exist"),
    ):
        with pytest.raises(IndexError, match=said):
            path(sender, receiver)


@pytest.mark.parametrize(
    ("name", "said"), [("mamba", "shows no"), ("qwen3_next", "layer 0 .* writes through more than")]
)
@pytest.mark.filterwarnings("ignore:.*cannot share a forward pass")
def test_models_whose_layers_cannot_be_held(name: str, said: str) -> None:
    for sender in ("head", "mlp"):
        with pytest.raises(ValueError, match=f"{said}.*path patching and AtP"):
            kn.path_patch(zoo.tiny(name), *pair(name), sender=sender, receiver="logits")
    with pytest.raises(ValueError, match="another method"):
        kn.attribution_patch(zoo.tiny(name), *pair(name), site="resid_post", method="atp_star")
