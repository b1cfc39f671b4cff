"""`load_model` leaves everything global as it was: in every mode, and when Ctrl-C strikes at any of its lines."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import logging
import os
import random
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.utils
import numpy as np
import pytest
import torch
import transformer_lens
import transformers

import kntools as kn
from kntools import files, scopes
from kntools.models import architectures, hf_folder, hooked, load, lora, named, quiet, sources
from kntools.models import gguf as gguf_module
from tests import zoo
from tests.line_interrupts import interrupted_runs
from tests.models.test_gguf import write_gguf
from tests.test_modes import float64

MODULES = (load, quiet, sources, lora, hf_folder, gguf_module, named, architectures, hooked, files, scopes)
FILES = {str(inspect.getsourcefile(module)) for module in MODULES}


@functools.cache  # made before any mode is entered
def hf_model(name: str) -> Any:
    """Of one layer: it is loaded hundreds of times, and its layers take most of that."""
    return zoo.hf_model(name, num_hidden_layers=1)


def everything() -> dict[str, Any]:
    """What is global, the functions of the libraries and the temporary files too."""
    hub = huggingface_hub.utils
    return {
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        "threads": torch.get_num_threads(),
        "random": (
            torch.random.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),  # type: ignore[union-attr]
        ),
        "python": random.getstate(),
        "filters": list(warnings.filters),
        "show": warnings.showwarning,
        "verbosity": transformers.utils.logging.get_verbosity(),
        "bars": (transformers.utils.logging.is_progress_bar_enabled(), hub.are_progress_bars_disabled()),
        "loggers": [(name, logging.getLogger(name).level) for name in ("transformers", "huggingface_hub", "")],
        "environment": dict(os.environ),
        "output": (sys.stdout, sys.stderr),
        "folder": os.getcwd(),
        "functions": {
            (where.__name__, name): id(value)
            for where in (
                torch,
                torch.nn.init,
                torch.nn.modules.linear,
                torch.nn.modules.normalization,
                transformers.PreTrainedModel,
                transformers.modeling_utils,
                transformers.PreTrainedTokenizerBase,
                transformers.AutoTokenizer,
                transformer_lens.model_bridge.TransformerBridge,
                torch.nn.Module,
                torch.Tensor,
            )
            for name, value in vars(where).items()
            if name == "linspace" or inspect.isfunction(value) or isinstance(value, classmethod | staticmethod)
        },
        "temporary": sorted(os.listdir(tempfile.gettempdir())),
    }


def saved(name: str, folder: Path) -> Path:
    hf_model(name).save_pretrained(folder)
    zoo.tokenizer(name).save_pretrained(folder)
    return folder


def adapter_folder(folder: Path) -> Path:
    peft = pytest.importorskip("peft")
    base = folder / "llama"
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):
        peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(
            folder / "lora"
        )
    return folder / "lora"


def converted_anew() -> Path:
    """What is converted on every call, as GGUF files are on the first one."""
    model, words = hf_model("llama"), zoo.tokenizer("llama")

    def build(part: Path) -> None:
        hf_folder.write_folder(part, type(model), model.config, model.state_dict(), words)

    shutil.rmtree(gguf_module.cache_folder(), ignore_errors=True)
    return gguf_module.converted_folder("tiny", build)


def from_gguf(folder: Path) -> Any:
    """Converted on every call, too."""
    shutil.rmtree(gguf_module.cache_folder(), ignore_errors=True)
    return kn.load_model(folder / "tiny.gguf", device="cpu")


Load = Callable[[Path], Any]
SOURCES: dict[str, Load] = {
    "folder": lambda f: kn.load_model(f / "llama", device="cpu", prepend_bos=True),
    "masked": lambda f: kn.load_model(f / "bert", device="cpu"),
    "memory": lambda f: kn.load_model(hf_model("llama"), tokenizer=zoo.tokenizer("llama")),
    "lora": lambda f: kn.load_model(f / "lora", device="cpu"),
    "converted": lambda f: kn.load_model("tiny", device="cpu"),
    "gguf": from_gguf,
    "hooked": lambda f: kn.load_model(f / "llama", device="cpu", hooked=True),
    "hooked encoder": lambda f: kn.load_model(f / "bert", device="cpu", hooked=True),
}
SLOW = {"memory", "lora", "masked", "gguf"}
HOOKED = [pytest.param(name, marks=pytest.mark.legacy) for name in SOURCES if "hooked" in name]
#: The type checker of the tests draws an item of each list to look at: a GGUF file is a list of parts.
ELSEWHERE = {("gguf", "python")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    saved("llama", folder / "llama")
    saved("bert", folder / "bert")
    write_gguf(folder / "tiny.gguf")
    if importlib.util.find_spec("peft"):
        adapter_folder(folder)
    return folder


@pytest.fixture
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("KNTOOLS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(named.NAMED, "tiny", converted_anew)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([[5, 6, 7]]))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in SOURCES if "hooked" not in n] + HOOKED
)
@pytest.mark.usefixtures("own_temporary_folder")
def test_an_interrupted_load_leaves_nothing_behind(name: str, folder: Path) -> None:
    if name == "lora":
        pytest.importorskip("peft")

    def run() -> Any:
        return SOURCES[name](folder)

    expected = logits(run())
    before, struck = everything(), 0
    # The rest of what loads a folder is struck in "converted".
    struck_files = {str(inspect.getsourcefile(gguf_module))} if name == "gguf" else FILES
    for code, line in interrupted_runs(struck_files, run):
        after = everything()
        changed = [what for what in before if after[what] != before[what] and (name, what) not in ELSEWHERE]
        assert not changed, f"{changed} at {code.co_name}, line {line} of {code.co_filename}"
        struck += 1
    assert struck > (15 if name == "gguf" else 40)
    assert torch.equal(logits(run()), expected)
    after = everything()
    assert [what for what in before if after[what] != before[what] and (name, what) not in ELSEWHERE] == []


@pytest.mark.usefixtures("own_temporary_folder")
def test_functions_that_transformers_replaces_come_back(folder: Path) -> None:
    def run() -> Any:
        try:
            return SOURCES["folder"](folder)
        except UnboundLocalError as error:  # its cleanup reads what was not set yet
            raise KeyboardInterrupt from error

    run()
    before, struck = everything(), 0
    for code, line in interrupted_runs({str(inspect.getsourcefile(transformers.initialization))}, run):
        assert everything() == before, f"{code.co_name}, line {line}"
        struck += 1
    assert struck > 20


@pytest.mark.usefixtures("own_temporary_folder")
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, float64])
@pytest.mark.parametrize("name", [n for n in SOURCES if "hooked" not in n] + HOOKED)
def test_a_model_loaded_in_a_mode(name: str, mode: Any, folder: Path) -> None:
    if name == "lora":
        pytest.importorskip("peft")
    expected = SOURCES[name](folder)
    with mode():
        before = everything()
        model = SOURCES[name](folder)
        after = everything()
    assert [what for what in before if after[what] != before[what] and (name, what) not in ELSEWHERE] == []
    assert torch.equal(logits(model), logits(expected))
    assert [(n, p.dtype, p.requires_grad, p.is_inference()) for n, p in model.named_parameters()] == [
        (n, p.dtype, p.requires_grad, False) for n, p in expected.named_parameters()
    ]
    masked = name in ("masked", "hooked encoder")
    text = "The capital of Canada is [MASK]." if masked else "The capital of Canada is"
    prompt = kn.Prompt(text, "Ottawa" if masked else " Ottawa")
    found, right = (kn.activation_x_gradient(m, prompt).scores for m in (model, expected))
    assert torch.equal(found, right)
