"""The examples of docs/extending.md: a data set and an analysis of one's own, against plain TransformerLens."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import kntools as kn
from kntools.results.run_store import RunStore
from tests import zoo

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture(scope="module")
def tiny_bert() -> Any:
    return kn.load_model("tiny-bert")


@pytest.fixture(scope="module")
def own_dataset() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / "own_dataset.py"))


@pytest.fixture(scope="module")
def own_analysis(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """As a module: pickling and dataclasses look a class up by the name of its module."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        import own_analysis

        yield own_analysis
    finally:
        sys.path.remove(str(EXAMPLES))
        sys.modules.pop("own_analysis", None)


def test_the_data_set_asks_a_masked_model_for_both_forms(own_dataset: dict[str, Any], tiny_bert: Any) -> None:
    nouns = own_dataset["irregular_nouns"]()
    prompts = nouns.prompts(tiny_bert)
    assert len(nouns) == 14 and prompts[0] == kn.Prompt("Carl saw these [MASK].", "children", "these", foil="child")
    assert prompts.skipped["singular and plural are the same"] == 1  # deer
    assert prompts.skipped["answer is not one token"] == 2  # larva and larvae, which tiny-bert never read
    assert len(prompts) + prompts.skipped.total == prompts.total == 2 * 13 + 1
    assert all(kn.data.known(tiny_bert, prompts))


def test_the_data_set_asks_a_causal_model_up_to_the_answer(own_dataset: dict[str, Any]) -> None:
    prompts = own_dataset["irregular_nouns"]().prompts(zoo.tiny("llama"), role="singular", multi_token="sum")
    assert prompts[0] == kn.Prompt("Carl saw this", " child", "this", foil=" children", multi_token="sum")


def test_the_data_set_has_the_filters_of_every_loader(
    own_dataset: dict[str, Any], tiny_bert: Any, tmp_path: Path
) -> None:
    load = own_dataset["irregular_nouns"]
    assert [n.target for n in load(target=["geese", "mice"])] == ["geese", "mice"]
    known = load(known_only=tiny_bert)
    assert len(known) == 12 and known.skipped["no usable prompt for this model"] == 2
    (tmp_path / "bad.tsv").write_text("singular\tplural\nox\n")
    with pytest.raises(ValueError, match=r"bad.tsv:2: 1 columns"):
        load(tmp_path / "bad.tsv")


def test_the_analysis_is_what_a_loop_over_plain_hooks_gives(own_analysis: Any, tiny_bert: Any) -> None:
    prompts = [kn.Prompt("Carl saw these [MASK].", "geese"), kn.Prompt("The capital of Canada is [MASK].", "Ottawa")]
    found = own_analysis.mlp_loss(tiny_bert, prompts)
    assert [(row["text"], row["layer"]) for row in found.rows] == [(p.text, n) for p in prompts for n in range(4)]

    for row in found.rows:
        encoded = kn.encode(tiny_bert, next(p for p in prompts if p.text == row["text"]))

        def off(x: torch.Tensor, hook: Any, at: int = encoded.position) -> torch.Tensor:
            return x.index_fill(1, torch.tensor([at]), 0.0)

        p = []
        for hooks in ([], [(f"blocks.{row['layer']}.hook_mlp_out", off)]):
            with torch.no_grad():
                logits = tiny_bert.run_with_hooks(encoded.tokens, fwd_hooks=hooks)[0, encoded.position]
            p.append(float(logits.softmax(-1)[encoded.target_ids[0]]))
        assert [row["before"], row["after"]] == pytest.approx(p, abs=1e-5)
        assert row["loss"] == row["before"] - row["after"]

    summary = found.summary()
    assert summary["loss"].tolist() == pytest.approx(found.to_frame().groupby("layer")["loss"].mean().tolist())
    assert list(found.plot().data[0].y) == summary["loss"].tolist()


def test_a_killed_analysis_goes_on(
    own_analysis: Any, tiny_bert: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [kn.Prompt(f"Carl saw these [MASK] {word}.", "old") for word in ("geese", "mice", "men")]
    whole = own_analysis.mlp_loss(tiny_bert, prompts)

    kept: list[str] = []
    put = RunStore.put

    def killed(self: RunStore, key: str, payload: Any) -> None:
        if len(kept) == 2:
            raise KeyboardInterrupt
        kept.append(key)
        put(self, key, payload)

    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "put", killed)
        with pytest.raises(KeyboardInterrupt):
            own_analysis.mlp_loss(tiny_bert, prompts, run=tmp_path / "run")

    again: list[str] = []
    monkeypatch.setattr(RunStore, "put", lambda self, key, payload: (again.append(key), put(self, key, payload)))
    rest = own_analysis.mlp_loss(tiny_bert, prompts, run=tmp_path / "run")
    assert rest.rows == whole.rows
    assert len(again) == 1 and not set(again) & set(kept), "nothing twice"
    with pytest.raises(ValueError, match="is another run"):
        own_analysis.mlp_loss(zoo.tiny("bert"), prompts, run=tmp_path / "run")
    with pytest.raises(ValueError, match="no prompts given"):
        own_analysis.mlp_loss(tiny_bert, [])


def test_the_analysis_runs_as_a_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mlps"
    monkeypatch.setattr(sys, "argv", ["own_analysis.py", "sample_determiner_noun_agreement_2", "tiny-bert", str(out)])
    runpy.run_path(str(EXAMPLES / "own_analysis.py"), run_name="__main__")
    assert capsys.readouterr().out.startswith("MlpLoss (tiny-bert), 80 rows")
    loaded = kn.load(out.with_suffix(".json"))
    assert len(loaded.rows) == 80 and loaded.provenance["model"] == "tiny-bert"
    kept = (tmp_path / "mlps.run.jsonl").read_text().splitlines()
    assert out.with_suffix(".html").stat().st_size > 0 and len(kept) == 1 + 20  # a header, and a line per prompt


def test_the_data_set_runs_as_a_script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["own_dataset.py"])
    runpy.run_path(str(EXAMPLES / "own_dataset.py"), run_name="__main__")
    assert "right: 24 of 24" in capsys.readouterr().out
