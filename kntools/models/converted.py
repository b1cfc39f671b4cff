"""A cache of converted models: built once, complete or not there at all, rebuilt when damaged."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import platformdirs
from filelock import FileLock

from kntools.files import atomic

MANIFEST = "kntools.json"
WEIGHTS = ".safetensors"
# Raised when what is written changes, so that older copies are left alone and not read.
LAYOUT = 1


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
    sizes = {path.name: f"{path.stat().st_size} bytes" for path in files if path.suffix == WEIGHTS}
    others = [path for path in files if path.suffix != WEIGHTS]
    return sizes | {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in others}
