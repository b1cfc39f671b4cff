"""Where data comes from: `path=`, then `$KNTOOLS_DATA`, then the Hugging Face hub, then the built-in sample.

The sample stands in for a data set that is not there with a warning, never silently.
"""

import os
import tomllib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from kntools.data import hub
from kntools.data.read import Row, json_lines

#: `path="sample"` asks for the built-in sample by name.
SAMPLE = "sample"
#: The sample is a data folder of our own, in the layout and fields of the data sets that it stands in for.
FOLDER = Path(str(resources.files("kntools.data") / SAMPLE))
#: What loaders may be asked for: `paradigms` of BLiMP, and `relations` of ParaRel.
NAMES: dict[str, Any] = tomllib.loads((FOLDER / "names.toml").read_text(encoding="utf-8"))
ENVIRONMENT = "KNTOOLS_DATA"
_FIX = f"Set {ENVIRONMENT} to the folder that holds the data, or pass path=..."


class SampleWarning(UserWarning):
    """The built-in sample stands in for a data set that was not found."""


@dataclass(frozen=True)
class Source:
    name: str
    is_sample: bool = False


@dataclass(frozen=True)
class Wanted:
    """A data set as one loader needs it."""

    name: str
    files: tuple[str, ...]  # relative to the data folder, all of them needed
    read: Callable[[Path], list[Row]] = json_lines  # one of them
    hub_set: hub.HubSet | None = None
    hub_config: str | None = None  # of the hub's data set, if it has several
    sample: tuple[str, ...] | None = None  # those of the built-in sample; `None`: they are called as the `files`


def load(wanted: Wanted, path: str | Path | None) -> tuple[list[list[Row]], Source]:
    """Rows, one list per file (the hub gives one list), and where they came from, or what was tried."""
    own = _inside(FOLDER, wanted.files if wanted.sample is None else wanted.sample)
    if path == SAMPLE:
        if not own:
            raise ValueError(f"there is no built-in sample of {wanted.name}; {_FIX}")
        return [wanted.read(file) for file in own], Source("built-in sample", is_sample=True)
    if path is not None:
        return _from_path(wanted, Path(path))
    tried = []
    folder = os.environ.get(ENVIRONMENT)
    if not folder:
        tried.append(f"${ENVIRONMENT} is not set")
    else:
        files = _inside(Path(folder), wanted.files)
        if files:
            return [wanted.read(file) for file in files], Source(str(Path(folder) / Path(wanted.files[0]).parts[0]))
        tried.append(f"${ENVIRONMENT}={folder} has no {' and '.join(wanted.files)}")
    if wanted.hub_set is not None:
        try:
            return [hub.rows(wanted.hub_set, wanted.hub_config)], Source(f"hub {wanted.hub_set.id}")
        except hub.Unavailable as error:
            tried.append(str(error))
    if own:
        warnings.warn(
            f"{wanted.name} was not found ({'; '.join(tried)}); using kntools' built-in sample instead. {_FIX}",
            SampleWarning,
            stacklevel=3,  # the caller of the loader
        )
        source = Source(f"built-in sample, in place of {wanted.name}", is_sample=True)
        return [wanted.read(file) for file in own], source
    raise FileNotFoundError(f"{wanted.name} was not found: {'; '.join(tried)}. {_FIX}")


def _from_path(wanted: Wanted, path: Path) -> tuple[list[list[Row]], Source]:
    if path.is_file():
        if len(wanted.files) > 1:
            raise ValueError(f"{path} is one file; {wanted.name} needs a folder with {' and '.join(wanted.files)}")
        return [wanted.read(path)], Source(str(path))
    if not path.is_dir():
        raise FileNotFoundError(f"path={str(path)!r} does not exist; give a file or folder with {wanted.name}")
    files = _inside(path, wanted.files)
    if files:
        return [wanted.read(file) for file in files], Source(str(path))
    if wanted.hub_set is not None and hub.is_layout(path):
        return [hub.rows(wanted.hub_set, wanted.hub_config, folder=path)], Source(str(path))
    raise FileNotFoundError(
        f"path={str(path)!r} is not a folder with {wanted.name}: it has no {' and '.join(wanted.files)}"
        + (", nor the files of its hub data set" if wanted.hub_set else "")
    )


def _inside(folder: Path, names: tuple[str, ...]) -> list[Path] | None:
    """The files under `folder`, given from the top (`pararel/facts/P36.jsonl`) or from any level below it."""
    depth = min((len(Path(name).parts) for name in names), default=0)
    for level in range(depth):
        files = [folder.joinpath(*Path(name).parts[level:]) for name in names]
        if all(file.is_file() for file in files):
            return files
    return None
