"""Tiny random models of many architectures, built offline, each wrapped in a TransformerBridge.

    model = tiny("llama")                     # the same object on every call in one process
    twin = hooked_twin("llama")               # transformer-lens 3.x only: same weights, old class

They have large random weights, so that an intervention on one neuron visibly moves the
probabilities, and real tokenizers trained on a few sentences: `" Ottawa"` is one token,
`" Ouagadougou"` is several. Building one leaves the global random state as it was.
"""

import copy
import functools
import hashlib
import importlib.util
import warnings
from typing import Any

import torch
import transformers
from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel

from tests.recipes import (  # noqa: F401 # the names of the zoo
    ALL,
    CAUSAL,
    D_MLP,
    D_MODEL,
    N_CTX,
    N_HEADS,
    N_KV_HEADS,
    RECIPES,
    Recipe,
    _hf,
)
from tests.zoo_tokenizers import COUNTRIES, SENTENCES, tokenizer  # noqa: F401


def tiny(name: str, dtype: torch.dtype = torch.float32) -> TransformerBridge:
    """The tiny model of one architecture, in evaluation mode, the same object on every call.

    Tests must leave it as they found it; `fresh` builds one that may be changed.
    """
    return _cached(name, dtype)


@functools.cache
def _cached(name: str, dtype: torch.dtype) -> TransformerBridge:
    return fresh(name, dtype)


def fresh(name: str, dtype: torch.dtype = torch.float32, **options: Any) -> TransformerBridge:
    """A new copy of `tiny(name)` with the same weights; with other `options`, a model like it."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TransformerBridge.boot_transformers(
            f"tiny-{name}",
            hf_model=hf_model(name, dtype, **options),
            tokenizer=tokenizer(name),
            dtype=dtype,
            device="cpu",
        )


def hf_model(name: str, dtype: torch.dtype = torch.float32, **options: Any) -> PreTrainedModel:
    """The Hugging Face model behind `tiny(name)`, newly built; with other `options` of its architecture if given."""
    recipe, words = RECIPES[name], tokenizer(name)
    specials = {
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }
    config = getattr(transformers, recipe.config)(vocab_size=len(words), **specials, **recipe.options | options)
    config.architectures = [recipe.model]
    config._attn_implementation = "eager"
    with torch.random.fork_rng(devices=[]):
        model = getattr(transformers, recipe.model)(config)
    _randomise(model, seed=list(RECIPES).index(name))
    # Parameters alone: rotary tables stay in float32, as in a model loaded from disk.
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model.eval()


def _randomise(model: PreTrainedModel, seed: int) -> None:
    """Overwrite every parameter: matrices are large, norms and biases are not 1 and 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() > 1:
            parameter.data = 0.4 * noise
        elif "norm" in name.lower() or ".ln_" in name:
            parameter.data += 0.2 * noise
        else:
            parameter.data = 0.2 * noise


def known(names: list[str]) -> list[str]:
    """Those whose architecture this transformer-lens has a bridge for (3.x has none for RoBERTa)."""
    return [name for name in names if RECIPES[name].model in SUPPORTED_ARCHITECTURES]


# The names that have a twin in the classes of transformer-lens 3.x.
TWINS: list[str] = ["gpt2", "llama", "bert"]


def has_hooked_classes() -> bool:
    """Whether this transformer-lens still has HookedTransformer and HookedEncoder (4.0 removed them)."""
    return importlib.util.find_spec("transformer_lens.HookedTransformer") is not None


@functools.cache
def hooked_twin(name: str) -> Any:
    """The HookedTransformer (gpt2, llama) or HookedEncoder (bert) with the weights of `tiny(name)`.

    No weight is processed: nothing folded, nothing centred. Needs transformer-lens 3.x.
    """
    from transformer_lens import HookedEncoder, HookedTransformer
    from transformer_lens.pretrained import weight_conversions

    source = hf_model(name)
    shared = {
        "n_layers": source.config.num_hidden_layers,
        "d_model": D_MODEL,
        "d_mlp": D_MLP,
        "n_heads": N_HEADS,
        "d_head": D_MODEL // N_HEADS,
        "n_ctx": N_CTX,
        "d_vocab": source.config.vocab_size,
        "device": "cpu",
        "model_name": f"tiny-{name}",
    }
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both classes announce that 4.0 removes them
        if name == "bert":
            options = {
                "act_fn": "gelu",
                "attention_dir": "bidirectional",
                "eps": source.config.layer_norm_eps,
            }
            twin = HookedEncoder(_config({**shared, **options}), tokenizer(name), move_to_device=False)
            # The conversion wants the two heads that a masked LM lacks; they play no part in its logits.
            source.bert.pooler = torch.nn.Module()
            source.bert.pooler.dense = torch.nn.Linear(D_MODEL, D_MODEL)
            source.cls.seq_relationship = torch.nn.Linear(D_MODEL, 2)
            weights = weight_conversions.convert_bert_weights(source, twin.cfg)
            twin.load_state_dict({key: weight.detach() for key, weight in weights.items()}, strict=False)
            return twin.eval()
        if name == "gpt2":
            options = {
                "act_fn": "gelu_new",
                "normalization_type": "LN",
                "eps": source.config.layer_norm_epsilon,
            }
            convert = weight_conversions.convert_gpt2_weights
        elif name == "llama":
            options = {
                "act_fn": "silu",
                "normalization_type": "RMS",
                "final_rms": True,
                "eps": source.config.rms_norm_eps,
                "gated_mlp": True,
                "positional_embedding_type": "rotary",
                "rotary_adjacent_pairs": False,
                "n_key_value_heads": N_KV_HEADS,
            }
            convert = weight_conversions.convert_llama_weights
        else:
            raise ValueError(f"no twin for {name!r}; there is one for {TWINS}")
        twin = HookedTransformer(_config({**shared, **options}), tokenizer(name), move_to_device=False)
        weights = {key: weight.detach() for key, weight in convert(source, twin.cfg).items()}
        twin.load_and_process_state_dict(
            weights,
            fold_ln=False,
            center_writing_weights=False,
            center_unembed=False,
            fold_value_biases=False,
        )
        return twin.eval()


def _config(options: dict[str, Any]) -> Any:
    from transformer_lens import HookedTransformerConfig

    return HookedTransformerConfig(**options)


def weight(model: Any, *parts: str) -> torch.nn.Parameter:
    """The one weight whose name has all these parts. A bridge of transformer-lens 3.x may add a bias of zeros to it."""
    [found] = [p for n, p in model.named_parameters() if n.endswith("weight") and all(part in n for part in parts)]
    return found


def bits(model: Any) -> str:
    """A hash of every bit of all parameters: the proof that a model is as it was."""
    whole = hashlib.sha256()
    for name, parameter in model.named_parameters():
        whole.update(name.encode() + parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def ragged() -> TransformerBridge:
    """`tiny("llama")` with 20 instead of 48 neurons in layer 1: a new model on every call."""
    source = hf_model("llama")
    narrow = copy.copy(source.config)
    narrow.intermediate_size = 20
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source.model.layers[1].mlp = type(source.model.layers[1].mlp)(narrow)
        _randomise(source.model.layers[1].mlp, seed=1)
        return TransformerBridge.boot_transformers(
            "tiny-ragged", hf_model=source.eval(), tokenizer=tokenizer("llama"), dtype=torch.float32, device="cpu"
        )
