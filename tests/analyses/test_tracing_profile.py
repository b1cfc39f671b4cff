"""Averages over prompts by token role."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import kntools as kn
from kntools.analyses.fig09_tracing_profile import TracingProfile, determiner_noun_prompts, tracing_profile
from kntools.metrics import UNITS
from kntools.tracing.noise import subject_sigma
from kntools.tracing.token_roles import ROLES
from tests import zoo

PROMPTS = [
    kn.Prompt("The capital of Canada is", " Ottawa", subject="capital of Canada", foil=" Paris"),
    kn.Prompt("Japan is near", " Paris", subject="Japan", foil=" Rome"),
    kn.Prompt("The city of Paris is the capital of", " France", subject="Paris", foil=" Cuba"),
]


def profile(**options: Any) -> TracingProfile:
    settings: dict[str, Any] = {"window": 2, "samples": 2, "known_only": False, **options}
    return tracing_profile(zoo.tiny("llama"), PROMPTS, **settings)


@pytest.fixture(scope="module")
def found() -> TracingProfile:
    return profile()


def test_means_are_those_of_the_traces() -> None:
    model = zoo.tiny("llama")
    found = profile(sever=["mlp"], seed=3)
    assert found.variants == (("hidden", None), ("mlp", None), ("attn", None), ("hidden", "mlp"))
    level = 3 * subject_sigma(model, PROMPTS)
    for v, (kind, sever) in enumerate(found.variants):
        rows = []
        for i, prompt in enumerate(PROMPTS):
            trace = kn.causal_trace(model, prompt, kind=kind, window=2, noise=level, samples=2, sever=sever, seed=3 + i)
            rows.append(trace.by_role())
            if v == 0:
                assert float(found.clean[i]) == pytest.approx(trace.clean)
                assert float(found.total_effect[i]) == pytest.approx(trace.total_effect, abs=1e-6)
        torch.testing.assert_close(found.mean()[v], torch.stack(rows).nanmean(0), equal_nan=True)
    # "capital of Canada" has middle tokens, "Japan" two (it begins the text), "Paris" is one.
    counts = dict(zip(ROLES, found.count().tolist(), strict=True))
    assert counts["last subject token"] == counts["last token"] == 3
    assert counts["first subject token"] == 2 and counts["middle subject tokens"] == 1
    assert counts["first subsequent token"] == 2 and counts["further tokens"] == 1
    low, high = found.interval()
    last = ROLES.index("last token")
    assert bool(
        (low[:, last] <= found.mean()[:, last] + 1e-6).all() and (found.mean()[:, last] <= high[:, last] + 1e-6).all()
    )
    assert low[:, ROLES.index("middle subject tokens")].isnan().all()


def test_a_run_keeps_every_prompt(tmp_path: Path) -> None:
    some: dict[str, Any] = {"kinds": ["hidden"], "run": tmp_path / "run"}
    whole = profile(kinds=["hidden"])
    assert torch.equal(profile(**some).effects.nan_to_num(9), whole.effects.nan_to_num(9))
    file = tmp_path / "run.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + 3
    file.write_bytes(lines[0] + lines[2] + lines[3])
    again = profile(**some)
    assert file.read_bytes().startswith(lines[0] + lines[2] + lines[3]) and len(file.read_bytes().splitlines()) == 4
    assert torch.equal(again.effects.nan_to_num(9), whole.effects.nan_to_num(9))
    assert torch.equal(again.clean, whole.clean) and torch.equal(again.corrupted, whole.corrupted)


def test_a_run_goes_on_only_with_the_same_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile(kinds=["mlp"], run=tmp_path / "run")
    changes: list[dict[str, Any]] = [
        {"samples": 3},
        {"window": 3},
        {"seed": 1},
        {"kinds": ["hidden"]},
        {"noise": 0.1},
        {"two_way": True},
    ]
    for changed in changes:
        [name] = changed
        with pytest.raises(ValueError, match=f"another run.*{'variants' if name == 'kinds' else name}"):
            profile(**{"kinds": ["mlp"], "run": tmp_path / "run", **changed})
    monkeypatch.setattr(zoo.tiny("llama").cfg, "default_prepend_bos", False)
    with pytest.raises(ValueError, match=r"another run.*prepend_bos"):
        profile(kinds=["mlp"], run=tmp_path / "run")
    with pytest.raises(ValueError, match="nothing to trace"):
        profile(kinds=[])


def test_the_two_sites_by_hand() -> None:
    """30 layers; prompt 1 has no middle token. What is written into a site is found there, and only there."""
    effects = torch.zeros(1, 2, len(ROLES), 30)
    last_subject, last = ROLES.index("last subject token"), ROLES.index("last token")
    effects[0, :, last_subject, 5:15] = torch.tensor([[0.2], [0.4]])
    effects[0, :, last, 24:] = torch.tensor([[0.5], [0.7]])
    effects[0, 0, ROLES.index("further tokens")] = 0.06
    effects[0, 1, ROLES.index("middle subject tokens")] = torch.nan
    effects[0, :, 0] = 99.0  # before the subject: not counted
    profile = TracingProfile(
        effects=effects,
        clean=torch.tensor([0.9, 0.8]),
        corrupted=torch.tensor([0.1, 0.2]),
        variants=(("hidden", None),),
        prompts=tuple(PROMPTS[:2]),
        window=10,
        provenance={},
    )
    found = profile.summary().set_index("what")
    means = {what: pytest.approx(mean, abs=1e-6) for what, mean in found["mean"].items()}
    assert means == {
        "total effect": 0.7,
        "early site": 0.3,
        "late site": 0.6,
        "rest": 0.005,  # 0.06 in one of six roles of the first prompt, nothing in the second
        "early site - rest": 0.295,
        "late site - rest": 0.595,
    }
    assert set(found["n"]) == {2}
    # Student's of two; an effect is at most 1, a difference of two at most 2.
    assert (found["low"]["late site"], found["high"]["late site"]) == pytest.approx((0.6 - 12.706 * 0.1, 1), abs=1e-4)
    assert found["high"]["late site - rest"] == pytest.approx(0.595 + 12.706 * 0.105, abs=1e-3)
    assert 1 < found["high"]["late site - rest"] < 2


def test_a_profile_says_its_metric() -> None:
    plain, paired = profile(kinds=["hidden"]), profile(kinds=["hidden"], two_way=True)
    assert (plain.metric, paired.metric) == ("probability", "two_way")
    for found in (plain, paired):
        unit = UNITS.get(found.metric, found.metric)
        assert unit in found.describe() and unit in found.plot().layout.yaxis.title.text
    assert plain.describe() != paired.describe()


def test_noise_is_read_as_that_of_a_single_trace() -> None:
    model = zoo.tiny("llama")
    level = 0.5 * subject_sigma(model, PROMPTS)
    assert profile(kinds=["hidden"], noise="0.5sigma").provenance["settings"]["noise"] == pytest.approx(level)
    for wrong in ("0.5", "abc", "sigma"):
        for trace in (lambda n: profile(noise=n), lambda n: kn.causal_trace(model, PROMPTS[0], noise=n)):
            with pytest.raises(ValueError, match=f"noise='{wrong}' is unknown"):
                trace(wrong)
    with pytest.raises(ValueError, match="noise"):
        profile(noise=-1.0)


def test_only_what_the_model_gets_right() -> None:
    model = zoo.tiny("llama")
    right = kn.data.known(model, PROMPTS, two_way=True)
    if any(right):
        assert len(profile(known_only=True, two_way=True).prompts) == sum(right)
    for twice in ({"kinds": ["mlp", "mlp"]}, {"sever": ["attn", "attn"]}):
        with pytest.raises(ValueError, match="is given 2 times"):
            profile(**twice)
    with pytest.raises(ValueError, match="none of them right"):
        tracing_profile(model, [p for p, r in zip(PROMPTS, right, strict=True) if not r], two_way=True)


def test_the_result(found: TracingProfile, tmp_path: Path) -> None:
    again = kn.load(found.save(tmp_path / "profile.safetensors"))
    torch.testing.assert_close(again.effects, found.effects, equal_nan=True)
    assert repr(again) == repr(found) and again.prompts == found.prompts
    assert list(found.tables()["sites"]["what"])[:3] == ["total effect", "early site", "late site"]
    frame = found.to_frame()
    layer, effect = found.peak("mlp", "last token")
    row = frame[(frame["kind"] == "mlp") & (frame["role"] == "last token") & (frame["layer"] == layer)].iloc[0]
    assert row["effect"] == pytest.approx(effect) and row["n"] == 3
    assert "MLPs and attention of 2 layers together" in found.describe()
    assert "layers together" not in profile(kinds=["hidden"]).describe()
    figure = found.plot()
    assert [a.text for a in figure.layout.annotations] == ["hidden state", "MLP output", "attention output"]
    severed = profile(sever=["mlp", "attn"]).plot()  # a second row of panels
    assert severed.layout.annotations[-1].text.replace("<br>", " ") == "hidden state, attention severed"
    assert severed.layout.annotations[-1].y < severed.layout.annotations[0].y
    assert any("last token (n = 3)" in (t.name or "") for t in figure.data)
    with pytest.raises(ValueError, match="no "):
        found.peak("mlp", "first token")


def test_a_masked_model() -> None:
    model = zoo.tiny("bert")
    prompts = [kn.Prompt("The capital of Canada is [MASK].", "Ottawa", subject="Canada")]
    found = tracing_profile(model, prompts, window=2, samples=2, known_only=False)
    assert found.count().tolist() == [1, 0, 0, 1, 1, 1, 1]


def test_determiner_noun_prompts(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KNTOOLS_DATA", str(data_root))
    for name in ("llama", "bert"):
        for prompt in determiner_noun_prompts(zoo.tiny(name))[:20]:
            assert prompt.subject in ("this", "that", "these", "those")
            encoded = kn.encode(zoo.tiny(name), prompt)
            assert encoded.subject is not None and encoded.subject[-1] < encoded.position - 1


@pytest.mark.slow
@pytest.mark.smollm2
def test_two_sites_in_smollm2(smollm2: Any) -> None:
    """The early site at the last subject token and the late one at the last token (Meng et al. 2022)."""
    prompt = kn.Prompt("The Colosseum is located in the city of", " Rome", subject="The Colosseum")
    trace = kn.causal_trace(smollm2, kn.encode(smollm2, prompt, prepend_bos=False), samples=2)
    assert trace.total_effect > 0.5
    rows = trace.by_role()
    early, late = rows[ROLES.index("last subject token")], rows[ROLES.index("last token")]
    between = rows[ROLES.index("further tokens")]
    assert float(early[4:16].max()) > 0.15 and float(late[24:].max()) > 0.4
    assert float(early[4:16].max()) > 3 * float(between.max())
    assert int(early.argmax()) < 16 < 22 < int(late.argmax())
