"use strict";
(() => {
  const templates = JSON.parse(document.getElementById("templates").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 40rem)");

  // Figures have no title of their own here (it is a heading), and on a narrow screen the colour bar lies on top.
  function layoutOf(spec) {
    const layout = structuredClone(spec.layout);
    layout.template = dark.matches ? templates.dark : templates.light;
    layout.margin = { ...layout.margin, t: layout.showlegend === false ? 24 : 56, r: 12 };
    if (narrow.matches) {
      const bar = layout.coloraxis && layout.coloraxis.colorbar;
      if (bar && layout.coloraxis.showscale !== false) {
        Object.assign(bar, { orientation: "h", x: 0.5, xanchor: "center", y: 1.02, yanchor: "bottom", len: 1, thickness: 10 });
        bar.title = { ...bar.title, side: "top" };
        layout.margin.t = 72;
        layout.legend = { ...layout.legend, y: -0.22, yanchor: "top" };
      }
      for (const axis of [layout.xaxis, layout.yaxis]) {
        if (axis && axis.title) axis.title.font = { size: 12 };
      }
    }
    return layout;
  }

  const plots = [...document.querySelectorAll("script[data-plot]")].map((script) => ({
    div: document.getElementById(script.dataset.plot),
    spec: JSON.parse(script.textContent),
  }));

  function draw() {
    for (const { div, spec } of plots) {
      const config = { responsive: true, displaylogo: false, scrollZoom: false, displayModeBar: narrow.matches ? false : "hover" };
      Plotly.react(div, spec.data, layoutOf(spec), config);
    }
  }

  draw();
  for (const query of [dark, narrow]) query.addEventListener("change", draw);
  document.documentElement.dataset.drawn = String(plots.length);
})();
