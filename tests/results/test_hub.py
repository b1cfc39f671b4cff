"""Results on the Hugging Face Hub: read from its local cache, and written through a stub of `HfApi`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

import kntools as kn
from kntools.results import hub
from kntools.results.hub import Address
from kntools.results.table import Table
from tests import zoo

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OLDER = "f" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def snapshot(cache: Path, *, kind: str = "models", commit: str = COMMIT, ref: str = "main") -> Path:
    """The folder of one commit of `user/repo`, as a download leaves it."""
    repo = cache / f"{kind}--user--repo"
    name = repo / "refs" / ref
    name.parent.mkdir(parents=True, exist_ok=True)
    name.write_text(commit)
    folder = repo / "snapshots" / commit
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def some_results() -> list[Any]:
    model = zoo.tiny("llama")
    prompt = kn.Prompt("The capital of Canada is", " Ottawa", subject="Canada", multi_token="first")
    moment = kn.second_moment(model, 1, zoo.SENTENCES * 2)
    return [moment, kn.rome(model, prompt, " Rome", layer=1), kn.integrated_gradients(model, prompt)]


def test_second_moment_edit_and_attribution_are_read_from_the_cache(cache: Path) -> None:
    for n, result in enumerate(some_results()):
        result.save(snapshot(cache) / "gpt2-xl" / f"{n}.safetensors")
        found = kn.load(f"hf://user/repo/gpt2-xl/{n}.safetensors", type(result))
        assert found == result
    table = Table.of([{"a": 1}], {})
    table.save(snapshot(cache, kind="datasets") / "table.json")
    assert kn.load("hf://datasets/user/repo/table.json") == table


@pytest.mark.parametrize("revision", [OLDER, "v1", "refs/pr/3", "refs%2Fpr%2F3"])
def test_a_revision_is_another_snapshot(revision: str, cache: Path) -> None:
    new, old = (Table.of([{"a": n}], {}) for n in (1, 2))
    new.save(snapshot(cache) / "t.json")
    for ref in ("v1", "refs/pr/3"):
        old.save(snapshot(cache, commit=OLDER, ref=ref) / "t.json")
    assert kn.load("hf://user/repo/t.json") == new
    assert kn.load(f"hf://user/repo@{revision}/t.json") == old


def test_what_is_not_there(cache: Path) -> None:
    Table.of([], {}).save(snapshot(cache) / "t.json")
    for address in ("hf://user/repo/other.json", "hf://user/repo@v2/t.json", "hf://user/nothing/t.json"):
        with pytest.raises(FileNotFoundError) as error:
            kn.load(address)
        assert address in str(error.value) and "HF_HUB_OFFLINE" in str(error.value)
    (snapshot(cache) / "t.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"hf://user/repo/t\.txt is damaged, or not a file of results"):
        kn.load("hf://user/repo/t.txt")
    with pytest.raises(ValueError, match=r"hf://user/repo/t\.json holds Table, not Trace"):
        kn.load("hf://user/repo/t.json", kn.Trace)


@pytest.mark.parametrize(
    "text", ["hf://", "hf://repo", "hf://user/repo", "hf://user/repo/", "hf://a/b/../../c", "hf:///a/b"]
)
def test_no_address(text: str, cache: Path) -> None:
    with pytest.raises(ValueError, match="hf://user/repo/file"):
        kn.load(text)


@pytest.mark.parametrize(
    "status, kind", [("Repository", "no repository"), ("Revision", "no revision"), ("Entry", "no file")]
)
def test_what_the_hub_does_not_have(status: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = getattr(hub, f"{status}NotFoundError")

    def refuse(*args: Any, **options: Any) -> None:
        raise made.__new__(made)

    monkeypatch.setattr(hub, "hf_hub_download", refuse)
    with pytest.raises(FileNotFoundError, match=kind):
        kn.load("hf://user/repo@v1/t.json")


@pytest.fixture
def upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, Any]]:
    """A Hub that keeps one file; returns how it was called."""
    called: dict[str, Any] = {}

    def keep(self: HfApi, **options: Any) -> None:
        shutil.copy(options["path_or_fileobj"], tmp_path / "uploaded")
        called.update(options)

    monkeypatch.setattr(HfApi, "upload_file", keep)
    return lambda: called


def test_what_is_pushed_is_read_again(
    upload: Any, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for result in some_results():
        address = result.push_to_hub("user/repo", "a/x.safetensors", message="Moments")
        about = upload()
        assert (about["repo_id"], about["path_in_repo"], about["repo_type"]) == (
            "user/repo",
            "a/x.safetensors",
            "model",
        )
        assert about["revision"] is None and about["commit_message"] == "Moments"
        (snapshot(cache) / "a").mkdir(exist_ok=True)
        shutil.copy(tmp_path / "uploaded", snapshot(cache) / "a" / "x.safetensors")
        assert address == "hf://user/repo/a/x.safetensors" and kn.load(address) == result


def test_push_to_a_branch_of_a_data_set(upload: Any) -> None:
    table = Table.of([{"a": 1}], {})
    address = table.push_to_hub("datasets/user/repo", "t.json", revision="refs/pr/2")
    assert (upload()["repo_type"], upload()["revision"]) == ("dataset", "refs/pr/2")
    assert Address.parse(address) == Address("user/repo", "t.json", "refs/pr/2", "dataset")
    assert table.push_to_hub("user/repo@v1", "t.json") == "hf://user/repo@v1/t.json" and upload()["revision"] == "v1"
    for repo, file in (("repo", "t.json"), ("user/repo", "../t.json"), ("user/repo", "")):
        with pytest.raises(ValueError, match="hf://user/repo/file"):
            table.push_to_hub(repo, file)
    with pytest.raises(ValueError, match=r"use a file name that ends in \.safetensors"):
        some_results()[0].push_to_hub("user/repo", "t.json")


def test_a_repository_is_created_where_there_is_none(upload: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    keep = HfApi.upload_file

    def only_after_creation(self: HfApi, **options: Any) -> None:
        if not made:
            raise RepositoryNotFoundError.__new__(RepositoryNotFoundError)
        keep(self, **options)

    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo, **options: made.append((repo, options)))
    monkeypatch.setattr(HfApi, "upload_file", only_after_creation)
    Table.of([], {}).push_to_hub("user/new", "t.json", private=True)
    assert made == [("user/new", {"repo_type": "model", "private": True, "exist_ok": True})]
    assert upload()["repo_id"] == "user/new"


def test_offline_and_without_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE"):
        Table.of([], {}).push_to_hub("user/repo", "t.json")

    def refuse(self: HfApi, **options: Any) -> None:
        error = HfHubHTTPError.__new__(HfHubHTTPError)
        error.response = SimpleNamespace(status_code=401)  # type: ignore[assignment]  # all that is read of it
        raise error

    monkeypatch.setattr(HfApi, "upload_file", refuse)
    with pytest.raises(PermissionError, match="hf auth login"):
        Table.of([], {}).push_to_hub("user/repo", "t.json")
