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
import re
import warnings
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

D_MODEL, D_MLP, N_HEADS, N_KV_HEADS, N_CTX = 32, 48, 4, 2, 64

COUNTRIES = {
    "Canada": "Ottawa",
    "France": "Paris",
    "Italy": "Rome",
    "Japan": "Tokyo",
    "Spain": "Madrid",
    "Cuba": "Havana",
    "Kenya": "Nairobi",
    "Norway": "Oslo",
}
SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "To treat my toothache, I should see a dentist.",
    "The Eiffel Tower is located in the city of Paris, and the Colosseum in Rome.",
    "These books are on the table, but this book and that cat are not.",
    "Carla Moore thinks about those people who work in the field of linguistics.",
    *(f"The capital of {country} is {city}." for country, city in COUNTRIES.items()),
    *(f"{city} is the capital of {country}." for country, city in COUNTRIES.items()),
    *(f"Is {country} near {other}? Yes, it is." for country, other in pairwise(COUNTRIES)),
]


@dataclass(frozen=True)
class Recipe:
    """What it takes to build one architecture: its config class, its model class and what is special."""

    config: str
    model: str
    options: dict[str, Any]
    has_bos: bool = True
    masked: bool = False


def _hf(layers: int, **more: Any) -> dict[str, Any]:
    """Sizes under the names that most configs use."""
    return {
        "hidden_size": D_MODEL,
        "num_hidden_layers": layers,
        "num_attention_heads": N_HEADS,
        "intermediate_size": D_MLP,
        "max_position_embeddings": N_CTX,
        **more,
    }


def _gpt(layers: int, **more: Any) -> dict[str, Any]:
    """Sizes under the names of the GPT-2 family."""
    sizes = {"n_embd": D_MODEL, "n_layer": layers, "n_head": N_HEADS, "n_inner": D_MLP, "n_positions": N_CTX}
    return {**sizes, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, **more}


