"""Open a page in a real browser, without a window and without a network, and say what it did."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
MISSING = f"no browser on PATH ({', '.join(NAMES)}); apt-get install chromium"


# A window is never narrower than 500 pixels, a frame can be as narrow as a phone. What the browser shows in the end is
# the page in the frame, with how far it reaches beyond its right edge.
FRAME = """<!doctype html><title>frame</title>
<iframe src="{page}" style="width: {width}px; height: {height}px; border: 0"></iframe>
<script>
addEventListener("load", () => setTimeout(() => {{
  const root = document.querySelector("iframe").contentDocument.documentElement;
  root.dataset.overflow = root.scrollWidth - root.clientWidth;
  document.replaceChild(document.importNode(root, true), document.documentElement);
}}, {wait}));
</script>"""
HEIGHT = 2000
# Milliseconds of the page's own clock, which runs as fast as the scripts do.
WAIT = 20_000


@dataclass(frozen=True)
class Visit:
    """The page after its scripts ran, and what they wrote to the console."""

    dom: str
    console: list[str]

    @property
    def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        return int(re.findall(r'data-overflow="(-?\d+)"', self.dom)[0])


def find() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def visit(page: Path, profile: Path, *, width: int = 1280, dark: bool = False, query: str = "") -> Visit:
    """Load `page` from disk, in a system with a light or a dark theme; `profile` is a new, empty folder."""
    profile.mkdir(parents=True)
    frame = profile / "frame.html"
    frame.write_text(FRAME.format(page=page.resolve().as_uri() + query, width=width, height=HEIGHT, wait=WAIT), "utf-8")
    command = [
        str(find()),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--no-first-run",
        "--host-resolver-rules=MAP * ~NOTFOUND",  # whatever it might fetch, it cannot
        f"--user-data-dir={profile}",
        "--allow-file-access-from-files",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        f"--window-size={width},{HEIGHT}",
        f"--virtual-time-budget={WAIT + 10_000}",
        "--enable-logging=stderr",
        "--dump-dom",
        frame.resolve().as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return Visit(done.stdout, re.findall(r"CONSOLE.*", done.stderr))
