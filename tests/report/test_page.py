"""A page is one file that needs nothing else, and says everything it was given."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
import torch

from kntools import plots
from kntools.report import page
from tests import browser

SCORES = torch.randn(2, 3, 20, generator=torch.Generator().manual_seed(0))


def example() -> page.Page:
    frame = pd.DataFrame({"name": ["<b>", "x"], "score": [0.12345, -1.0], "count": [1, 46080], "ok": [True, False]})
    return page.Page(
        title="Scores & <more>",
        lead="What `kntools` says.",
        source="Model: tiny. Made by `command --out DIR`.",
        facts=[("Model", "tiny"), ("Command", "`command`")],
        warning="Not <evidence>.",
        sections=[
            page.Section(
                "First", [page.Text("a < b, `code`"), page.Chart(plots.neuron_heatmap(SCORES), "One.", n="2")]
            ),
            page.Section(
                "Second",
                [
                    page.Chart(
                        plots.neuron_bars(SCORES),
                        "Two.",
                        n="2 prompts",
                        title="</script> in a title",
                        name="bars",
                        min_width=640,
                    ),
                    page.PageTable(frame, "A table.", csv="table.csv", json="tables/table.json"),
                    page.PageTable(frame, "A folded table.", folded=True),
                    page.Notes([("Question", "Why `so`?"), ("n", "2 < 3")]),
                    page.Command("kntools report --out 'a & b'"),
                    page.Links([("First", "says 1 & 2")]),
                ],
            ),
        ],
    )


class Elements(HTMLParser):
    """Start tags with their attributes, and the text outside of scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] not in ("script", "style"):
            self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def html() -> str:
    return page.render(example())


@pytest.fixture(scope="module")
def elements(html: str) -> Elements:
    return Elements(html)


def assert_self_contained(html: str) -> None:
    """Nothing is fetched, and plotly.js is there once."""
    found = Elements(html)
    for tag, attributes in found.tags:
        for name in ("src", "srcset", "data", "poster"):
            assert name not in attributes, (tag, attributes)
        if tag == "link":
            assert str(attributes["href"]).startswith("data:")
        elif tag == "a":
            assert "//" not in str(attributes["href"])
    style = re.findall(r"<style>(.*?)</style>", html, flags=re.DOTALL)
    assert not any("@import" in s or "url(" in s for s in style)
    assert len(re.findall(r"plotly\.js v\d", html)) == 1


def test_nothing_is_fetched_and_plotly_is_there_once(html: str) -> None:
    assert_self_contained(html)


def test_every_figure_is_there_with_its_numbers(html: str) -> None:
    specs = re.findall(r'data-plot="([^"]+)">(.*?)</script>', html, flags=re.DOTALL)
    assert [name for name, _ in specs] == ["first-1-plot", "second-0-plot"]
    wanted = [plots.neuron_heatmap(SCORES), plots.neuron_bars(SCORES)]
    for (name, text), figure in zip(specs, wanted, strict=True):
        assert json.loads(text)["data"] == json.loads(figure.to_json())["data"]
        assert f'id="{name}"' in html


def test_captions_say_what_of_how_many_and_how(html: str) -> None:
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", html, flags=re.DOTALL)
    assert captions == [
        f'{text} <span class="source">Model: tiny. Made by <code>command --out DIR</code>.</span>'
        for text in ("One. n = 2.", "Two. n = 2 prompts.")
    ]


def test_text_is_text(html: str, elements: Elements) -> None:
    for shown in (
        "Scores & <more>",
        "Not <evidence>.",
        "a < b, code",
        "<b>",
        "</script> in a title",
        "46,080",
        "0.123",
        "yes",
    ):
        assert shown in elements.text
    assert "b" not in [tag for tag, _ in elements.tags]


def test_headings_landmarks_and_keyboard(elements: Elements) -> None:
    levels = [int(tag[1]) for tag, _ in elements.tags if re.fullmatch(r"h\d", tag)]
    assert levels == [1, 2, 3, 2, 3]
    assert len(elements.named("main")) == len(elements.named("nav")) == 1
    assert elements.named("html")[0]["lang"] == "en"
    ids = [a["id"] for _, a in elements.tags if "id" in a]
    assert len(ids) == len(set(ids))
    links = [str(a["href"]) for a in elements.named("a")]
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    assert "#main" in links
    for _, attributes in elements.tags:
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in ids
    scrolling = [a for a in elements.named("div") if a.get("class") == "scroll"]
    assert len(scrolling) == 2 and all(a["tabindex"] == "0" for a in scrolling)


def test_buttons_have_names_and_wait_for_the_script(elements: Elements) -> None:
    buttons = elements.named("button")
    assert all(a["type"] == "button" and "hidden" in a for a in buttons)
    assert buttons[0]["id"] == "theme" and buttons[0]["aria-pressed"] == "false"
    saving = [(a["data-of"], a["data-save"], a["data-file"], a["aria-label"]) for a in buttons if "data-save" in a]
    assert saving == [
        (name, kind, file, f"Save as {kind.upper()}")
        for name, file in (("first-1", "first-1"), ("second-0", "bars"))
        for kind in ("png", "svg")
    ]
    assert sum("data-copy" in a for a in buttons) == 1 and "Copy" in elements.text


def test_notes_commands_and_links(html: str, elements: Elements) -> None:
    assert '<dl class="notes"><div><dt>Question</dt><dd>Why <code>so</code>?</dd></div>' in html
    assert "kntools report --out 'a & b'" in elements.text
    assert '<li><a href="#first">First</a> says 1 &amp; 2</li>' in html
    with pytest.raises(ValueError, match="no section 'Third' to link to; there are"):
        page.render(page.Page("x", [page.Section("First", [page.Links([("Third", "")])])]))


