"""GGUF files, converted once into a Hugging Face folder in float32.

The cache holds each folder complete or not at all; a damaged one is rebuilt.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import platformdirs
import torch
from filelock import FileLock
from transformers import AutoModelForCausalLM, AutoTokenizer

from kntools.files import atomic
from kntools.models.hf_folder import StrictLoader, write_folder

MANIFEST = "kntools.json"
# Raised when what is written changes, so that older copies are left alone and not read.
LAYOUT = 1


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


def cache_folder() -> Path:
    """`$KNTOOLS_CACHE`, or else the user's cache folder of this operating system."""
    chosen = os.environ.get("KNTOOLS_CACHE")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("kntools"))


def converted_folder(key: str, build: Callable[[Path], None]) -> Path:
    """The cached folder `key`, made by `build(folder)` if it is missing or damaged. Other processes wait meanwhile."""
    models = cache_folder() / "models"
    folder = models / f"{key}-v{LAYOUT}"
    if is_intact(folder):
        return folder
    models.mkdir(parents=True, exist_ok=True)
    with FileLock(models / f"{folder.name}.lock"):
        if is_intact(folder):  # another process was faster
            return folder
        # Whoever holds the lock is alone: what lies here is damaged or was left by a killed process.
        for remains in [folder, *models.glob(f"{folder.name}.part-*")]:
            shutil.rmtree(remains, ignore_errors=True)
        with atomic(folder) as part:
            part.mkdir()
            build(part)
            # A folder without this is not a result.
            (part / MANIFEST).write_text(json.dumps({"files": _describe(part)}, indent=2))
    return folder


def is_intact(folder: Path) -> bool:
    """Does the folder hold just what was written? Of weight files, which take long to hash, sizes are compared."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        return bool(manifest["files"]) and manifest["files"] == _describe(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _describe(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    sizes = {path.name: f"{path.stat().st_size} bytes" for path in files if path.suffix == ".safetensors"}
    others = [path for path in files if path.name not in sizes]
    return sizes | {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in others}
