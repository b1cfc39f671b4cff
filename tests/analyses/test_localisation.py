"""Localisation, its null, and the layers: on a model whose number neurons were set by hand, and in closed form."""

from __future__ import annotations

import inspect
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

import kntools as kn
from kntools.analyses.fig03_localisation import Localisation, localisation
from kntools.analyses.fig04_layer_distribution import layer_distribution
from kntools.analyses.neuron_search import SearchSettings, shuffled_neurons
from kntools.analyses.prompt_group import PromptGroup, prompt_groups
from kntools.data.records import Loaded
from tests import planted, zoo

ONE = SearchSettings(target_count=(1, 5))


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> Loaded[PromptGroup]:
    path = planted.write_pairs(tmp_path_factory.mktemp("blimp"))
    return prompt_groups(planted.cached(), "determiner_noun_agreement_1", frames=4, path=path)


def test_groups_are_pairs_in_many_frames(groups: Loaded[PromptGroup]) -> None:
    assert [g.key for g in groups] == sorted(f"{d} {noun}" for d, noun, _ in planted.PAIRS)
    for g in groups:
        assert len(g.prompts) == 4 and g.label("number") == (
            "plural" if g.label("determiner") == "those" else "singular"
        )
        assert {p.text for p in g.prompts} == {f"{frame} {g.label('determiner')}" for frame in planted.FRAMES}
        assert {p.target for p in g.prompts} == {f" {g.label('noun')}"}
    assert groups.skipped.total == 0


def test_groups_without_a_similarity_are_not_below_their_null() -> None:
    """R1^2 is None where fewer than two prompts have scores, as it is in the means."""
    base = {
        "source": "P36",
        "kind": "factual",
        "count": 1,
        "tau": 0.7,
        "converged": True,
        "null_count": 0,
        "null_tau": 0.7,
    }
    values = {"a": (0.9, 0.1), "b": (0.2, 0.3), "c": (None, 0.3), "d": (0.9, None), "e": (None, None)}
    rows = [{**base, "group": name, "r1": r1, "null_r1": null} for name, (r1, null) in values.items()]
    assert Localisation.of(rows, {"model": "?"}).summary()["above_null"].item() == 0.5


