"""Building one configuration: a tiny model with random weights, and the text that it is asked.

```python
case = built("gemma2")
case.model(case.tokens())                  # a TransformerBridge in evaluation mode; nothing was downloaded
```

Sizes are given once, under every name that configs use for them; each config takes those that it has.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from scripts.architectures.families import FAMILIES, NATIVE, Family
from tests import zoo

LAYERS, WIDTH, HEADS, KV_HEADS, HEAD_WIDTH, NEURONS, CONTEXT, EXPERTS = 3, 32, 4, 2, 8, 40, 64, 4

_SIZES: dict[str, Any] = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), LAYERS),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "embedding_size"), WIDTH),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), HEADS),
    **dict.fromkeys(("num_key_value_heads",), KV_HEADS),
    **dict.fromkeys(("head_dim", "query_pre_attn_scalar"), HEAD_WIDTH),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "d_ff"), NEURONS),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length"), CONTEXT),
    **dict.fromkeys(("sliding_window", "window_size"), 4),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), EXPERTS),
    **dict.fromkeys(("num_experts_per_tok", "top_k_experts"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 20),
    **{"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8},
    **{"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "n_shared_experts": 1},
    **{"rotary_dim": 4, "ffn_hidden_size": NEURONS, "expansion_ratio": 2},
    # State spaces and other recurrences.
    **{"state_size": 8, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 8},
    **{"mamba_chunk_size": 16, "chunk_size": 16, "time_step_rank": 4, "mamba_dt_rank": 4, "use_mamba_kernels": False},
    **{"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8},
    **{"lru_width": WIDTH, "attention_window_size": 16, "attention_hidden_size": WIDTH},
    # No dropout; it is off in evaluation mode anyway.
    **dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop", "hidden_dropout", "attention_dropout", "dropout"), 0.0),
}

# Eleven tokens: more than a sliding window of 4, and than an original length of 8.
BEGINNING, END = "Yes, it is. The capital of ", " is"
SUBJECT, OTHER_SUBJECT, ANSWER, FOIL = "Canada", "France", "Ottawa", "Paris"


@dataclass(eq=False)
class Case:
    """A built configuration, and the text that it is asked."""

    family: Family
    model: Any
    tokenizer: Any
    source: Any  # the model of transformers

    def text(self, subject: str = SUBJECT) -> str:
        end = f"{END} [MASK]." if self.family.masked else END
        return f"{BEGINNING}{subject}{end}"

    def answer(self, word: str = ANSWER) -> str:
        """As it is written in its place."""
        return word if self.family.masked else f" {word}"

    def token(self, word: str) -> int:
        """The one token of a word inside a text."""
        [token] = self.tokenizer(self.answer(word), add_special_tokens=False)["input_ids"]
        return token

    def tokens(self, subject: str = SUBJECT, before: str = "") -> Tensor:
        """Token ids `[1 pos]`, with what belongs around them."""
        text = before + self.text(subject)
        return torch.tensor([self.ids(text)])

    def ids(self, text: str) -> list[int]:
        """Token ids of any text, with the token that begins it if the model has it so."""
        if self.family.masked:
            return self.tokenizer(text)["input_ids"]
        bos = self.tokenizer.bos_token_id
        first = [bos] if bos is not None and self.model.cfg.default_prepend_bos else []
        return [*first, *self.tokenizer(text, add_special_tokens=False)["input_ids"]]

    def position(self, tokens: Tensor) -> int:
        """Where the answer is read."""
        return int((tokens[0] == self.tokenizer.mask_token_id).nonzero()) if self.family.masked else tokens.shape[1] - 1


@functools.cache
def built(name: str) -> Case:
    """The model of one configuration, the same on every call."""
    family = FAMILIES[name]
    words = zoo.tokenizer("bert" if family.model.startswith("Bert") or family.masked else "llama")
    source = model = fresh(family, words)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if family.model != NATIVE:
            model = TransformerBridge.boot_transformers(
                f"tiny-{name}", hf_model=source, tokenizer=words, dtype=torch.float32, device="cpu"
            )
        if family.compatibility != "off":
            model.enable_compatibility_mode(disable_warnings=True, no_processing=family.compatibility == "unfolded")
    model.cfg.n_ctx = CONTEXT  # beyond the original length of rotary tables that stretch
    return Case(family, model.eval(), words, source)


def fresh(family: Family, words: Any) -> Any:
    """The model of transformers (or TransformerLens' own), newly built: the same weights on every call."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(sum(map(ord, family.model)))
        if family.model == NATIVE:
            model = TransformerBridge.boot_native(_native_config(family, len(words)), tokenizer=words)
        else:
            model = _source(family, words)
        for parameter in model.parameters():  # one neuron must count; norms and biases are not 1 and 0
            parameter.data += (0.25 if parameter.dim() > 1 else 0.1) * torch.randn(parameter.shape)
        return model.eval()


def _native_config(family: Family, words: int) -> Any:
    from transformer_lens.config import TransformerBridgeConfig

    sizes = {"n_layers": LAYERS, "d_model": WIDTH, "d_mlp": NEURONS, "n_heads": HEADS, "d_head": 8, "n_ctx": CONTEXT}
    return TransformerBridgeConfig(**sizes, d_vocab=words, seed=0, **family.options)


def _source(family: Family, words: Any) -> Any:
    """The model of transformers, newly built."""
    model_class = getattr(transformers, family.model)
    known = inspect.signature(model_class.config_class.__init__).parameters
    sizes = {key: value for key, value in _SIZES.items() if key in known}
    ids = {f"{kind}_token_id": getattr(words, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    config = model_class.config_class(**{"vocab_size": len(words), **ids, **sizes, **family.options})
    config.architectures, config._attn_implementation = [family.model], "eager"
    return model_class(config).eval()
