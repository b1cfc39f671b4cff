"""A record that is not as it should be is an error that names the file and the line; nothing is passed over."""

import gzip
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kntools import data
from kntools.data.read import json_array, json_lines, table

PAIR = {
    "sentence_good": "Ann saw this.",
    "sentence_bad": "Ann saw these.",
    "field": "f",
    "linguistics_term": "t",
    "UID": "passive_1",
    "pair_id": 0,
}
KNOWN = {
    "known_id": 0,
    "subject": "Canada",
    "attribute": "Ottawa",
    "template": "The capital of {} is",
    "prediction": " Ottawa",
    "prompt": "The capital of Canada is",
    "relation_id": "P36",
}


def line(**changes: Any) -> str:
    """A pair with some fields changed; `None` takes one out."""
    return json.dumps({key: value for key, value in {**PAIR, **changes}.items() if value is not None})


def load_pairs(path: Path) -> Any:
    return data.blimp("passive_1", path=path)


@pytest.mark.parametrize(
    ("content", "number", "message"),
    [
        (line(sentence_bad=None), 2, "field 'sentence_bad' is missing; expected a string"),
        (line(sentence_good=7), 2, "field 'sentence_good' must be a string that is not blank, found 7"),
        (line(sentence_good="  "), 2, "field 'sentence_good' must be a string that is not blank"),
        (line(pair_id="0"), 2, "field 'pair_id' must be an integer, found '0'"),
        (line(pair_id=True), 2, "field 'pair_id' must be an integer, found True"),
        (line()[:-5], 2, "broken JSON .*expected one JSON object per line"),
        ("[1, 2]", 2, "found a list; expected one JSON object per line"),
        ("", 2, "the line is blank"),
        (line().replace("Ann", "Zo\xeb"), 2, "not UTF-8 .byte 0xeb at column 22.; save the file as UTF-8"),
    ],
)
def test_a_bad_line_is_named(content: str, number: int, message: str, tmp_path: Path) -> None:
    path = tmp_path / "passive_1.jsonl"
    path.write_bytes(f"{line()}\n{content}\n{line()}\n".encode("latin-1"))
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))}:{number}: {message}"):
        load_pairs(path)


def test_pairs_of_another_paradigm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "blimp").mkdir()
    (tmp_path / "blimp" / "passive_1.jsonl").write_text(f"{line()}\n{line(UID='passive_2')}\n")
    monkeypatch.setenv("KNTOOLS_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"passive_1\.jsonl:2: field 'UID' is 'passive_2'; expected 'passive_1'"):
        data.blimp("passive_1", path=tmp_path / "blimp" / "passive_1.jsonl")
    with pytest.raises(ValueError, match=r"passive_1\.jsonl:2: field 'UID' is 'passive_2'; expected 'passive_1'"):
        data.blimp("passive_1")


@pytest.mark.parametrize("content", [b"", b"  \n\n"])
@pytest.mark.parametrize("reader", [json_lines, json_array, lambda path: table(path, ("a",))])
def test_an_empty_file(reader: Callable[[Path], Any], content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))} is empty; expected "):
        reader(path)


