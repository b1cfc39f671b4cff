"""Open a page in a real browser, without a window and without a network, and say what it did."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
MISSING = f"no browser on PATH ({', '.join(NAMES)}); apt-get install chromium"


@dataclass(frozen=True)
class Visit:
    """The page after its scripts ran, and what they wrote to the console."""

    dom: str
    console: list[str]


def find() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def visit(page: Path, profile: Path, *, width: int = 1280) -> Visit:
    """Load `page` from disk; `profile` is a new, empty folder."""
    command = [
        str(find()),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--no-first-run",
        "--host-resolver-rules=MAP * ~NOTFOUND",  # whatever it might fetch, it cannot
        f"--user-data-dir={profile}",
        f"--window-size={width},2000",
        "--virtual-time-budget=30000",
        "--enable-logging=stderr",
        "--dump-dom",
        page.resolve().as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return Visit(done.stdout, re.findall(r"CONSOLE.*", done.stderr))
