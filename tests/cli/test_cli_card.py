"""`kntools card`, on a tiny model in a local folder."""

from pathlib import Path

import pytest

import kntools as kn
from tests import zoo
from tests.cli.test_cli import TEXT, _interrupt, run, run_json, save_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny("gpt2", tmp_path_factory.mktemp("models") / "tiny-gpt2"))


def test_card(tiny: str, tmp_path: Path) -> None:
    texts, out = tmp_path / "texts.txt", tmp_path / "out"
    texts.write_text("\n".join([*zoo.SENTENCES, "<script>alert(1)</script>"]))
    words = ["card", "L1.N3", "L2.N7", "-m", tiny, "--prompt", TEXT, "--target", " Ottawa", "--texts", texts, "-k", "3"]
    found = run_json(*words, "--out", str(out))
    model, prompt = zoo.tiny("gpt2"), kn.Prompt(TEXT, " Ottawa")
    expected = kn.neuron_card(model, ["L1.N3", "L2.N7"], texts, prompt=prompt, k=3)
    for own, card in zip(found["cards"], expected, strict=True):
        assert own["neuron"] == repr(card.neuron)
        assert [t["token"] for t in own["tokens"]][:3] == [token for token, _ in card.promoted]
        assert own["in_prompt"][0]["activation"] == pytest.approx(card.in_prompt.activation, rel=1e-4)
        assert [c["text"] for c in own["contexts"]] == [c.text for c in card.contexts]
    assert kn.load(out / "L2.N7.safetensors", kn.NeuronCard).neuron == kn.Neuron(2, 7)
    page = (out / "index.html").read_text()
    assert "L1.N3" in page and "<script" not in page
    assert "promotes" in run("card", "L1.N3", "-m", tiny).stdout


def test_without_a_target_the_model_answers(tiny: str) -> None:
    [card] = run_json("card", "L1.N3", "-m", tiny, "--prompt", TEXT)["cards"]
    assert 0 < card["in_prompt"][0]["probability of the answer"] <= 1


def test_an_interrupted_card_says_where_its_progress_is(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kntools.cli.card.neuron_card", _interrupt)
    (tmp_path / "texts.txt").write_text(TEXT)
    words = ["card", "L1.N3", "-m", tiny, "--texts", tmp_path / "texts.txt"]
    assert "nothing was saved" in run(*words).stderr
    assert f"saved in {tmp_path / 'card.jsonl'}" in run(*words, "--run", tmp_path / "card.jsonl").stderr


@pytest.mark.parametrize("words", [["N3"], ["L1.N3", "--target", "x"], ["L1.N3", "--texts", "no-such-file"]])
def test_what_cannot_be(tiny: str, words: list[str]) -> None:
    result = run("card", *words, "-m", tiny)
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
