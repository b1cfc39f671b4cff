"""The hub path: read a local folder in the hub's layout, and give up within seconds when there is no hub."""

import json
import socket
import time
from pathlib import Path
from typing import Any

import datasets
import pytest
from huggingface_hub import constants

from kntools import data
from kntools.data import hub
from kntools.data.sources import Source, Wanted, load


@pytest.fixture(autouse=True)
def _private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KNTOOLS_DATA", raising=False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def blimp_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`nyu-mll/blimp` as it lies on the hub: a card, and a folder with a parquet file per paradigm."""
    folder = tmp_path_factory.mktemp("hub") / "blimp"
    card = ["---", "configs:"]
    for paradigm in ("passive_1", "passive_2"):
        rows = [
            {
                "sentence_good": f"Ann saw {paradigm} {i}.",
                "sentence_bad": f"Ann see {paradigm} {i}.",
                "field": "morphology",
                "linguistics_term": "argument_structure",
                "UID": paradigm,
                "simple_LM_method": True,
                "one_prefix_method": False,
                "two_prefix_method": False,
                "lexically_identical": True,
                "pair_id": i,
            }
            for i in range(3)
        ]
        (folder / paradigm).mkdir(parents=True)
        datasets.Dataset.from_list(rows).to_parquet(folder / paradigm / "train-00000-of-00001.parquet")
        card += [f"- config_name: {paradigm}", "  data_files:", "  - split: train", f"    path: {paradigm}/train-*"]
    (folder / "README.md").write_text("\n".join([*card, "---", "# BLiMP"]))
    return folder


def test_blimp_in_the_hub_layout(blimp_folder: Path) -> None:
    pairs = data.blimp("passive_2", path=blimp_folder)
    assert [(pair.pair_id, pair.paradigm) for pair in pairs] == [(0, "passive_2"), (1, "passive_2"), (2, "passive_2")]
    assert pairs.source == str(blimp_folder)


def test_what_the_hub_folder_does_not_have(blimp_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot be read in the layout of nyu-mll/blimp: .*"):
        data.blimp("wh_island", path=blimp_folder)


def test_counterfact_in_the_hub_layout(tmp_path: Path) -> None:
    records = [
        {
            "case_id": i,
            "pararel_idx": i,
            "requested_rewrite": {
                "prompt": "{} is in",
                "relation_id": "P30",
                "subject": "Angola",
                "target_new": {"id": "Q1", "str": "Asia"},
                "target_true": {"id": "Q2", "str": "Africa"},
            },
            "paraphrase_prompts": ["Angola belongs to"],
            "neighborhood_prompts": ["Mali is in"],
            "attribute_prompts": ["Japan is in"],
            "generation_prompts": ["Angola is"],
        }
        for i in range(5)
    ]
    (tmp_path / "set" / "data").mkdir(parents=True)
    for split, part in (("train", records[:4]), ("test", records[4:])):
        file = tmp_path / "set" / "data" / f"{split}-00000-of-00001.parquet"
        datasets.Dataset.from_list(part).to_parquet(file)
    loaded = data.counterfact(path=tmp_path / "set")
    assert [record.case_id for record in loaded] == [0, 1, 2, 3, 4]
    assert loaded[0].prompt == "Angola is in"


def test_counterfact_tracing_in_the_hub_layout(tmp_path: Path) -> None:
    row = {
        "relation": "{} is in",
        "relation_prefix": "",
        "relation_suffix": " is in",
        "prompt": "Angola is in",
        "relation_id": "P30",
        "target_true": " Africa",
        "target_false": " Asia",
        "target_true_id": "Q2",
        "target_false_id": "Q1",
        "subject": "Angola",
    }
    (tmp_path / "set" / "data").mkdir(parents=True)
    datasets.Dataset.from_list([row, row]).to_parquet(tmp_path / "set" / "data" / "train-00000-of-00001.parquet")
    loaded = data.counterfact_reduced(path=tmp_path / "set")
    assert [(r.case_id, r.target, r.new_target) for r in loaded] == [(0, "Africa", "Asia"), (1, "Africa", "Asia")]


def test_a_malformed_hub_row_is_named(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "README.md").write_text(
        "---\nconfigs:\n- config_name: passive_1\n  data_files:\n  - split: train\n    path: rows.jsonl\n---\n"
    )
    (tmp_path / "set" / "rows.jsonl").write_text(json.dumps({"sentence_good": "Ann saw.", "pair_id": 0}) + "\n")
    with pytest.raises(ValueError, match=r"\[passive_1, train\] row 0: field 'sentence_bad' is missing"):
        data.blimp("passive_1", path=tmp_path / "set")


# --- without a hub ----------------------------------------------------------------------------------


def test_ids_are_those_of_the_published_sets() -> None:
    assert [hub.BLIMP.id, hub.COUNTERFACT.id, hub.COUNTERFACT_REDUCED.id] == [
        "nyu-mll/blimp",
        "azhx/counterfact",
        "NeelNanda/counterfact-tracing",
    ]


def quickly(load: Any) -> None:
    start = time.monotonic()
    with pytest.raises(hub.Unavailable) as error:
        load()
    assert time.monotonic() - start < 2 * hub.PATIENCE + 8  # an answer in seconds, on a busy machine too
    assert "nyu-mll/blimp" in str(error.value)


def test_offline_by_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    quickly(lambda: hub.rows(hub.BLIMP, "passive_1"))
    with pytest.raises(FileNotFoundError, match=r"HF_HUB_OFFLINE is set.*Set KNTOOLS_DATA to"):
        data.blimp("passive_1")


def test_a_hub_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    use_hub(monkeypatch, f"http://127.0.0.1:{port}")
    quickly(lambda: hub.rows(hub.BLIMP, "passive_1"))


def test_a_hub_whose_name_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*args: Any, **kwargs: Any) -> None:
        time.sleep(30)
        raise OSError("nobody there")

    use_hub(monkeypatch, "http://hub.invalid")
    monkeypatch.setattr(socket, "create_connection", hang)
    quickly(lambda: hub.rows(hub.BLIMP, "passive_1"))


def use_hub(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)


@pytest.mark.parametrize(
    ("proxy", "expected"),
    [
        ("http://proxy.example:3128", ("proxy.example", 3128)),
        ("proxy.example:3128", ("proxy.example", 3128)),
        ("", ("hub.example", 443)),
    ],
)
def test_the_proxy_is_asked_if_there_is_one(
    proxy: str, expected: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    use_hub(monkeypatch, "https://hub.example")
    if proxy:
        monkeypatch.setenv("https_proxy", proxy)
    monkeypatch.setattr(hub, "_answers", lambda host, port, minute: asked.append((host, port)) or False)
    with pytest.raises(hub.Unavailable):
        hub.rows(hub.BLIMP, "passive_1")
    assert asked == [expected]


def test_the_hub_comes_before_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    from kntools.data.read import Row

    monkeypatch.setattr(hub, "rows", lambda *args, **kwargs: [Row("hub row 0", {})])
    wanted = Wanted("a set", ("a/b.jsonl",), lambda path: [], hub.BLIMP, "x", sample=("agreement_pairs.jsonl",))
    assert load(wanted, None) == ([[Row("hub row 0", {})]], Source("hub nyu-mll/blimp"))
