"""A model with its edits as a folder that `transformers` loads."""

import copy
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformer_lens.model_bridge.sources.transformers import setup_tokenizer
from transformers import AutoTokenizer, PreTrainedModel

from kntools.engine.capability import check_dropout
from kntools.files import atomic
from kntools.models import adapter
from kntools.models.attachment import without_hooks
from kntools.models.export import advice, bridge_weights, huggingface_form
from kntools.models.hf_folder import StrictLoader, write_folder
from kntools.models.quiet import without_trace

# How far logits of the folder may be off, relative to the largest: rounding.
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6}
_HALF_PRECISION = 3e-2


def save_model(model: Any, folder: str | Path) -> Path:
    """Save a model, with its applied edits, as a Hugging Face folder; returns the folder.

    ```python
    with edit.applied(model):
        kn.save_model(model, "edited")
    AutoModelForCausalLM.from_pretrained("edited")      # the same logits
    kn.load_model("edited")
    ```

    `model` is a bridge of a Hugging Face model, a `HookedTransformer` with the layout of GPT-2, Llama or GPT-NeoX, or a
    `HookedEncoder`, with folded weights or not. The folder is a new one, or empty; it is read again and its logits are
    compared with those of the model, before it gets its name. Its weights are those of the model, bit for bit; if they
    have several types, all are written in the widest.

    Raises:
        FileExistsError: the folder holds something, or is a file.
        ValueError: no Hugging Face class computes what this model computes; the message says why and what to do.
    """
    target = new_folder(folder)
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError("weights of this model are not in memory (offloaded); load it without device_map")

    def save() -> None:
        with torch.no_grad(), atomic(target) as part:
            model_class, config, weights = _form(model)
            write_folder(part, model_class, config, weights, _tokenizer(model))
            generation = getattr(getattr(model, "original_model", None), "generation_config", None)
            if generation is not None:  # which tokens end a text; transformers would refuse to write some
                (part / "generation_config.json").write_text(generation.to_json_string(), encoding="utf-8")
            _check(model, model_class, weights, part)
            if target.exists():
                target.rmdir()

    without_trace(save)
    return Path(folder)


def new_folder(folder: str | Path) -> Path:
    """Its full path; an error if it is not free."""
    target = Path(folder).expanduser().resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{str(folder)!r} is there already and not empty; give a new folder")
    return target


def _form(model: Any) -> tuple[type[PreTrainedModel], Any, dict[str, Tensor]]:
    """A bridge runs the modules of a Hugging Face model, each wrapped."""
    if not adapter.is_bridge(model):
        return huggingface_form(model)
    inner = model.original_model
    if not isinstance(inner, PreTrainedModel):
        raise ValueError(
            f"{adapter.model_name(model)} is an architecture of TransformerLens itself ({type(inner).__name__}): "
            "Hugging Face has no class for it; keep its weights with torch.save(model.state_dict(), file)"
        )
    return type(inner), inner.config, bridge_weights(model)


def _tokenizer(model: Any) -> Any:
    """That of the files, with the further tokens and the chat template of the model's; if they differ more, that.

    TransformerLens has a tokenizer add a BOS token, and gives it special tokens that it lacks: they are left out.
    """
    if model.tokenizer is None:
        return None
    own = copy.deepcopy(model.tokenizer)
    with suppress(OSError, ValueError):
        files, loaded = (AutoTokenizer.from_pretrained(own.name_or_path, local_files_only=True) for _ in range(2))
        if loaded.bos_token is None:  # or else TransformerLens reads it once more, and asks the Hub
            setup_tokenizer(loaded)
        added = [token for _, token in sorted(own.added_tokens_decoder.items())]
        files.add_tokens([token for token in added if token.content not in files.get_vocab() | loaded.get_vocab()])
        for name, token in own.special_tokens_map.items():
            lent = name in ("bos_token", "pad_token") and getattr(files, name) is None and token == own.eos_token
            if not lent and token != getattr(loaded, name, None):
                setattr(files, name, token)
        files.chat_template = own.chat_template
        if files.get_vocab().items() <= own.get_vocab().items() <= (loaded.get_vocab() | files.get_vocab()).items():
            return files
    for name in ("bos_token", "eos_token", "pad_token"):
        if getattr(own, name) not in own.get_vocab():
            setattr(own, name, None)
    return own


def _check(model: Any, model_class: type[PreTrainedModel], weights: Mapping[str, Tensor], folder: Path) -> None:
    read = StrictLoader(model_class).from_pretrained(folder, dtype="auto", attn_implementation="eager")
    for name, weight in read.state_dict(keep_vars=True).items():
        own = weights.get(name, weight)  # an end that is tied may have no entry of its own
        if bool((weight != own.to(weight.device)).any()):
            raise ValueError(
                f"{model_class.__name__} reads other values of {name} than were written; save the edit itself"
            )
        weight.data = weight.data.to(own.dtype)  # one type was written; the model may compute in several
    generator, length = torch.Generator().manual_seed(0), min(12, adapter.context_length(model))
    tokens = torch.randint(int(model.cfg.d_vocab), (2, length), generator=generator).to(adapter.device_of(model))
    check_dropout(model)
    expected = without_hooks(model, lambda: adapter.run(model, tokens))
    logits = read.to(tokens.device).eval()(tokens).logits
    types = {parameter.dtype for parameter in model.parameters()}
    allowed = max(_TOLERANCE.get(dtype, _HALF_PRECISION) for dtype in types) * float(expected.abs().max())
    if logits.shape != expected.shape or not float((logits - expected).abs().max()) <= allowed:
        name = adapter.model_name(model)
        folded = getattr(model, "compatibility_mode", False)
        raise ValueError(
            f"{model_class.__name__} does not compute what {name} computes"
            + (", whose weights were folded by enable_compatibility_mode()" if folded else "")
            + f"; {advice(model)}"
        )
