"""Seeds alone draw: no process, and not Python's own hash of a text; and global generators stay where they were."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

import kntools as kn
from kntools import data, randomness
from kntools.analyses.prompt_group import by_answer, prompt_groups
from kntools.analyses.words import noun_prompts
from tests import zoo
from tests.conftest import ROOT

# In a process of its own: here, the type checker of the tests draws from the global generator.
DRAWS = """
import json, random, warnings
warnings.simplefilter("ignore")
import numpy as np
import torch
torch.set_num_threads(1)
import kntools as kn
from tests import zoo
from tests.data import test_seeds
state = random.getstate(), np.random.get_state()[1].tolist()
found = test_seeds.everything_drawn()
model, prompt = zoo.tiny("llama"), kn.Prompt("The capital of Canada is", " Ottawa")
kn.integrated_gradients(model, prompt)
with kn.set_options(progress=True):
    kn.sweep(model, prompt, [[], []])
assert (random.getstate(), np.random.get_state()[1].tolist()) == state, "a global generator moved"
print(json.dumps(found))
"""


def everything_drawn(seed: int = 5) -> dict[str, Any]:
    """Whatever a seed chooses, as JSON: samples, pairings, frames, nulls, controls, noise and text."""
    from kntools.analyses import method_comparison as selection_methods
    from kntools.analyses import neuron_search
    from kntools.analyses.fig03_localisation import localisation
    from kntools.analyses.fig08_reliability import reliability
    from kntools.engine.generation import sample_texts

    model, masked = zoo.tiny("llama"), kn.load_model("tiny-bert")
    filters: Any = {"path": "sample", "limit": 6, "seed": seed}
    found: dict[str, Any] = {
        "facts": [f.subject for f in data.pararel("P36", **filters)],
        "symmetric": [(f.subject, f.new_target) for f in data.symmetric_facts("P36", **filters)],
        "all symmetric": [f.new_target for f in data.symmetric_facts("P36", path="sample", seed=seed)],
        "synonyms": [(f.subject, f.new_target) for f in data.synonym_facts(**filters)],
        "pairs": [p.good for p in data.blimp("sample_determiner_noun_agreement_1", limit=6, seed=seed)],
        "frames": [f.before for f in data.agreement_frames(limit=6, seed=seed)],
        "local seed": neuron_search.local_seed(seed, "P36/Canada", ("a", 1)),
    }
    groups = {}
    for paradigm, options in (
        ("sample_determiner_noun_agreement_1", {"limit": 3, "frames": 4, "least": 1}),
        ("sample_determiner_noun_agreement_2", {"limit": 3, "frames": 4, "least": 1}),
        ("sample_subject_verb_agreement", {"frames": 3, "least": 1, "limit": 2}),
    ):
        groups[paradigm] = prompt_groups(masked, paradigm, seed=seed, **options)
    found["groups"] = {name: [(g.item, [p.text for p in g.prompts]) for g in some] for name, some in groups.items()}
    found["nouns"] = [
        p.text
        for some in noun_prompts(masked, "sample_determiner_noun_agreement_2", limit=4, seed=seed).values()
        for p in some
    ]
    found["answers"] = {
        a: [p.text for p in some]
        for a, some in by_answer(masked, "sample_determiner_noun_agreement_2", limit=3, seed=seed).items()
    }
    group = groups["sample_determiner_noun_agreement_2"][0]
    pool = [kn.Prompt("x", letter) for letter in "abcd"]
    shuffled = neuron_search.shuffled_answers(group, pool, neuron_search.local_seed(seed, group.item))
    found["shuffled"] = [p.target for p in shuffled]
    prompt = kn.Prompt("The capital of Canada is", " Ottawa", subject="Canada")
    asked = {"facts": [prompt, kn.Prompt("The capital of Japan is", " Tokyo")]}
    one = selection_methods.selection_methods(model, asked, methods={"activation": kn.activation}, count=3, seed=seed)
    found["random neurons"] = [row["neurons"] for row in one.rows if row["method"] == selection_methods.RANDOM]
    settings = neuron_search.SearchSettings(rule="midpoint", steps=1, target_count=(1, 5))
    nulls = localisation(masked, groups["sample_determiner_noun_agreement_2"][:2], settings=settings, seed=seed)
    found["nulls"] = [(row["null_count"], row["null_tau"], round(row["null_r1"], 6)) for row in nulls.rows]
    asked = {"facts": [kn.Prompt(f"The capital of {c} is", f" {a}") for c, a in zoo.COUNTRIES.items()]}
    neurons = [(layer, index) for layer in range(4) for index in range(8)]
    options: Any = {"neurons": neurons, "correct_only": False, "seed": seed}
    rows = reliability(model, asked, edits=["suppress", "enhance"], **options).rows
    found["overturned"] = [(row["edit"], row["overturned"], row["random"]) for row in rows]
    found["noise"] = [
        round(x, 5) for x in kn.causal_trace(model, prompt, samples=2, seed=seed).noise.flatten().tolist()
    ]
    found["text"] = list(sample_texts(model, 12, seed=seed, length=6, rows=2))
    return found


@pytest.mark.slow
def test_what_a_seed_draws_depends_on_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own hash of a text is another one in each process."""
    monkeypatch.delenv("KNTOOLS_DATA", raising=False)
    hash_seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", DRAWS], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    there = json.loads(run.stdout.splitlines()[-1])
    here, other = (json.loads(json.dumps(everything_drawn(seed))) for seed in (5, 6))
    assert {name for name in here if here[name] != there[name]} == set()
    assert {name for name in here if here[name] == other[name]} == set(), "another seed, another draw"


def test_a_seed_beyond_64_bits() -> None:
    with pytest.raises(ValueError, match="give a whole number from"):
        randomness.generator(2**70)
