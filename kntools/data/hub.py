"""Data sets on the Hugging Face hub, with an answer within seconds when the hub cannot be reached."""

import functools
import socket
import threading
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import constants

from kntools.data.read import Row


@dataclass(frozen=True)
class HubSet:
    id: str
    split: str = "train"


BLIMP = HubSet("nyu-mll/blimp")
COUNTERFACT = HubSet("azhx/counterfact", "train+test")
COUNTERFACT_REDUCED = HubSet("NeelNanda/counterfact-tracing")

# How long to wait for the hub to answer at all, name look-up included.
PATIENCE = 2.0


class Unavailable(Exception):
    """The hub's data set cannot be had; the message says why."""


def rows(wanted: HubSet, config: str | None, *, folder: Path | None = None) -> list[Row]:
    """All rows of a data set on the hub (or why it is `Unavailable`), or of a local `folder` in the hub's layout."""
    offline = constants.HF_HUB_OFFLINE  # what the hub's library goes by: it read the setting when it was imported
    if folder is None and not offline and not _reachable():
        raise Unavailable(
            f"the Hugging Face hub did not respond (for {wanted.id}; if you downloaded it before, "
            "start Python with HF_HUB_OFFLINE=1 to use the cached copy)"
        )
    from datasets import load_dataset  # importing it takes seconds: only when it is needed

    name = wanted.id if folder is None else str(folder)
    try:
        data = load_dataset(name, config, split=wanted.split)
    except Exception as error:  # many kinds: hub errors, network errors, missing configurations and splits
        problem = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        if folder is None:
            hint = " (HF_HUB_OFFLINE is set)" if offline else ""
            raise Unavailable(f"hub data set {wanted.id} could not be loaded{hint}: {problem}") from error
        raise ValueError(f"{folder} cannot be read in the layout of {wanted.id}: {problem}") from error
    where = f"{name} [{config or 'default'}, {wanted.split}]"
    return [Row(f"{where} row {number}", values) for number, values in enumerate(data)]


def is_layout(folder: Path) -> bool:
    """Does a folder look like a downloaded hub data set: parquet files, or a card with a YAML head?"""
    card = folder / "README.md"
    has_head = card.is_file() and card.read_bytes().startswith(b"---")
    return has_head or any(folder.rglob("*.parquet"))


def _reachable() -> bool:
    """Does the hub (or the proxy on the way to it) accept a connection? Asked at most once a minute."""
    target = urlsplit(constants.ENDPOINT)
    proxies = urllib.request.getproxies()
    proxy = proxies.get(target.scheme) or proxies.get("all")
    if proxy and not urllib.request.proxy_bypass(target.hostname or ""):
        target = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    port = target.port or (80 if target.scheme == "http" else 443)
    return _answers(target.hostname or "", port, int(time.monotonic() // 60))


@functools.lru_cache(maxsize=8)
def _answers(host: str, port: int, minute: int) -> bool:
    """Looking up a name can hang for longer than any timeout of ours, so it happens on the side."""
    answered = threading.Event()

    def knock() -> None:
        with suppress(OSError), socket.create_connection((host, port), timeout=PATIENCE):
            answered.set()

    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return answered.is_set()
