"""Which architectures can be loaded, and one sentence for each that cannot."""

import re
from collections.abc import Mapping
from typing import Any

from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
from transformer_lens.utilities.architectures import AUDIO_ARCHITECTURES, VISION_ARCHITECTURES
from transformers import AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from kntools.models.names import nearest


def check_architecture(name: str, config: Mapping[str, Any]) -> None:
    """Can kntools work with the model of this configuration?"""
    listed = config.get("architectures") or []
    architecture = listed[0] if listed else f"model type {config.get('model_type')!r}"
    if _is_encoder_decoder(config):
        raise ValueError(
            f"{name!r} is an encoder-decoder ({architecture}); kntools works on decoders and masked language models, "
            "such as 'gpt2' or 'bert-base-cased'"
        )
    if architecture in AUDIO_ARCHITECTURES | VISION_ARCHITECTURES:
        raise ValueError(f"{name!r} ({architecture}) is not a language model; load one, such as 'gpt2'")
    # These have a head for words among others, which is all that TransformerLens loads of them.
    known = architecture in SUPPORTED_ARCHITECTURES or architecture.endswith(("ForPreTraining", "DoubleHeadsModel"))
    if listed and not known:
        raise ValueError(
            f"TransformerLens does not know the architecture {architecture!r} of {name!r}; the nearest supported "
            f"is {_nearest(architecture)!r}"
        )


def check_code(name: str, config: Mapping[str, Any]) -> None:
    """Does transformers itself have the code of this architecture?"""
    kind, listed = config.get("model_type"), config.get("architectures") or []
    if kind not in CONFIG_MAPPING:
        raise ValueError(
            f"transformers does not know the model type {kind!r} ({', '.join(listed) or 'no architecture'}) of "
            f"{name!r}; if its code comes with it, load it with AutoModelForCausalLM.from_pretrained(..., "
            "trust_remote_code=True) and give load_model that object"
        )


def _is_encoder_decoder(config: Mapping[str, Any]) -> bool:
    if "is_encoder_decoder" in config or config.get("model_type") not in CONFIG_MAPPING:
        return bool(config.get("is_encoder_decoder"))
    return bool(AutoConfig.for_model(config["model_type"]).is_encoder_decoder)


def _nearest(architecture: str) -> str:
    """One of the same family, by the name without its head, or else of the nearest family."""
    families: dict[str, list[str]] = {}
    for known in SUPPORTED_ARCHITECTURES:
        families.setdefault(_family(known), []).append(known)
    near = nearest(_family(architecture), families, 1)
    among = families[near[0]] if near else SUPPORTED_ARCHITECTURES
    return (nearest(architecture, among, 1) or [*among])[0]


def _family(architecture: str) -> str:
    return re.sub(r"(For[A-Z]\w*|LMHeadModel|Model)$", "", architecture)
