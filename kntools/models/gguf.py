"""GGUF files, converted once into a Hugging Face folder in float32."""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from kntools.models.converted import converted_folder
from kntools.models.hf_folder import StrictLoader, write_folder


def gguf_file(path: Path) -> Path | None:
    """The GGUF file that a path means: itself, or the only one of a folder without other weights; else `None`."""
    found = [path]
    if path.is_dir():
        found = sorted(path.glob("*.gguf"))
        if not found or any(path.glob("*.safetensors")) or any(path.glob("*.bin")):
            return None
    elif not path.is_file():
        return None
    if len(found) > 1:
        raise ValueError(
            f"the folder {str(path)!r} has {len(found)} GGUF files ({', '.join(file.name for file in found[:4])}); "
            "give the path of one. Parts of one model are joined with llama-gguf-split --merge"
        )
    with found[0].open("rb") as content:
        if content.read(4) != b"GGUF":
            raise ValueError(f"{str(found[0])!r} is no GGUF file; give a folder with a config.json, or a GGUF file")
    return found[0]


def gguf_folder(name: str, parts: Sequence[Path]) -> Path:
    # The digest of its content: a changed file is another model, whatever it is called.
    digest = hashlib.sha256()
    for part in parts:
        with part.open("rb") as content:
            hashlib.file_digest(content, lambda: digest)

    def convert(folder: Path) -> None:
        if len(parts) == 1:
            return convert_gguf(parts[0], folder)
        whole = folder / "joined.gguf"
        with whole.open("wb") as file:
            for part in parts:
                with part.open("rb") as content:
                    shutil.copyfileobj(content, file, 1 << 24)
        convert_gguf(whole, folder)
        whole.unlink()

    return converted_folder(f"{name}-{digest.hexdigest()[:16]}", convert)


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write the model and the tokenizer of a GGUF file as `save_pretrained` would, in float32."""
    loader = StrictLoader(AutoModelForCausalLM)
    model = loader.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # `model.save_pretrained` still takes the weights, plain tensors by now, for quantised ones, and refuses.
    write_folder(folder, type(model), model.config, model.state_dict(), tokenizer)
