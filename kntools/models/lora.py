"""LoRA adapters, merged into the weights that they were trained on."""

import copy
import importlib.util
import json
from pathlib import Path
from typing import Any

ADAPTER = "adapter_config.json"


def base_of(folder: Path) -> str:
    """The model that an adapter was trained on, as its folder names it."""
    base = json.loads((folder / ADAPTER).read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise ValueError(
            f"the LoRA folder {str(folder)!r} does not name its base model; write the folder or id of that "
            f"model into {ADAPTER} as base_model_name_or_path"
        )
    return str(base)


def merge_folder(model: Any, folder: Path) -> Any:
    """A Hugging Face model with an adapter merged into its weights, which are written to."""
    _check_peft(str(folder))
    from peft import PeftModel

    adapted = PeftModel.from_pretrained(model, folder)
    if not hasattr(adapted.base_model, "merge_and_unload"):
        kind = adapted.peft_config["default"].peft_type
        raise ValueError(
            f"{str(folder)!r} is an adapter of kind {kind}, which is not a change of weights; use a LoRA folder"
        )
    return adapted.merge_and_unload()


def merged_copy(model: Any) -> Any:
    """A copy of a Hugging Face model, with the adapters that it may carry merged into the weights."""
    whole = copy.deepcopy(model)
    if hasattr(whole, "merge_and_unload"):  # a PeftModel
        return whole.merge_and_unload()
    if not getattr(whole, "_hf_peft_config_loaded", False):
        return whole
    _check_peft(type(whole).__name__)
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(whole.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(whole.get_submodule(parent), child, module.get_base_layer())
    whole._hf_peft_config_loaded = False
    return whole


def _check_peft(name: str) -> None:
    if importlib.util.find_spec("peft") is None:
        raise ModuleNotFoundError(f"{name!r} is a LoRA, which needs peft; pip install kntools[lora]", name="peft")