def test_a_fact_that_is_given_twice_is_one_group(tmp_path: Path) -> None:
    for kind, lines in (
        ("patterns", [{"pattern": "The capital of [X] is [Y]."}, {"pattern": "The city of [X] is [Y]."}]),
        (
            "facts",
            [{"sub_label": s, "obj_label": o, "uuid": s} for s, o in (("Canada", "Ottawa"), ("France", "Paris"))] * 2,
        ),
    ):
        (tmp_path / "pararel" / kind).mkdir(parents=True)
        (tmp_path / "pararel" / kind / "P36.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    found = prompt_groups(zoo.tiny("llama"), "P36", least=2, path=tmp_path)
    assert [group.key for group in found] == ["Canada -> Ottawa", "France -> Paris"]
    assert found.skipped["the same as another group"] == 2
    assert len(localisation(zoo.tiny("llama"), found, settings=ONE, null=None).rows) == 2


def test_planted_neurons_are_found_and_fully_localised(groups: Loaded[PromptGroup]) -> None:
    found = localisation(planted.cached(), groups, settings=ONE)
    for row, g in zip(found.rows, groups, strict=True):
        assert row["neurons"] == [[1, planted.DETERMINERS[g.label("determiner")].index]]
        assert (row["count"], row["tau"], row["converged"]) == (1, 0.7, True)
        assert row["r1"] == pytest.approx(1, abs=1e-6), "all prompts of a pair give the same scores"
        # One score per prompt, on one of 48 neurons at random.
        assert row["null_r1"] < 0.6
    summary = found.summary()
    assert summary["count"].item() == 1 and summary["r1_low"].item() == pytest.approx(1)
    assert summary["above_null"].item() == 1
    assert "p_holm" in found.difference() and found.difference()["p"].isna().all()


def test_the_score_is_what_the_neuron_does(groups: Loaded[PromptGroup]) -> None:
    model, prompt = planted.cached(), groups[0].prompts[0]
    on, off = (
        float(model.run_with_hooks(kn.encode(model, prompt).tokens, fwd_hooks=h)[0, -1].detach().softmax(-1)[
            kn.encode(model, prompt).target_ids[0]
        ])
        for h in ([], kn.ablate_neurons([planted.SINGULAR]))
    )  # fmt: skip
    att = kn.integrated_gradients(model, prompt, metric="probability")
    assert on - off > 0.1
    assert att.score_of(planted.SINGULAR) == pytest.approx(on - off, rel=0.01)
    assert att.score_of(planted.PLURAL) == 0


def test_null_keeps_marginals_and_breaks_agreement() -> None:
    scores = torch.randn(1, 3, 400, generator=torch.Generator().manual_seed(0)).expand(6, -1, -1)
    shuffled = shuffled_neurons(scores, 1)
    torch.testing.assert_close(shuffled.sort(-1).values, scores.sort(-1).values, atol=0, rtol=0)
    assert kn.r1_squared(scores) == pytest.approx(1) and kn.r1_squared(shuffled) < 0.1
    assert torch.equal(shuffled, shuffled_neurons(scores, 1)) and not torch.equal(shuffled, shuffled_neurons(scores, 2))


def facts(model: Any, count: int = 3) -> list[PromptGroup]:
    if model.tokenizer.mask_token:
        texts, space = ("The capital of {} is [MASK].", "[MASK] is the capital of {}."), ""
    else:
        texts, space = ("The capital of {} is", "Is the capital of {}"), " "
    return [
        PromptGroup(f"{a} -> {b}", "P36", "factual", tuple(kn.Prompt(t.format(a), space + b) for t in texts))
        for a, b in list(zoo.COUNTRIES.items())[:count]
    ]


@pytest.mark.parametrize("name", ["bert", "gpt2"])
@pytest.mark.parametrize("null", ["neurons", "answers", None])
def test_masked_and_causal_models(name: str, null: Any, tmp_path: Path) -> None:
    model = zoo.tiny(name)
    found = localisation(model, facts(model), null=null, run=tmp_path / "run")
    scores = kn.integrated_gradients(model, facts(model)[0].prompts)
    assert found.rows[0]["r1"] == pytest.approx(kn.r1_squared(scores), rel=1e-4)
    kns = kn.knowledge_neurons(scores)
    assert found.neurons("factual")[0] == kns.neurons and found.rows[0]["tau"] == kns.share
    assert ("null_r1" in found.to_frame()) == (null is not None)
    path = found.save(tmp_path / "a.json")
    again = localisation(model, facts(model), null=null, run=tmp_path / "run")
    assert again.save(tmp_path / "b.json").read_bytes() == path.read_bytes()
    assert kn.load(path).summary().equals(found.summary())
    assert len(found.save(tmp_path / "a.csv").read_text().splitlines()) == 4
    assert len(found.plot().data) >= 3 and "Localisation in 1" in repr(found)


def test_difference_is_welch_over_sources() -> None:
    stats = pytest.importorskip("scipy.stats")
    counts = {"linguistic": [[2, 3], [4, 4], [3, 5]], "factual": [[1, 1], [2, 1]]}
    rows = tuple(
        {"source": f"{kind} {i}", "kind": kind, "group": str(j), "count": c, "tau": 0.7, "r1": c / 10,
         "converged": True, "neurons": []}
        for kind, sources in counts.items() for i, some in enumerate(sources) for j, c in enumerate(some)
    )  # fmt: skip
    table = Localisation.of(rows, {"model": "by hand"}).difference().set_index("measure")
    expected = stats.ttest_ind([1, 1.5], [2.5, 4, 4], equal_var=False)
    assert table.loc["|KN|", "t"] == pytest.approx(expected.statistic)
    assert table.loc["|KN|", "p"] == pytest.approx(expected.pvalue)
    assert table.loc["|KN|", "p_holm"] == pytest.approx(min(1, 2 * expected.pvalue))
    assert table.loc["|KN|", "difference"] == pytest.approx(1.25 - 3.5)


def test_errors_say_what_to_do(groups: Loaded[PromptGroup], tmp_path: Path) -> None:
    model = planted.cached()
    with pytest.raises(ValueError, match="did you mean 'determiner_noun_agreement_1'"):
        prompt_groups(model, "determiner_noun_agreemnt_1")
    with pytest.raises(ValueError, match="unknown ParaRel relation"):
        prompt_groups(model, "P3666")
    with pytest.raises(ValueError, match="no group has 40 prompts"):
        prompt_groups(model, "determiner_noun_agreement_1", least=40, path=planted.write_pairs(tmp_path))
    with pytest.raises(ValueError, match="no groups"):
        localisation(model, [])
    with pytest.raises(ValueError, match="compares prompts"):
        localisation(model, [PromptGroup("a", "P36", "factual", groups[0].prompts[:1])])
    with pytest.raises(ValueError, match="null="):
        inspect.unwrap(localisation)(model, groups, null="luck")
    with pytest.raises(ValueError, match="target_count"):
        SearchSettings(target_count=(5, 2))
    localisation(model, groups[:1], run=tmp_path / "run")
    with pytest.raises(ValueError, match="another run"):
        localisation(model, groups[:1], run=tmp_path / "run", seed=1)
    with pytest.raises(ValueError, match="another run"):
        localisation(zoo.tiny("gpt2"), facts(zoo.tiny("gpt2")), run=tmp_path / "run")
    with (tmp_path / "run.jsonl").open("a") as file:
        file.write("{\n")
    with pytest.raises(ValueError, match=r"run\.jsonl, line 3 is damaged"):
        localisation(model, groups[:1], run=tmp_path / "run")


# Layers


def test_layers_by_hand(tmp_path: Path) -> None:
    result = layer_distribution(
        {"agreement": [[(3, 0)], [(3, 1), (2, 1)]], "facts": [[(0, 1)], [(0, 2), (0, 4)], []]}, n_layers=4
    )
    frame = result.to_frame().set_index(["kind", "layer"])
    assert frame["share"].to_dict() == {
        **{("agreement", i): x for i, x in enumerate((0, 0, 0.25, 0.75))},
        **{("facts", i): x for i, x in enumerate((1, 0, 0, 0))},
    }
    assert frame.loc[("facts", 0), "neurons"] == 3
    test = result.details["test"]
    assert test["distance"] == 1 and test["means"] == [2.75, 0]
    # Of the six ways to share out four groups, the two that keep the kinds apart are as far or farther.
    assert test["p"] == pytest.approx(1 / 3, abs=0.03)
    assert kn.load(result.save(tmp_path / "a.json")).rows == result.rows
    assert len(result.plot().data) == 2 and "distance 1" in repr(result)


def test_same_layers_give_uniform_p() -> None:
    p = []
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(6, (40, 3), generator=generator).tolist()
        neurons = [[(layer, n) for n, layer in enumerate(one)] for one in drawn]
        given = {"a": neurons[:20], "b": neurons[20:]}
        p.append(layer_distribution(given, n_layers=6, permutations=100, seed=seed).details["test"]["p"])
    assert pytest.importorskip("scipy.stats").kstest(p, "uniform").pvalue > 0.01


def test_groups_of_one_paradigm_are_not_independent() -> None:
    """Paradigms that each keep to a layer: all ways to share them out, by enumeration, and no p from many groups."""
    layer_of = {"d1": 0, "d2": 3, "s1": 2, "P36": 3, "P101": 1, "P103": 3, "P30": 2}
    kinds = {name: "factual" if name[1:].isdigit() and name[0] == "P" else "linguistic" for name in layer_of}
    sizes = {name: 12 + n for n, name in enumerate(layer_of)}
    rows = [
        {"source": name, "kind": kinds[name], "group": f"{name} {n}", "neurons": [[layer, n]]}
        for name, layer in layer_of.items()
        for n in range(sizes[name])
    ]
    found = layer_distribution(Localisation.of(rows, {"model": "m"}), n_layers=4, permutations=4000)

    def distance(names: tuple[str, ...]) -> float:
        sides = [[r["neurons"][0][0] for r in rows if (r["source"] in names) == here] for here in (True, False)]
        shares = [[layers.count(n) / len(layers) for n in range(4)] for layers in sides]
        return sum(abs(a - b) for a, b in zip(*shares, strict=True)) / 2

    own = distance(("d1", "d2", "s1"))
    expected = [distance(names) >= own - 1e-9 for names in combinations(layer_of, 3)]
    test = found.details["test"]
    assert (test["permuted"], test["distance"]) == ("7 paradigms and relations", pytest.approx(own))
    assert "permutations of 7 paradigms and relations" in found.describe()
    assert test["p"] == pytest.approx(sum(expected) / len(expected), abs=0.03) and test["p"] > 0.05
    assert test["least"] == 1 / len(expected)


def test_layers_of_another_model() -> None:
    with pytest.raises(ValueError, match="another model"):
        layer_distribution({"a": [[(7, 1)]]}, n_layers=4)
    with pytest.raises(ValueError, match="no neurons"):
        layer_distribution({"a": [[]]}, n_layers=4)


def test_compounds_and_odd_phrases_are_no_frames(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in planted.write_pairs(tmp_path).read_text().splitlines()]
    for row, middle in ((rows[0], "quick"), (rows[1], "dog of the")):
        for side in ("sentence_good", "sentence_bad"):
            words = row[side].split()
            row[side] = " ".join([*words[:-1], middle, words[-1]])
    (tmp_path / "determiner_noun_agreement_1.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    path = tmp_path / "determiner_noun_agreement_1.jsonl"
    found = prompt_groups(planted.cached(), "determiner_noun_agreement_1", frames=9, path=path)
    assert found.skipped["noun phrase of another form"] == 2
    assert all(middle not in p.text.split()[-2:] for g in found for p in g.prompts for middle in ("quick", "of"))
    with_adjective = [{**row, "UID": "determiner_noun_agreement_with_adjective_1"} for row in rows]
    path = tmp_path / "determiner_noun_agreement_with_adjective_1.jsonl"
    path.write_text("\n".join(map(json.dumps, with_adjective)) + "\n")
    found = prompt_groups(
        planted.cached(), "determiner_noun_agreement_with_adjective_1", least=1, path=path, limit=1, seed=3
    )
    assert len(found) == 1 and all(p.text.endswith(" quick") for p in found[0].prompts)
