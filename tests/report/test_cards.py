"""From a figure to a card: on a page and in the widget of a notebook, by a click in a real browser."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

import kntools as kn
from kntools import plots
from kntools.report import page
from kntools.report.cards import MOST, page_cards
from tests import browser, zoo

PROMPT = kn.Prompt("<script>alert(1)</script> this book is", " book")
needs_browser = pytest.mark.skipif(browser.find() is None, reason=browser.MISSING)

# What a reader does: move to the middle of a cell or bar (by its number on both axes), press, release.
PRESS = """<script type="module">
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
await wait(800);
const noted = document.documentElement.dataset;
for (const [number, [column, row]] of PLACES.entries()) {
  const plot = document.querySelectorAll(".js-plotly-plot")[number];
  const box = plot.getBoundingClientRect(), { xaxis, yaxis } = plot._fullLayout;
  const [x, y] = [xaxis._offset + xaxis.c2p(column), yaxis._offset + yaxis.c2p(row)];
  const place = { clientX: box.left + x, clientY: box.top + y };
  for (const type of ["mousemove", "mousedown", "mouseup"]) {
    plot.querySelector(".nsewdrag").dispatchEvent(new MouseEvent(type, { ...place, bubbles: true }));
    await wait(150);
  }
  const panel = plot.parentElement.querySelector(".card");
  noted["card" + number] = panel.hidden ? "" : panel.textContent;
  noted["beside" + number] = panel.getBoundingClientRect().left >= plot.getBoundingClientRect().right;
  panel.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));
  noted["closed" + number] = panel.hidden;
}
noted.buttons = [...document.querySelectorAll(".cards button")].map((button) => button.textContent).join(" ");
</script>"""


@pytest.fixture(scope="module")
def model() -> Any:
    return zoo.fresh("llama")


@pytest.fixture(scope="module")
def att(model: Any) -> kn.Attribution:
    return kn.activation_x_gradient(model, PROMPT)


def pressed(path: Path, profile: Path, places: list[tuple[float, float]]) -> dict[str, str]:
    script = PRESS.replace("PLACES", json.dumps(places))
    path.write_text(path.read_text("utf-8").replace("</body>", script + "</body>"), encoding="utf-8")
    seen = browser.visit(path, profile)
    assert seen.console == []
    start = re.search("<html[^>]*>", seen.dom)
    assert start is not None
    return {name: html.unescape(text) for name, text in re.findall(r'data-(\w+)="([^"]*)"', start[0])}


@needs_browser
def test_a_click_opens_the_card_beside_the_figure(model: Any, att: kn.Attribution, tmp_path: Path) -> None:
    heatmap, bars = plots.neuron_heatmap(att, columns=6), plots.neuron_bars(att, k=4)
    leading = repr(att.top(1)[0])
    row, column = next(
        (r, c) for r, names in enumerate(heatmap.data[0].text) for c, name in enumerate(names) if name == leading
    )
    cards = kn.neuron_card(model, [leading], prompt=PROMPT)
    sections = [page.Section("Scores", [page.Chart(figure, "One.") for figure in (heatmap, bars)])]
    content = page.Page("Cards", sections, cards=cards, card_command="kntools card {neuron} --model tiny")
    other = repr(att.top(4)[3])  # the bar at the bottom has no card
    seen = pressed(page.write(tmp_path / "index.html", content), tmp_path / "profile", [(column, row), (1e-9, 0)])
    assert seen["card0"].startswith(f"CloseNeuron {leading}") and "<script>alert(1)</script> this book" in seen["card0"]
    assert seen["beside0"] == seen["closed0"] == seen["closed1"] == "true"
    assert f"kntools card {other} --model tiny" in seen["card1"] and "not here" in seen["card1"]
    assert seen["buttons"].split() == [leading, leading], "one for each figure that shows it"


@needs_browser
def test_the_widget_does_the_same(model: Any, att: kn.Attribution, tmp_path: Path) -> None:
    pytest.importorskip("anywidget")
    first = att.top(1)
    widget = plots.with_cards(plots.neuron_bars(att, k=3), kn.neuron_card(model, first))
    values = {name: getattr(widget, name) for name in ("figure", "cards", "command")}
    source = str(widget._esm).replace("export default", "const widget =").replace("</script", r"<\/script")
    (tmp_path / "widget.html").write_text(
        f"<!doctype html><body><style>{widget._css}</style><div></div><script type=module>{source}\n"
        f"const values = {json.dumps(values)};\n"
        "widget.render({ model: { get: (name) => values[name] }, el: document.querySelector('div') });"
        "</script></body>",
        encoding="utf-8",
    )
    seen = pressed(tmp_path / "widget.html", tmp_path / "profile", [(1e-9, 2)])  # the highest bar
    assert seen["card0"].startswith(f"CloseNeuron {first[0]!r}") and seen["buttons"] == repr(first[0])


def test_without_anywidget_it_is_the_figure(att: kn.Attribution, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kntools.plots.card_view.find_spec", lambda name: None)
    figure = att.plot()
    assert plots.with_cards(figure, kn.neuron_card(model, att.top(2))) is figure


def test_a_page_has_few_cards_the_leading_ones(model: Any, att: kn.Attribution) -> None:
    figures = [plots.neuron_heatmap(att, columns=40), plots.neuron_bars(att, k=5), plots.layer_histogram(att.top(3))]
    cards = page_cards(model, [page.Section("All", [page.Chart(figure, "One.") for figure in figures])], PROMPT)
    assert len(cards) == MOST and all(card.in_prompt is not None for card in cards)
    strongest = divmod(int(att.scores[0].abs().argmax()), att.scores.shape[2])
    assert cards[0].neuron == kn.Neuron(*strongest)
    assert {*att.top(5)} <= {card.neuron for card in cards}
    rendered = page.render(page.Page("x", [], cards=cards))
    embedded = json.loads(re.findall(r'id="cards">(.*?)</script>', rendered)[0])["cards"]
    assert [*embedded] == [repr(card.neuron) for card in cards] and max(map(len, embedded.values())) < 20_000
    assert "<script>alert" not in rendered and page_cards(model, []) == []