def test_a_compressed_file(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl.gz"
    path.write_bytes(gzip.compress(line().encode()))
    with pytest.raises(ValueError, match=r"is compressed; expected a file with .* unpack it"):
        json_lines(path)


@pytest.mark.parametrize("reader", [json_lines, json_array, lambda path: table(path, ("a",))])
def test_a_folder_or_nothing_in_place_of_a_file(reader: Callable[[Path], Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is a folder; expected a file with"):
        reader(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"does not exist; expected a file with"):
        reader(tmp_path / "nothing")


def test_windows_line_ends_a_byte_order_mark_and_no_last_newline(tmp_path: Path) -> None:
    path = tmp_path / "passive_1.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + f"{line()}\r\n{line(pair_id=1)}".encode())
    assert [pair.pair_id for pair in load_pairs(path)] == [0, 1]


def test_a_line_separator_inside_a_sentence_is_not_a_line_end(tmp_path: Path) -> None:
    path = tmp_path / "passive_1.jsonl"
    sentence = "Ann\u2028saw this."
    path.write_text(json.dumps({**PAIR, "sentence_good": sentence}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert load_pairs(path)[0].good == sentence


# --- wrong folders ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "load", [load_pairs, lambda p: data.pararel("P36", path=p), lambda p: data.known_facts(path=p)]
)
def test_a_wrong_folder(load: Callable[[Path], Any], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is not a folder with .*: it has no "):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"does not exist; give a file or folder with"):
        load(tmp_path / "nothing")


def test_a_wrong_data_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KNTOOLS_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=rf"\$KNTOOLS_DATA={re.escape(str(tmp_path))} has no blimp/passive_1"):
        data.blimp("passive_1")
    with pytest.warns(UserWarning, match=r"has no pararel/patterns/P36\.jsonl and pararel/facts/P36\.jsonl"):
        data.pararel("P36")


def test_one_file_is_not_a_relation(tmp_path: Path) -> None:
    (tmp_path / "P36.jsonl").write_text('{"pattern": "The capital of [X] is [Y]."}\n')
    with pytest.raises(ValueError, match=r"is one file; ParaRel P36 needs a folder with"):
        data.pararel("P36", path=tmp_path / "P36.jsonl")


@pytest.mark.parametrize("folder", ["", "pararel", "pararel/inner"])
def test_data_is_found_from_every_level(folder: str, tmp_path: Path) -> None:
    for part, row in (
        ("patterns", {"pattern": "[X],  the capital of [Y]."}),
        ("facts", {"sub_label": "Ottawa", "obj_label": "Canada", "uuid": "u"}),
    ):
        path = tmp_path / "pararel" / part / "P1376.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(row) + "\n")
    if folder == "pararel/inner":
        with pytest.raises(FileNotFoundError):
            data.pararel("P1376", path=tmp_path / folder)
    else:
        (fact,) = data.pararel("P1376", path=tmp_path / folder)
        assert fact.patterns == ("[X], the capital of [Y].",)  # the double space is gone


# --- the other formats ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("The capital is [Y].", "must hold one .X."), ("[X] has [Y] and [Y].", "must hold one .X.")],
)
def test_a_pattern_without_its_slots(pattern: str, message: str, tmp_path: Path) -> None:
    for part, row in (("patterns", {"pattern": pattern}), ("facts", {"sub_label": "a"})):
        (tmp_path / part).mkdir()
        (tmp_path / part / "P36.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=rf"P36\.jsonl:1: pattern '{re.escape(pattern)}' {message}"):
        data.pararel("P36", path=tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"known_id": 0}', r": found {'known_id': 0}; expected one JSON array"),
        ("[]", r": found \[\]; expected one JSON array of objects, at least one"),
        ('[\n{"known_id": 0},\n{"known_id": }\n]', r":3: broken JSON"),
        ('[\n{"known_id": 0}\n{"known_id": 1}\n]', r":3: broken JSON \(Expecting ',' delimiter\)"),
        ("[\n3\n]", r":2: found a int; expected one JSON array of objects"),
        ("[\n{}\n] {}", r":3: broken JSON \(Extra data\)"),
        ("[\n" + json.dumps(KNOWN) + ",\n" + json.dumps({**KNOWN, "subject": 1}) + "\n]", r":3: field 'subject' must"),
        ("[\n\n" + json.dumps({**KNOWN, "template": "of"}) + "\n]", r":3: field 'template' is 'of'; expected one \{\}"),
        (json.dumps([KNOWN, {**KNOWN, "subject": 1}], indent=1), r":11: field 'subject' must"),
        ("[\n" + json.dumps(KNOWN), r":2: broken JSON \(Expecting ',' delimiter\)"),
    ],
)
def test_a_bad_array(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "known_1000.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=re.escape(str(path)) + message):
        data.known_facts(path=path)


COUNTERFACT = {
    "case_id": 0,
    "pararel_idx": 1,
    "requested_rewrite": {
        "prompt": "{} is in",
        "relation_id": "P30",
        "target_new": {"str": "Asia", "id": "Q1"},
        "target_true": {"str": "Africa", "id": "Q2"},
        "subject": "Angola",
    },
    "paraphrase_prompts": ["Angola belongs to"],
    "neighborhood_prompts": ["Mali is in"],
    "attribute_prompts": ["Japan is in"],
    "generation_prompts": ["Angola is"],
}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("requested_rewrite",), "x", "field 'requested_rewrite' must be an object"),
        (("requested_rewrite", "target_new"), {"id": "Q1"}, "in 'requested_rewrite', in 'target_new': field 'str' is"),
        (("requested_rewrite", "prompt"), "Angola is in", "in 'requested_rewrite': field 'prompt' is 'Angola is in'"),
        (("paraphrase_prompts",), ["a", None], "field 'paraphrase_prompts' must be a list of strings"),
        (("neighborhood_prompts",), "a", "field 'neighborhood_prompts' must be a list of strings"),
    ],
)
def test_a_bad_counterfact_record(path: tuple[str, ...], value: Any, message: str, tmp_path: Path) -> None:
    record = json.loads(json.dumps(COUNTERFACT))
    inner = record
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    file = tmp_path / "counterfact_1000.jsonl"
    file.write_text(f"{json.dumps(COUNTERFACT)}\n{json.dumps(record)}\n")
    with pytest.raises(ValueError, match=rf"{re.escape(str(file))}:2.*{message}"):
        data.counterfact(path=tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "area\tjob\nphysics\tphysicist\n",
            r":1: the first line is 'area\\tjob'; expected tab-separated columns field",
        ),
        ("field\toccupation\n", r": no rows after the first line"),
        ("field\toccupation\nphysics physicist\n", r":2: 1 columns; expected"),
        ("field\toccupation\nphysics\t\n", r":2: field 'occupation' must be a string that is not blank"),
        ("field\toccupation\na\tb\na\tc\n", r":3: the field 'a' is in the table twice"),
    ],
)
def test_a_bad_table(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.tsv"
    path.write_text(content)
    with pytest.raises(ValueError, match=re.escape(str(path)) + message):
        data.field_occupations(path)


def test_a_long_array_is_read_in_linear_time(tmp_path: Path) -> None:
    path = tmp_path / "long.json"
    path.write_text("[" + ",\n".join(json.dumps(KNOWN) for _ in range(20_000)) + "]")
    start = time.process_time()
    rows = json_array(path)
    assert rows[-1].where == f"{path}:20000"
    assert time.process_time() - start < 20