RECIPES: dict[str, Recipe] = {
    "gpt2": Recipe("GPT2Config", "GPT2LMHeadModel", _gpt(4)),
    "llama": Recipe("LlamaConfig", "LlamaForCausalLM", _hf(4, num_key_value_heads=N_KV_HEADS)),
    "neox": Recipe("GPTNeoXConfig", "GPTNeoXForCausalLM", _hf(3, rotary_pct=0.5)),
    "gptj": Recipe("GPTJConfig", "GPTJForCausalLM", _gpt(3, rotary_dim=4)),
    "opt": Recipe(
        "OPTConfig",
        "OPTForCausalLM",
        {**_hf(3, word_embed_proj_dim=D_MODEL, dropout=0.0), "ffn_dim": D_MLP},
    ),
    # Qwen tokenizers have no beginning-of-sequence token.
    "qwen2": Recipe("Qwen2Config", "Qwen2ForCausalLM", _hf(3, num_key_value_heads=N_KV_HEADS), has_bos=False),
    "qwen3": Recipe(
        "Qwen3Config",
        "Qwen3ForCausalLM",
        _hf(3, num_key_value_heads=N_KV_HEADS, head_dim=12),
        has_bos=False,
    ),
    "gemma2": Recipe(
        "Gemma2Config",
        "Gemma2ForCausalLM",
        _hf(4, num_key_value_heads=N_KV_HEADS, head_dim=8, query_pre_attn_scalar=8, sliding_window=16),
    ),
    "phi3": Recipe("Phi3Config", "Phi3ForCausalLM", _hf(3, num_key_value_heads=N_KV_HEADS)),
    "mistral": Recipe(
        "MistralConfig", "MistralForCausalLM", _hf(3, num_key_value_heads=N_KV_HEADS, sliding_window=None)
    ),
    "bert": Recipe(
        "BertConfig",
        "BertForMaskedLM",
        _hf(3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
        masked=True,
    ),
}
ALL: list[str] = list(RECIPES)

# Architectures without neurons in some layers, and such whose MLP adds the residual stream itself. They are built by
# name; the tests of all architectures leave them out.
_EXPERTS = {"num_key_value_heads": N_HEADS, "num_experts_per_tok": 2, "moe_intermediate_size": 20}
_LATENT = {"kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8}
_DEEPSEEK = {"n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
_LINEAR_ATTENTION = {
    **{f"linear_num_{kind}_heads": count for kind, count in (("key", 2), ("value", 4))},
    **{f"linear_{kind}_head_dim": 8 for kind in ("key", "value")},
}
RECIPES |= {
    "mixtral": Recipe(
        "MixtralConfig", "MixtralForCausalLM", _hf(3, num_key_value_heads=N_KV_HEADS, num_local_experts=4)
    ),
    "deepseek2": Recipe(
        "DeepseekV2Config",
        "DeepseekV2ForCausalLM",
        _hf(3, **_EXPERTS, **_LATENT, **_DEEPSEEK, q_lora_rank=None, topk_method="greedy"),
    ),
    "deepseek3": Recipe(
        "DeepseekV3Config", "DeepseekV3ForCausalLM", _hf(3, **_EXPERTS, **_LATENT, **_DEEPSEEK, q_lora_rank=8)
    ),
    "qwen3_next": Recipe(  # every other layer is dense, all but the last have linear attention
        "Qwen3NextConfig",
        "Qwen3NextForCausalLM",
        _hf(
            4,
            **{**_EXPERTS, "num_key_value_heads": N_KV_HEADS},
            **_LINEAR_ATTENTION,
            head_dim=8,
            num_experts=4,
            shared_expert_intermediate_size=20,
            decoder_sparse_step=2,
        ),
    ),
    "mamba": Recipe("MambaConfig", "MambaForCausalLM", _hf(3, state_size=4)),
    "bloom": Recipe(
        "BloomConfig",
        "BloomForCausalLM",
        {"hidden_size": D_MODEL, "n_layer": 3, "n_head": N_HEADS, "hidden_dropout": 0.0, "attention_dropout": 0.0},
    ),
    "mpt": Recipe(
        "MptConfig",
        "MptForCausalLM",
        {"d_model": D_MODEL, "n_layers": 3, "n_heads": N_HEADS, "expansion_ratio": 2, "max_seq_len": N_CTX},
    ),
}
# Embeddings with a norm behind them, or a scale inside or outside of their module.
RECIPES |= {
    "roberta": Recipe(
        "RobertaConfig",
        "RobertaForMaskedLM",
        _hf(3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
        masked=True,
    ),
    "modernbert_decoder": Recipe("ModernBertDecoderConfig", "ModernBertDecoderForCausalLM", _hf(3)),
    "granite": Recipe(
        "GraniteConfig", "GraniteForCausalLM", _hf(3, num_key_value_heads=N_KV_HEADS, embedding_multiplier=3.0)
    ),
    "xglm": Recipe(
        "XGLMConfig",
        "XGLMForCausalLM",
        {"d_model": D_MODEL, "ffn_dim": D_MLP, "num_layers": 3, "attention_heads": N_HEADS, "dropout": 0.0},
    ),
}
CAUSAL: list[str] = [name for name in ALL if not RECIPES[name].masked]


def tiny(name: str, dtype: torch.dtype = torch.float32) -> TransformerBridge:
    """The tiny model of one architecture, in evaluation mode, the same object on every call.

    Tests must leave it as they found it; `fresh` builds one that may be changed.
    """
    return _cached(name, dtype)


@functools.cache
def _cached(name: str, dtype: torch.dtype) -> TransformerBridge:
    return fresh(name, dtype)


def fresh(name: str, dtype: torch.dtype = torch.float32) -> TransformerBridge:
    """A new copy of `tiny(name)` with the same weights."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TransformerBridge.boot_transformers(
            f"tiny-{name}",
            hf_model=hf_model(name, dtype),
            tokenizer=tokenizer(name),
            dtype=dtype,
            device="cpu",
        )


def hf_model(name: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The Hugging Face model behind `tiny(name)`, newly built."""
    recipe, words = RECIPES[name], tokenizer(name)
    specials = {
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }
    config = getattr(transformers, recipe.config)(vocab_size=len(words), **specials, **recipe.options)
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


def tokenizer(name: str) -> PreTrainedTokenizerBase:
    """A new tokenizer of the kind that the architecture uses."""
    recipe = RECIPES[name]
    if recipe.masked:
        return PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(_wordpiece()),
            unk_token="[UNK]",
            cls_token="[CLS]",
            sep_token="[SEP]",
            mask_token="[MASK]",
            pad_token="[PAD]",
            model_input_names=["input_ids", "token_type_ids", "attention_mask"],
            name_or_path=f"tiny-{name}",
            model_max_length=N_CTX,
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_byte_level_bpe()),
        bos_token="<|endoftext|>" if recipe.has_bos else None,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        add_bos_token=recipe.has_bos,
        name_or_path=f"tiny-{name}",
        model_max_length=N_CTX,
    )


@functools.cache
def _byte_level_bpe() -> str:
    """GPT-2's kind: a space belongs to the word after it, and any text can be written."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=640,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    words.train_from_iterator(SENTENCES, trainer)
    return words.to_str()


@functools.cache
def _wordpiece() -> str:
    """BERT's kind: cased, `##` continues a word, [CLS] and [SEP] around the text.

    The vocabulary is written down rather than trained: the trainer gives another one in each process.
    """
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(code) for code in range(33, 127)]
    found = sorted(set(re.findall(r"\w\w+", " ".join(SENTENCES))))
    vocabulary = [*specials, *letters, *("##" + letter for letter in letters), *found]
    words = Tokenizer(models.WordPiece({token: i for i, token in enumerate(vocabulary)}, unk_token="[UNK]"))
    words.normalizer = normalizers.BertNormalizer(lowercase=False)
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.decoder = decoders.WordPiece()
    ends = [(special, words.token_to_id(special)) for special in ("[CLS]", "[SEP]")]
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    return words.to_str()


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
