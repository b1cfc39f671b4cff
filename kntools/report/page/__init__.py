"""One HTML file with figures and tables that opens anywhere: no network, no other file, no build step.

```python
page.write("out/index.html", page.Page(
    title="Where a model keeps a fact",
    lead="Attribution of SmolLM2-135M.",
    source="Model: smollm2-135m. Made by `python my_script.py`.",
    sections=[page.Section("Scores", [page.Text("..."), page.Chart(fig, "What one sees.", n="4 prompts")])],
))
```

plotly.js is in the file once, however many figures there are. The page follows the reader's light or dark setting, and
a button changes it; it follows the width of the window; every figure has a caption that says what it was made from, and
buttons that save it as PNG and SVG.
"""

from kntools.report.page.blocks import Block, Chart, Command, Links, Notes, Page, Section, Table, Text
from kntools.report.page.html import render, write

__all__ = ["Block", "Chart", "Command", "Links", "Notes", "Page", "Section", "Table", "Text", "render", "write"]