def test_numbers_stand_right_and_say_what_they_are() -> None:
    frame = pd.DataFrame(
        {"x": [0.0, 0.00001, float("nan"), -0.5], "k": [1, 2, 3, 4], "ok": [True] * 4, "s": list("abcd")}
    )
    html = page.render(page.Page("x", [page.Section("A", [page.PageTable(frame, "T.")])]))
    cells = re.findall(r'<td class="number">([^<]*)</td>', html)
    assert cells == ["0", "1", "1e-05", "2", "", "3", "-0.500", "4"]
    assert re.findall(r'<th scope="col"( class=number)?>(\w+)', html) == [
        (" class=number", "x"), (" class=number", "k"), ("", "ok"), ("", "s"),
    ]  # fmt: skip


def test_it_is_written_with_its_tables(tmp_path: Path) -> None:
    path = page.write(tmp_path / "new" / "index.html", example())
    assert path.read_text(encoding="utf-8") == page.render(example())
    table = pd.read_csv(tmp_path / "new" / "table.csv")
    assert table["score"].tolist() == [0.12345, -1.0]  # all digits, whatever the page shows
    rows = json.loads((tmp_path / "new" / "tables" / "table.json").read_text(encoding="utf-8"))
    assert rows[0] == {"name": "<b>", "score": 0.12345, "count": 1, "ok": True}


def test_a_killed_write_leaves_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = page.write(tmp_path / "index.html", example())
    before = path.read_bytes()

    def stopped(part: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        page.write(path, page.Page("other", []))
    assert path.read_bytes() == before and not list(tmp_path.rglob("*.part*"))


def test_two_sections_of_one_name_are_an_error() -> None:
    with pytest.raises(ValueError, match="same title"):
        page.render(page.Page("x", [page.Section("A", []), page.Section("a", [])]))


@pytest.mark.skipif(browser.find() is None, reason=browser.MISSING)
@pytest.mark.parametrize(("width", "dark"), [(390, True), (1280, False)])
def test_a_browser_draws_it_without_a_complaint(tmp_path: Path, width: int, dark: bool) -> None:
    path = page.write(tmp_path / "index.html", example())
    seen = browser.visit(path, tmp_path / "profile", width=width, dark=dark)
    assert seen.console == []
    assert seen.overflow <= 0
    assert f'data-theme="{"dark" if dark else "light"}"' in seen.dom
    assert "hidden" not in seen.dom.split("<main", 1)[1].split("<button", 1)[1].split(">", 1)[0]
    assert 'data-drawn="2"' in seen.dom
    assert seen.dom.count('class="main-svg"') >= 2
    assert seen.dom.count("<image") >= 1  # the heatmap's cells
    assert "L0.N" in seen.dom  # the bars' names
    # A wide figure is drawn smaller on a phone: the box around it does not scroll.
    assert ("transform: scale(0." in seen.dom) == (width == 390)


# Notes by how many pixels the names of panels reach into the legend.
REACH = """<script>
addEventListener("load", () => setTimeout(() => {
  const box = (name) => document.querySelector(name).getBoundingClientRect();
  document.documentElement.dataset.reach = Math.ceil(box("g.legend").bottom - box("g.annotation").top);
}, 5000));
</script>"""


@pytest.mark.skipif(browser.find() is None, reason=browser.MISSING)
@pytest.mark.parametrize("name", ["P36", "sample_determiner_noun_agreement_1, and what follows"])
def test_names_of_panels_stand_below_the_legend(tmp_path: Path, name: str) -> None:
    panels = [name] * 2 + ["c"] * 2 + ["d"] * 2
    frame = pd.DataFrame({"x": ["a", "b"] * 3, "y": 0.5, "edit": ["one", "other"] * 3, "part": panels})
    figure = plots.bar_chart(frame, "x", "y", color="edit", facet_col="part")
    shown = page.Page("x", [page.Section("A", [page.Chart(figure, "One.")])])
    path = page.write(tmp_path / "index.html", shown)
    path.write_text(path.read_text(encoding="utf-8").replace("</body>", REACH + "</body>"), encoding="utf-8")
    [reach] = re.findall(r'data-reach="(-?\d+)"', browser.visit(path, tmp_path / "profile").dom)
    assert int(reach) <= 0


# Pushes all buttons, and notes what a browser would download instead of doing so.
PUSH = """<script>
const noted = document.documentElement.dataset;
HTMLAnchorElement.prototype.click = function () {
  noted.saved = [noted.saved, this.download].filter(Boolean).join(" ");
};
addEventListener("load", () => document.querySelectorAll("button").forEach((button) => button.click()));
</script>"""


@pytest.mark.skipif(browser.find() is None, reason=browser.MISSING)
def test_buttons_save_figures_and_change_the_theme(tmp_path: Path) -> None:
    path = page.write(tmp_path / "index.html", example())
    path.write_text(path.read_text(encoding="utf-8").replace("</body>", PUSH + "</body>"), encoding="utf-8")
    seen = browser.visit(path, tmp_path / "profile")
    assert seen.console == []
    [saved] = re.findall(r'data-saved="([^"]*)"', seen.dom)
    assert sorted(saved.split()) == ["bars.png", "bars.svg", "first-1.png", "first-1.svg"]
    assert 'data-theme="dark"' in seen.dom and 'aria-pressed="true"' in seen.dom
    assert re.search(r"data-copy[^>]*>(Copied|Selected)<", seen.dom)
