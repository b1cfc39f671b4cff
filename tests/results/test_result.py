"""The base of all results: what is saved comes back, and what is damaged or foreign is an error that says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import kntools as kn
from kntools.prompts import Prompt
from kntools.results import encoding, result
from kntools.results.provenance import provenance
from kntools.results.result import Result
from kntools.results.table import Table
from tests import zoo
from tests.test_shown import RESULTS, model

__all__ = ["model"]  # the fixture

PROMPTS = (
    Prompt("The capital of Canada is", " Ottawa", subject="Canada", foil=" Rome"),
    Prompt("Où est « la » 東京 \U0001f5fc?\n\t\"'", " Łódź"),
)


def an_attribution() -> kn.Attribution:
    generator = torch.Generator().manual_seed(0)
    return kn.Attribution(
        scores=torch.randn(2, 3, 4, generator=generator),
        residual=torch.full((2, 3), torch.nan),
        gap=torch.randn(2, 3, generator=generator),
        probability=torch.tensor([0.25, 1e-9]),
        nodes=torch.arange(6).view(2, 3),
        prompts=PROMPTS,
        site="mlp.hook_post",
        rule="adaptive",
        provenance={
            "model": "tiny",
            "fingerprint": "ab12",
            "settings": {"tol": 0.01, "steps": None, "prepend_bos": False},
            "versions": {"kntools": "0.1.0"},
        },
    )


SAVED = [name for name in RESULTS if name in encoding._classes]


@pytest.mark.filterwarnings("ignore:.*it has not taken")
@pytest.mark.parametrize("kind", SAVED)
def test_every_result_survives_the_disk(kind: str, model: Any, tmp_path: Path) -> None:
    saved = RESULTS[kind](model)
    loaded = kn.load(str(saved.save(tmp_path / "new folder" / "résultat.safetensors")))
    assert type(loaded) is type(saved) and loaded == saved and repr(loaded) == repr(saved)
    assert loaded.save(tmp_path / "again").read_bytes() == saved.save(tmp_path / "once").read_bytes()
    assert [file.name for file in (tmp_path / "new folder").iterdir()] == ["résultat.safetensors"]
    for field in fields(saved):
        value, again = (getattr(x, field.name) for x in (saved, loaded))
        assert type(again) is type(value)
        if isinstance(value, torch.Tensor):
            assert again.dtype == value.dtype and torch.equal(again.nan_to_num(7), value.nan_to_num(7))
        else:
            assert str(again) == str(value)


def test_most_results_are_here() -> None:
    assert {"Attribution", "KnowledgeNeurons", "NeuronScan", "PatchGrid", "Trace", "RankOneEdit", "LayerEdit"} <= {
        *SAVED
    }


def test_equality_is_of_everything() -> None:
    one = an_attribution()
    assert one == an_attribution() and one != "another thing"
    assert one != replace(one, gap=one.gap + 1e-6) and one != replace(one, scores=one.scores.double())
    assert one != replace(one, residual=torch.zeros(2, 3)) and one != replace(one, site="mlp.hook_pre")
    assert one != replace(one, prompts=PROMPTS[::-1]) and one != replace(one, provenance={**one.provenance, "x": 1})
    assert one != replace(one, provenance={**one.provenance, "model": None})


def test_no_class_has_an_equality_or_a_repr_of_its_own() -> None:
    """`@dataclass(frozen=True)` alone would write both, and compare tensors by their truth."""
    for kind in SAVED:
        cls = encoding.class_of(kind)
        assert cls.__eq__ is Result.__eq__ and "save" not in vars(cls) and "load" not in vars(cls)


@dataclass(frozen=True, eq=False, repr=False)
class Odd(Result):
    nested: dict[str, tuple[torch.Tensor, ...]]
    empty: torch.Tensor
    half: torch.Tensor
    shared: torch.Tensor
    where: range
    maybe: tuple[int, str] | None
    number: float
    count: int
    others: tuple[kn.Prompt, ...] = ()

    def to_frame(self) -> pd.DataFrame:
        return pd.DataFrame({"count": [self.count]})


def odd(**change: Any) -> Odd:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    made = Odd(
        {"a": (x.T, x[1]), "b": ()}, torch.zeros(0, 3), x.bfloat16(), x, range(1, 9, 2), (1, "b"), float("nan"), 3
    )
    return replace(made, **change)


def test_views_shared_memory_and_odd_types(tmp_path: Path) -> None:
    for saved in (odd(), odd(maybe=None, number=float("inf"), others=PROMPTS)):
        loaded = kn.load(saved.save(tmp_path / "odd.safetensors"))
        assert loaded == saved and loaded.where == range(1, 9, 2) and loaded.half.dtype == torch.bfloat16
        assert isinstance(loaded.nested["a"], tuple) and torch.equal(loaded.nested["a"][0], saved.shared.T)


def a_table() -> Table:
    rows = [
        {"word": "naïve", "n": 1, "share": float("nan"), "none": None, "yes": True, "neurons": [[1, 2]], "mixed": 1},
        {"word": None, "n": 2, "share": 0.1, "none": None, "yes": False, "neurons": [], "mixed": "a"},
    ]
    return Table.of(rows, {"model": "m"}, test={"p": float("nan"), "most": float("inf")})


@pytest.mark.parametrize("ending", ["json", "safetensors"])
def test_a_table_survives_the_disk(ending: str, tmp_path: Path) -> None:
    for saved in (a_table(), Table.of([], {}), Table(pd.DataFrame({"a": np.float32([1, 2]), "b": ["", "x"]}), {})):
        path = saved.save(tmp_path / f"table.{ending}")
        loaded = kn.load(path)
        assert loaded == saved and loaded.to_frame().dtypes.tolist() == saved.to_frame().dtypes.tolist()
        assert loaded.save(tmp_path / f"again.{ending}").read_bytes() == path.read_bytes()
    if ending == "json":
        json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    saved = a_table()
    assert saved.rows[0]["neurons"] == [[1, 2]] and type(saved.rows[1]["n"]) is int and saved.rows[1]["share"] == 0.1
    assert saved != Table.of(saved.rows[:1], saved.provenance, **saved.details) and saved != replace(saved, details={})
    assert saved.save(tmp_path / "table.csv").read_text() == saved.to_frame().to_csv(index=False)


def test_a_table_that_was_handed_out_may_be_changed() -> None:
    found = a_table()
    found.to_frame()["more"] = 1
    found.to_frame().loc[0, "n"] = 9
    assert found == a_table()


def test_a_result_with_tensors_is_no_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"this result holds tensors; use a file name that ends in \.safetensors"):
        an_attribution().save(tmp_path / "a.json")
    assert list(tmp_path.iterdir()) == []
    path = a_table().save(tmp_path / "a.json")
    for content, said in ((path.read_text()[:-9], "damaged"), ("[]", "no result of kntools"), ("{", "damaged")):
        path.write_text(content)
        with pytest.raises(ValueError, match=said):
            kn.load(path)
    a_table().save(path)
    path.write_text(path.read_text().replace("naïve", "native"))
    with pytest.raises(ValueError, match="its checksum is not that of its content"):
        kn.load(path)


def test_numbers_of_numpy_and_torch_are_plain_ones() -> None:
    assert type(odd(count=np.int64(3)).count) is int and odd(count=np.int64(3)) == odd()
    settings = provenance(
        zoo.tiny("llama"), layer=np.int64(1), tol=np.float32(0.5), on=np.bool_(True), at=torch.tensor(3),
        layers=(1, 2), some=range(2), dtype=torch.float16, folder=Path("a") / "b", prompt=PROMPTS[1],
    )["settings"]  # fmt: skip
    assert json.loads(json.dumps(settings)) == settings == {
        "layer": 1, "tol": 0.5, "on": True, "at": 3, "layers": [1, 2], "some": [0, 1], "dtype": "torch.float16",
        "folder": "a/b",
        "prompt": {
            "text": PROMPTS[1].text, "target": " Łódź", "subject": None, "foil": None, "multi_token": "error",
            "occurrence": None,
        },
    }  # fmt: skip


@pytest.mark.parametrize("bad", [print, object(), {1: 2}, {"inner": [print]}, {1, 2}])
def test_what_cannot_be_written_is_refused_before_the_work(bad: Any) -> None:
    with pytest.raises(TypeError, match=r"settings\.key.*cannot be saved"):
        provenance(zoo.tiny("llama"), key=bad)


# --- files that are damaged, foreign or of other versions ---------------------------------------------------


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    content = an_attribution().save(tmp_path / "a.safetensors").read_bytes()
    bad = tmp_path / "bad.safetensors"
    for length in (0, 5, 100, len(content) // 2, len(content) - 1):
        bad.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"bad\.safetensors"):
            kn.load(bad)
    generator = np.random.default_rng(0)
    for at in [*generator.integers(0, len(content), 150), len(content) - 1]:  # header, text and tensors
        flipped = bytearray(content)
        flipped[at] ^= 1 << int(generator.integers(8))
        bad.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"bad\.safetensors"):
            kn.load(bad)


def test_a_file_of_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = an_attribution().save(tmp_path / "a.safetensors")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        kn.load(tmp_path / "nowhere.safetensors")
    save_file({"x": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="no result of kntools"):
        kn.load(tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="holds Attribution, not Trace"):
        kn.load(path, kn.Trace)
    assert kn.load(path, kn.Attribution) == an_attribution()
    for number, said in ((result.FORMAT - 1, "a newer version"), (result.FORMAT + 1, "an older version")):
        with monkeypatch.context() as patch, pytest.raises(ValueError, match=said):
            patch.setattr(result, "FORMAT", number)
            kn.load(path)


def test_a_kind_or_a_field_that_this_version_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = odd().save(tmp_path / "odd.safetensors")
    monkeypatch.delitem(encoding._classes, "Odd")
    with pytest.raises(ValueError, match="'Odd' is not a result of this version"):
        kn.load(path)
    monkeypatch.setitem(encoding._classes, "Odd", kn.Trace)
    with pytest.raises(ValueError, match="cannot be read by this version"):
        kn.load(path)


def test_two_results_of_one_name() -> None:
    with pytest.raises(TypeError, match=r"a result called Trace is in kntools\.tracing"):
        type("Trace", (Result,), {"__module__": "notebook"})
    again: Callable[..., Any] = type("Odd", (Result,), {"__module__": Odd.__module__})  # a cell that is run twice
    assert encoding.class_of("Odd") is again
    encoding._classes["Odd"] = Odd
