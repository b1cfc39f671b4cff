"""The commands attribute and search, on a tiny model in a local folder."""

import csv
import json
from pathlib import Path

import pytest
import torch

import kntools as kn
from tests.cli.test_cli import TARGET, TEXT, TEXTS, run, run_json, save_tiny


def test_attribute_prints_what_the_library_says(tiny: str) -> None:
    found = run_json("attribute", TEXT, TARGET, "--model", tiny, "--top", "4")
    att = kn.integrated_gradients(kn.load_model(tiny), kn.Prompt(TEXT, TARGET))
    assert [n["neuron"] for n in found["neurons"]] == [repr(n) for n in att.top(4)]
    assert [n["score"] for n in found["neurons"]] == pytest.approx([att.score_of(n) for n in att.top(4)], abs=1e-6)
    assert [n["rank"] for n in found["neurons"]] == [1, 2, 3, 4]
    assert found["probability"] == pytest.approx(float(att.probability[0]))
    assert found["rule"] == "adaptive"
    assert found["fingerprint"] == att.provenance["fingerprint"]


def test_attribute_as_a_table(tiny: str) -> None:
    result = run("attribute", TEXT, TARGET, "--model", tiny, "--top", "3")
    assert result.exit_code == 0, result.stderr
    found = run_json("attribute", TEXT, TARGET, "--model", tiny, "--top", "3")
    for neuron in found["neurons"]:
        assert neuron["neuron"] in result.stdout
    assert "these neurons set to 0" in result.stdout


def test_the_check_is_an_intervention(tiny: str) -> None:
    """Its numbers are those of plain hooks."""
    found = run_json("attribute", TEXT, TARGET, "--model", tiny, "--top", "5", "--draws", "3")
    model = kn.load_model(tiny)
    encoded = kn.encode(model, kn.Prompt(TEXT, TARGET))
    neurons = [(n["layer"], n["index"]) for n in found["neurons"]]
    edits = {"untouched": [], "suppressed": kn.ablate_neurons(neurons), "enhanced": kn.enhance_neurons(neurons)}
    for name, hooks in edits.items():
        with torch.no_grad():
            logits = model.run_with_hooks(encoded.tokens, fwd_hooks=hooks)
        p = float(logits[0, encoded.position].softmax(-1)[encoded.target_ids[0]])
        assert found["check"][name] == pytest.approx(p, abs=1e-5)
    assert len(found["check"]["random_suppressed"]) == 3


def test_the_seed_and_nothing_else_chooses_the_random_neurons(tiny: str) -> None:
    def draws(seed: str) -> list[float]:
        return run_json("attribute", TEXT, TARGET, "-m", tiny, "--seed", seed)["check"]["random_suppressed"]

    assert draws("1") == draws("1")
    assert draws("1") != draws("2")
    assert run_json("attribute", TEXT, TARGET, "-m", tiny, "--draws", "0")["check"] is None


def test_options_reach_the_library(tiny: str) -> None:
    words = ("--rule", "midpoint", "--steps", "7", "--multi-token", "first", "--no-bos")
    found = run_json("attribute", TEXT, " Ouagadougou", "-m", tiny, *words)
    settings = found["settings"]
    assert (settings["rule"], settings["steps"], settings["tol"]) == ("midpoint", 7, None)
    assert settings["prepend_bos"] is False
    model = kn.load_model(tiny, prepend_bos=False)
    prompt = kn.Prompt(TEXT, " Ouagadougou", multi_token="first")
    assert found["probability"] == pytest.approx(float(kn.integrated_gradients(model, prompt).probability[0]), abs=1e-6)


def test_search_finds_what_the_library_finds(tiny: str) -> None:
    found = run_json("search", TARGET, *TEXTS, "--model", tiny, "--threshold", "0.3", "--least", "1", "--most", "3")
    prompts = [kn.Prompt(text, TARGET) for text in TEXTS]
    att = kn.integrated_gradients(kn.load_model(tiny), prompts)
    kns = kn.knowledge_neurons(att, threshold=0.3, target_count=(1, 3))
    assert [n["neuron"] for n in found["neurons"]] == [repr(n) for n in kns.neurons]
    assert found["share"] == kns.share
    assert found["converged"] == kns.converged
    assert [p["probability"] for p in found["prompts"]] == pytest.approx(att.probability.tolist())


def test_search_reads_prompts_from_a_file(tiny: str, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"text": t, "target": TARGET}) + "\n" for t in TEXTS))
    from_file = run_json("search", "--file", file, "--model", tiny)
    from_words = run_json("search", TARGET, *TEXTS, "--model", tiny)
    assert from_file == from_words
    file.write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    assert run_json("search", TARGET, "--file", file, "--model", tiny) == from_words


def test_search_as_a_table(tiny: str) -> None:
    result = run("search", TARGET, TEXT, "--model", tiny)
    assert result.exit_code == 0, result.stderr
    assert "Knowledge neurons" in result.stdout
    assert "with three or more" in result.stdout


def test_search_lists_at_most_as_many_as_are_wanted(tiny: str) -> None:
    """With one phrasing the coarse set is what is found, however many are in it."""
    found = run_json("search", TARGET, TEXT, "--model", tiny, "--threshold", "0.01", "--most", "5")
    att = kn.integrated_gradients(kn.load_model(tiny), kn.Prompt(TEXT, TARGET))
    assert [n["neuron"] for n in found["neurons"]] == [repr(n) for n in att.top(5)]
    assert found["found"] == int(kn.coarse_sets(att.scores, 0.01).sum()) > 5 and found["check"]["neurons"] == 5
    text = run("search", TARGET, TEXT, "--model", tiny, "--threshold", "0.01", "--most", "5").stdout
    assert f"{found['found']} neurons" in text


def test_attribute_writes_a_page_a_table_and_the_scores(tiny: str, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    found = run_json("attribute", TEXT, TARGET, "--model", tiny, "--top", "6", "--out", out)
    assert {Path(f).name for f in found["files"]} == {"index.html", "attribution.safetensors", "neurons.csv"}
    att = kn.load(out / "attribution.safetensors")
    assert [repr(n) for n in att.top(6)] == [n["neuron"] for n in found["neurons"]]
    with (out / "neurons.csv").open() as file:
        assert [row["neuron"] for row in csv.DictReader(file)] == [n["neuron"] for n in found["neurons"]]
    page = (out / "index.html").read_text()
    assert "--out DIR" in page  # the command, without a path of this machine
    assert str(tmp_path / "new") not in page


def test_search_writes_a_page_and_its_results(tiny: str, tmp_path: Path) -> None:
    found = run_json("search", TARGET, *TEXTS, "--model", tiny, "--out", tmp_path)
    assert all(Path(f).is_file() for f in found["files"])
    kns = kn.load(tmp_path / "knowledge_neurons.safetensors")
    assert [repr(n) for n in kns] == [n["neuron"] for n in found["neurons"]]


def test_a_masked_model(tmp_path: Path) -> None:
    folder = save_tiny("bert", tmp_path / "bert")
    found = run_json("attribute", "The capital of Canada is [MASK].", "Ottawa", "--model", folder, "--top", "2")
    assert len(found["neurons"]) == 2
    assert found["check"]["suppressed"] != found["check"]["untouched"]
