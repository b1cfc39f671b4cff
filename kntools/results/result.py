"""What every primitive and analysis returns: a frozen dataclass that can be saved, compared and shown."""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from kntools.arguments import shown
from kntools.files import atomic, write
from kntools.results import display, encoding
from kntools.results.hub import SCHEME, Address

if TYPE_CHECKING:
    from plotly.graph_objects import Figure as Figure
else:
    Figure = Any  # Plotly is imported when a figure is drawn.

FORMAT = 2

R = TypeVar("R", bound="Result")


@dataclass(frozen=True, eq=False, repr=False)
class Result(encoding.Registered):
    """The base of all results. A subclass is a dataclass that defines `describe` and `to_frame`.

    ```python
    @dataclass(frozen=True, eq=False, repr=False)
    class Loss(Result):
        values: Float[Tensor, " layer"]
        prompt: Prompt

        def describe(self) -> str:
            return f"Loss per layer: {self.prompt.text!r}"

        def to_frame(self) -> pd.DataFrame:
            return pd.DataFrame({"layer": range(len(self.values)), "loss": self.values})
    ```

    Fields are tensors, text, numbers, `None`, dataclasses of these (`Prompt`, `Neuron`), tuples, lists and
    dictionaries. From them follow `save`, `kn.load`, `==`, and how the result looks at the prompt and in a notebook.
    """

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, encoding.without_numpy(getattr(self, field.name)))

    def describe(self) -> str:
        """A description in one line."""
        return type(self).__name__

    def to_frame(self) -> pd.DataFrame:
        """A tidy pandas table."""
        raise NotImplementedError

    def summary(self) -> pd.DataFrame:
        """The main table, in short form."""
        return self.to_frame()

    def tables(self) -> dict[str, pd.DataFrame]:
        """Further tables, by name."""
        return {}

    def preview(self) -> pd.DataFrame:
        """The table that is shown under `describe`."""
        return self.summary()

    def save(self, path: str | Path) -> Path:
        """Write one file for `kn.load(path)`: safetensors, with JSON for everything that is not a tensor.

        Without tensors it may be called `.json`. `.csv` holds the table of `to_frame` alone. Equal results give equal
        bytes.

        Raises:
            ValueError: a `.json` of a result with tensors.
        """
        if not isinstance(path, str | Path) or Path(path).is_dir():
            raise ValueError(f"{shown(path)} is not a file; give a path such as 'result.safetensors'")
        path = Path(path)
        if path.suffix == ".csv":
            return write(path, self.to_frame().to_csv(index=False))
        tensors: dict[str, Tensor] = {}
        content = encoding.encode(self, type(self).__name__, tensors)
        about = {"format": FORMAT, "checksum": checksum(json.dumps(content), tensors), "result": content}
        if path.suffix == ".json":
            if tensors:
                raise ValueError(f"{path.name}: this result holds tensors; use a file name that ends in .safetensors")
            return write(path, json.dumps(about, ensure_ascii=False, indent=1, allow_nan=False) + "\n")
        with atomic(path) as part:
            # One entry: safetensors keeps several in no fixed order.
            save_file(tensors, part, metadata={"kntools": json.dumps(about, ensure_ascii=False)})
        return path

    def push_to_hub(
        self,
        repo: str,
        file: str,
        *,
        revision: str | None = None,
        message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
    ) -> str:
        """Write the result to a repository of the Hugging Face Hub, and return the address that `kn.load` reads.

        ```python
        C.push_to_hub("user/moments", "gpt2-xl/C17.safetensors")  # 'hf://user/moments/gpt2-xl/C17.safetensors'
        ```

        Arguments:
            repo: `user/repo`, or `datasets/user/repo` for a repository of data. It is created if it does not exist.
            file: its path there; the ending is chosen as for `save`.
            revision: a branch that exists; `None` is the main one.
            message: of the commit.
            private: whether a repository that is created is private; `None` is the default of the account.
            token: `None` is the one of `hf auth login`.

        Raises:
            ValueError: no valid name of a repository or file; a `.json` of a result with tensors.
            ConnectionError, PermissionError: `HF_HUB_OFFLINE` is set; no token, or one that may not write there.
        """
        address = Address.parse(f"{SCHEME}{repo}/{file}")
        address = address if revision is None else replace(address, revision=revision)
        with tempfile.TemporaryDirectory() as folder:
            address.upload(self.save(Path(folder) / Path(file).name), message, private, token)
        return str(address)

    def __eq__(self, other: object) -> bool:
        return encoding.same(self, other)

    def __repr__(self) -> str:
        return display.text(self.describe(), self.preview())

    def _repr_html_(self) -> str:
        return display.html(self.describe(), self.preview())


@overload
def load(path: str | Path) -> Any: ...
@overload
def load(path: str | Path, kind: type[R]) -> R: ...


def load(path: str | Path, kind: type[Result] = Result) -> Any:
    """Read any result that `save` or `push_to_hub` wrote.

    ```python
    att = kn.load("canada.safetensors")
    C = kn.load("C8.safetensors", kn.SecondMoment)      # anything else is an error
    C = kn.load("hf://user/repo/C8.safetensors")        # from the Hugging Face Hub, or its local cache
    C = kn.load("hf://user/repo@v1/C8.safetensors")     # a branch, a tag or a commit
    ```

    Raises:
        FileNotFoundError: no such file; on the Hub also: not in the cache, and the Hub cannot be reached.
        ValueError: a file that is damaged, holds another kind of result or none, or was written by a newer kntools.
    """
    if not isinstance(path, str | Path) or not isinstance(kind, type):
        raise TypeError(f"load({shown(path)}, {shown(kind)}); give a path, and a class such as kn.Attribution")
    source, path = path, Path(path)
    if str(source).startswith(SCHEME):
        path = Address.parse(str(source)).download()
    if not path.is_file():
        what = " (it is a folder)" if path.is_dir() else ""
        raise FileNotFoundError(f"no file {path}{what}; results are written by .save(path)")
    tensors: dict[str, Tensor] = {}
    try:
        if path.suffix == ".json":
            about = json.loads(path.read_text(encoding="utf-8"))
        else:
            with safe_open(path, framework="pt") as file:
                about = json.loads((file.metadata() or {}).get("kntools", "null"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except Exception as error:  # safetensors has errors of many kinds
        raise ValueError(f"{source} is damaged, or not a file of results ({error}); save the result again") from error
    if not isinstance(about, dict) or not isinstance(about.get("format"), int):
        raise ValueError(f"{source} holds no result of kntools; give a file that .save(path) wrote")
    if about["format"] != FORMAT:
        age = "a newer" if about["format"] > FORMAT else "an older"
        raise ValueError(f"{source} was written by {age} version of kntools; use that one, or make the result again")
    if about.get("checksum") != checksum(json.dumps(about.get("result")), tensors):
        raise ValueError(f"{source} is damaged: its checksum is not that of its content; save the result again")
    try:
        found = encoding.decode(about["result"], Any, tensors)
    except Exception as error:  # of classes that have changed
        raise ValueError(f"{source} cannot be read by this version of kntools: {error}") from error
    if not isinstance(found, kind):
        raise ValueError(f"{source} holds {type(found).__name__}, not {kind.__name__}; give another file")
    return found


def checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """A hash of a text and of names, shapes, types and every bit of some tensors on the CPU."""
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
