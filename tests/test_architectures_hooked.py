"""The columns of the architecture table on HookedTransformer and HookedEncoder (transformer-lens 3.x).

Run by `make test-legacy`.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

import kntools as kn
from scripts.architectures.build import Case
from scripts.architectures.columns import PRIMITIVES
from scripts.architectures.families import Family
from scripts.architectures.verdict import judge
from tests import zoo

pytestmark = pytest.mark.legacy


def from_config(**options: Any) -> Any:
    """With weights of its own."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    words = zoo.tokenizer("llama")
    sizes = {"n_layers": 3, "d_model": 32, "d_head": 8, "n_heads": 4, "d_mlp": 40, "n_ctx": zoo.N_CTX}
    config = HookedTransformerConfig(**sizes, d_vocab=len(words), seed=0, device="cpu", model_name="hooked", **options)
    model = HookedTransformer(config, words, move_to_device=False)
    for parameter in model.parameters():
        parameter.data += (0.25 if parameter.dim() > 1 else 0.1) * torch.randn(parameter.shape)
    return model


def folded(name: str) -> Any:
    """Norms folded into weights, weights that write centred: what `from_pretrained` does by default."""
    model = zoo.hooked_twin.__wrapped__(name)
    model.load_and_process_state_dict(model.state_dict())
    return model


def of_transformers(name: str) -> Any:
    """A model of Hugging Face in memory."""
    return kn.load_model(zoo.hf_model(name), tokenizer=zoo.tokenizer(name), hooked=True, device="cpu")


BUILT: dict[str, Callable[[], Any]] = {
    "config": lambda: from_config(act_fn="gelu", normalization_type="LN"),
    "config, parallel": lambda: from_config(
        act_fn="gelu", normalization_type="LN", parallel_attn_mlp=True, positional_embedding_type="rotary", rotary_dim=4
    ),
    "config, gated": lambda: from_config(
        act_fn="silu", normalization_type="RMS", gated_mlp=True, n_key_value_heads=2, positional_embedding_type="alibi"
    ),
    "config, attention only": lambda: from_config(normalization_type="LN", attn_only=True),
    "folded gpt2": lambda: folded("gpt2"),
    "transformers, llama": lambda: of_transformers("llama"),
    "transformers, bert": lambda: of_transformers("bert"),
}


@functools.cache
def case_of(name: str) -> Case:
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = BUILT[name]().eval()
    masked = name.endswith("bert")
    neurons: Any = () if name.endswith("attention only") else "all"
    return Case(Family(name, type(model).__name__, name, neurons=neurons, masked=masked), model, model.tokenizer, model)


@pytest.mark.parametrize("name", BUILT)
def test_every_primitive_is_right_or_a_clear_error(name: str) -> None:
    case = case_of(name)
    with kn.set_options(progress=False):
        cells = {key: judge(case, column) for key, column in PRIMITIVES.items() if key != "load_model"}
    bad = {key: cell for key, cell in cells.items() if cell.status in ("wrong", "unclear")}
    assert not bad
    refused = {key for key, cell in cells.items() if cell.status == "error"}
    of_neurons = {key for key, column in PRIMITIVES.items() if column.of_neurons}
    if name.endswith("attention only"):
        assert refused == of_neurons | {"patch mlp_out", "causal_trace mlp"}
    else:
        assert refused == ({"rome", "fine_tune", "generate"} if case.family.masked else set())
