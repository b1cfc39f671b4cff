"""From what a user gives as a model to files that `from_pretrained` reads, or to a Hugging Face model in memory."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from kntools.models import lora
from kntools.models.architectures import check_architecture, check_code
from kntools.models.gguf import gguf_file, gguf_folder
from kntools.models.hf_folder import strict_loader
from kntools.models.named import NAMED
from kntools.models.names import nearest

# How long the Hub may take to say whether it has a model, in seconds.
HUB_TIMEOUT = 10.0


@dataclass(frozen=True)
class Source:
    """A model to load: the name that results record, and the weights, as files or in memory."""

    name: str
    architecture: str  # "" if the files do not say
    words: str  # folder or id of the tokenizer
    files: str = ""  # folder or id of the weights, if they are not in memory
    model: Any = None

    def read(self, dtype: torch.dtype | None) -> Any:
        """The Hugging Face model; `None` leaves one in memory in the types that its weights have."""
        if self.model is None:
            return strict_loader(self.files).from_pretrained(self.files, dtype=dtype)
        for parameter in self.model.parameters():  # rotary tables stay in float32, as in a model read from files
            if dtype is not None and parameter.is_floating_point():
                parameter.data = parameter.data.to(dtype)
        return self.model


@contextmanager
def find_source(
    given: Any, tokenizer: str | Path | PreTrainedTokenizerBase | None, dtype: torch.dtype | None
) -> Iterator[Source]:
    """What `load_model` was given; while the scope lasts, all files are there."""
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(tokenizer, PreTrainedTokenizerBase):
            # As files it is read as any other tokenizer is, and nobody writes to the object.
            tokenizer.save_pretrained(folder)
            tokenizer = folder
        words = None if tokenizer is None else _find_words(tokenizer)
        yield _in_memory(given, words) if isinstance(given, torch.nn.Module) else _in_files(given, words, dtype)


def _in_files(given: Any, words: str | None, dtype: torch.dtype | None) -> Source:
    files = find_files(given)
    adapter = Path(files)
    if (adapter / lora.ADAPTER).is_file():
        base = _in_files(lora.base_of(adapter), words, dtype)
        own = files if _has_tokenizer(adapter) else base.words
        return Source(str(given), base.architecture, words or own, model=lora.merge_folder(base.read(dtype), adapter))
    config, _ = PretrainedConfig.get_config_dict(files)
    check_architecture(str(given), config)
    check_code(str(given), config)
    if words is None and adapter.is_dir() and not _has_tokenizer(adapter):
        raise ValueError(
            f"the folder {str(given)!r} has no tokenizer; write it there with tokenizer.save_pretrained, "
            "or give tokenizer="
        )
    return Source(str(given), (config.get("architectures") or [""])[0], words or files, files)


def _in_memory(given: Any, words: str | None) -> Source:
    """A copy: the user's model stays as it is."""
    kind = type(given).__name__
    if hasattr(given, "hook_dict"):
        raise TypeError(f"this {kind} is a model of TransformerLens already; pass it to kntools as it is")
    if not hasattr(getattr(given, "config", None), "to_dict"):
        raise TypeError(f"{kind} is no Hugging Face model; give one, or a folder, a Hugging Face id or a name")
    if any(parameter.is_meta for parameter in given.parameters()):
        raise ValueError(
            f"weights of this {kind} are not in memory (offloaded to disk); load it without device_map, "
            "or give load_model its folder or id"
        )
    name = given.config.name_or_path
    if words is None:
        try:
            words = find_files(name)
        except ValueError as error:
            raise ValueError(
                f"the tokenizer of this {kind} is not known (it was loaded from {name!r}); give tokenizer=: "
                "a Hugging Face tokenizer, or the folder or id of one"
            ) from error
    model = lora.merged_copy(given)
    model.config.architectures = [type(model).__name__]
    check_architecture(kind, model.config.to_dict())
    return Source(str(name or kind), type(model).__name__, words, model=model)


def find_files(name: str | Path) -> str:
    """A folder that exists, or an id that the Hub has: what `from_pretrained` understands."""
    if isinstance(name, str) and name in NAMED:
        return str(NAMED[name]())
    if not isinstance(name, str | Path):
        raise TypeError(f"{type(name).__name__} is no model; {_possible()}")
    if not str(name):
        raise ValueError("the name of the model is empty; " + _possible())
    path = Path(name).expanduser()
    if (gguf := gguf_file(path)) is not None:
        return str(gguf_folder(gguf.stem, [gguf]))
    if path.is_dir():
        if not any((path / file).is_file() for file in ("config.json", lora.ADAPTER)):
            raise ValueError(
                f"the folder {str(name)!r} has no config.json; "
                "write a model and its tokenizer there with save_pretrained"
            )
        return str(path)
    if isinstance(name, Path):
        raise ValueError(f"there is no folder {str(name)!r}")
    return _on_hub(name)


def _on_hub(name: str) -> str:
    """Ask the Hub before loading: the loaders retry for half a minute when there is no network."""
    try:
        # A copy on this machine is enough, and a network is then not needed.
        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return name
        if isinstance(adapter := try_to_load_from_cache(name, lora.ADAPTER), str):
            return str(Path(adapter).parent)
        files = {file.rfilename for file in HfApi().model_info(name, timeout=HUB_TIMEOUT).siblings or ()}
    except HFValidationError:
        problem = "it is not a valid Hugging Face id"
    except GatedRepoError:
        return name  # it exists; the loader says how to get access
    except RepositoryNotFoundError:
        problem = "the Hugging Face Hub has no such model (or it is private and no token is set)"
    except Exception as error:
        # Offline mode, no route, a proxy, a time-out: each HTTP library has its own class for it.
        problem = f"the Hugging Face Hub cannot be reached ({type(error).__name__}), nor is it in the local cache"
    else:
        if "config.json" not in files and lora.ADAPTER in files:
            return snapshot_download(name)
        if "config.json" not in files and (ggufs := sorted(file for file in files if file.endswith(".gguf"))):
            raise ValueError(
                f"{name!r} has GGUF files and no config.json; "
                f"download one (hf download {name} {ggufs[0]}) and give its path"
            )
        return name
    raise ValueError(f"unknown model {name!r}: no folder of that name, and {problem}; {_possible(name)}")


def _find_words(name: str | Path) -> str:
    folder = Path(name).expanduser()
    return str(folder) if folder.is_dir() and _has_tokenizer(folder) else find_files(name)


def _has_tokenizer(folder: Path) -> bool:
    files = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")
    return any((folder / file).is_file() for file in files)


def _possible(name: str = "") -> str:
    near = nearest(name, NAMED, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return (
        f"{hint}possible are {', '.join(map(repr, NAMED))}, a local folder, a GGUF file, a Hugging Face model in "
        "memory, or a Hugging Face id like 'gpt2'"
    )
