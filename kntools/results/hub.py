"""Results in repositories of the Hugging Face Hub, addressed as `hf://user/repo/file` or `hf://user/repo@revision/file`."""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

SCHEME = "hf://"
_FORM = re.compile(
    r"hf://(?P<type>datasets/)?(?P<repo>[^/@]+/[^/@]+)(@(?P<revision>refs/(?:pr|convert)/[^/]+|[^/]+))?/(?P<file>[^/].*)"
)


@dataclass(frozen=True)
class Address:
    """One file of one repository. A repository of a model is meant, unless it is written `datasets/user/repo`."""

    repo: str
    file: str
    revision: str | None = None
    type: str = "model"

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Raises ValueError where `text` is no address of a file."""
        found = _FORM.fullmatch(text)
        if found is None or ".." in found["file"].split("/"):
            raise ValueError(
                f"{text!r} is not a file on the Hub; write hf://user/repo/file or hf://user/repo@revision/file"
            )
        revision = None if found["revision"] is None else unquote(found["revision"])
        return cls(found["repo"], found["file"], revision, "dataset" if found["type"] else "model")

    def __str__(self) -> str:
        kind = "datasets/" if self.type == "dataset" else ""
        revision = "" if self.revision is None else f"@{quote(self.revision, safe='')}"
        return f"{SCHEME}{kind}{self.repo}{revision}/{self.file}"

    def download(self) -> Path:
        """The file in the local cache of the Hub, downloaded if it is not there."""
        try:
            path = hf_hub_download(self.repo, self.file, revision=self.revision, repo_type=self.type)
        except HFValidationError as error:
            raise ValueError(f"{self}: {self.repo!r} is not a valid repository; write hf://user/repo/file") from error
        except LocalEntryNotFoundError as error:
            why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the Hub cannot be reached"
            raise FileNotFoundError(f"{self} is not in the cache ({constants.HF_HUB_CACHE}), and {why}") from error
        except RevisionNotFoundError as error:
            raise FileNotFoundError(f"{self}: {self.repo} has no revision {self.revision!r}") from error
        except EntryNotFoundError as error:
            raise FileNotFoundError(f"{self}: {self.repo} has no file {self.file!r}") from error
        except GatedRepoError as error:
            raise FileNotFoundError(f"{self}: access to {self.repo} must be requested on its page") from error
        except RepositoryNotFoundError as error:
            hint = "check the name; a private one needs a token (hf auth login)"
            raise FileNotFoundError(f"{self}: the Hub has no repository {self.repo}; {hint}") from error
        return Path(path)

    def upload(self, path: Path, message: str | None, private: bool | None, token: str | None) -> None:
        """Write a file to the repository, which is created if it does not exist."""
        api = HfApi(token=token)

        def send() -> None:
            api.upload_file(
                path_or_fileobj=path,
                path_in_repo=self.file,
                repo_id=self.repo,
                repo_type=self.type,
                revision=self.revision,
                commit_message=message or f"Upload {self.file} with kntools",
            )

        try:
            try:
                send()
            except RepositoryNotFoundError:
                api.create_repo(self.repo, repo_type=self.type, private=private, exist_ok=True)
                send()
        except OfflineModeIsEnabled as error:
            raise ConnectionError(
                f"{self} cannot be written: HF_HUB_OFFLINE is set; unset it and restart Python"
            ) from error
        except HfHubHTTPError as error:
            if error.response.status_code in (401, 403):
                hint = "log in with `hf auth login`, or give token="
                raise PermissionError(f"{self}: no token that may write to {self.repo}; {hint}") from error
            raise
