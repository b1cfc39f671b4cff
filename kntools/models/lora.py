"""LoRA adapters, merged into the weights that they were trained on."""

import copy
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

from kntools.models.hf_folder import some

ADAPTER = "adapter_config.json"


def base_of(folder: Path) -> str:
    """The model that an adapter was trained on, as its folder names it: a relative path also from where it lies."""
    base = json.loads((folder / ADAPTER).read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise ValueError(
            f"the LoRA folder {str(folder)!r} does not name its base model; write the folder or id of that "
            f"model into {ADAPTER} as base_model_name_or_path"
        )
    beside = [path for path in (folder / base, folder.parent / base) if path.is_dir()]
    return str(beside[0] if beside and not Path(base).is_dir() else base)


def merge_folder(model: Any, folder: Path) -> Any:
    """A Hugging Face model with an adapter merged into its weights, which are written to."""
    _check_peft(str(folder))
    from peft import PeftModel, load_peft_weights

    saved = load_peft_weights(str(folder), device="cpu")
    _resize_vocabulary(model, folder, saved)
    try:
        adapted = PeftModel.from_pretrained(model, folder)
    except (KeyError, RuntimeError) as error:  # a module trained as a whole is missing; another shape
        what = shorten(str(error), 300)
        raise ValueError(f"{str(folder)!r} does not fit its base model {base_of(folder)!r}: {what}") from error
    if not hasattr(adapted.base_model, "merge_and_unload"):
        kind = adapted.peft_config["default"].peft_type
        raise ValueError(
            f"{str(folder)!r} is an adapter of kind {kind}, which is not a change of weights; use a LoRA folder"
        )
    report = adapted.load_adapter(str(folder), "default")  # once more: only here peft says which weights do not fit
    # Of resized embeddings peft writes two copies, and reads the one without this part of the name.
    strange = [key for key in report.unexpected_keys if key.replace(".modules_to_save.", ".") not in {*saved} - {key}]
    if strange or report.missing_keys:
        raise ValueError(
            f"the weights in {str(folder)!r} do not fit its base model {base_of(folder)!r}: "
            f"no place for {some(strange) or 'none'}; no value for {some(report.missing_keys) or 'none'}; "
            "save it again from a model without DDP or torch.compile around it, or correct base_model_name_or_path"
        )
    return adapted.merge_and_unload()


def _resize_vocabulary(model: Any, folder: Path, saved: Mapping[str, Any]) -> None:
    """To that of the adapter, if it brings embeddings of its own."""
    first, last = model.get_input_embeddings(), model.get_output_embeddings()
    ends = [name for name, module in model.named_modules() if module in (first, last)]
    rows = {
        name: len(weight)
        for key, weight in saved.items()
        for name in ends
        if f".{name}." in key and key.endswith(".weight") and "lora_" not in key
    }
    before, after = len(first.weight), max(rows.values(), default=0)
    if after in (0, before):
        return
    if after > before and len(rows) < len(ends) and last.weight is not first.weight:
        lost = next(name for name in ends if name not in rows)
        raise ValueError(
            f"{str(folder)!r} has {after} tokens, its base model {base_of(folder)!r} has {before}, and it lacks {lost} "
            "for the new ones; save it again with save_pretrained(..., save_embedding_layers=True)"
        )
    model.resize_token_embeddings(after, mean_resizing=False)


def merged_copy(model: Any) -> Any:
    """A copy of a Hugging Face model as it runs: adapters merged into the weights, or left out if they are disabled."""
    whole = copy.deepcopy(model)
    in_peft = hasattr(whole, "merge_and_unload")  # a PeftModel
    if not in_peft and not getattr(whole, "_hf_peft_config_loaded", False):
        return whole
    _check_peft(type(whole).__name__)
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    layers = [(n, m) for n, m in whole.named_modules() if isinstance(m, BaseTunerLayer | AuxiliaryTrainingWrapper)]
    for _, layer in layers:
        if layer.disable_adapters:
            if getattr(layer, "merged", False):
                layer.unmerge()
            layer.set_adapter([])
    if in_peft:
        return whole.merge_and_unload()
    for name, layer in layers:
        if any(name.startswith(f"{other}.") for other, _ in layers):
            continue  # part of a layer that is replaced as a whole
        parent, _, child = name.rpartition(".")
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            inner = layer.get_base_layer()
        else:
            inner = layer.unload_and_optionally_merge_module(merge=True, safe_merge=False, adapter_names=None)
        setattr(whole.get_submodule(parent), child, inner)
    whole._hf_peft_config_loaded = False
    return whole


def _check_peft(name: str) -> None:
    if importlib.util.find_spec("peft") is None:
        raise ModuleNotFoundError(f"{name!r} is a LoRA, which needs peft; pip install kntools[lora]", name="peft")
