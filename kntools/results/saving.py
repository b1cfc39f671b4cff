"""Results on disk: tensors as safetensors, everything else as JSON in its header."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from kntools.models import adapter
from kntools.prompts import Prompt

FORMAT = 1


def provenance(model: Any, **settings: Any) -> dict[str, Any]:
    """What a result needs to say to be made again: model, weights, settings, versions."""
    libraries = ("kntools", "transformer-lens", "transformers", "torch")
    return {
        "model": adapter.model_name(model),
        "fingerprint": adapter.fingerprint(model),
        "settings": settings,
        "versions": {name: _version(name) for name in libraries},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # kntools run from a checkout that was not installed
        return "not installed"


def save(path: str | Path, kind: str, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> Path:
    """Write one file; it appears whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    metadata = {"kntools": json.dumps({"kind": kind, "format": FORMAT, **header}, ensure_ascii=False)}
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, part, metadata=metadata)
    part.replace(path)
    return path


def load(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a file that `save` wrote; errors say what else it is."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; results are written by .save(path)")
    try:
        with safe_open(path, framework="pt") as f:
            header = json.loads((f.metadata() or {}).get("kntools", "null"))
            tensors = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118 - not a dict
    except Exception as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error
    if not header or header.get("kind") != kind:
        found = header.get("kind") if header else "no kntools result"
        raise ValueError(f"{path} holds {found!r}, not {kind!r}; load it with the class that saved it")
    if header["format"] > FORMAT:
        raise ValueError(f"{path} was written by a newer kntools; update kntools")
    return tensors, header


def prompts_to_json(prompts: Iterable[Prompt]) -> list[dict[str, Any]]:
    return [asdict(p) for p in prompts]


def prompts_from_json(rows: Iterable[Mapping[str, Any]]) -> tuple[Prompt, ...]:
    return tuple(Prompt(**row) for row in rows)
