(() => {
  const templates = JSON.parse(document.getElementById("templates").textContent);
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 40rem)");
  const toggle = document.getElementById("theme");

  // The system's theme until somebody chooses; a choice lasts as long as the tab, where a browser lets a page keep it.
  let chosen = null;
  try { chosen = sessionStorage.getItem("theme"); } catch { /* a page from disk may not be allowed to */ }
  const isDark = () => (chosen ? chosen === "dark" : system.matches);

  // Figures have no title of their own here (it is a heading), and on a narrow screen the colour bar lies on top.
  function layoutOf(spec) {
    const layout = structuredClone(spec.layout);
    layout.template = isDark() ? templates.dark : templates.light;
    // Names of panels, of a line or more, stand where the legend would.
    const names = (layout.annotations ?? []).filter((a) => a.yref === "paper" && a.y >= 1);
    const above = 21 * Math.max(0, ...names.map((a) => a.text.split("<br>").length));
    layout.margin = { r: 12, ...layout.margin, t: layout.showlegend === false ? Math.max(24, above + 3) : 56 };
    if (above && layout.showlegend !== false) {
      layout.margin.t = above + 67;
      layout.legend = { ...layout.legend, y: 1 + (above + 5) / (layout.height - layout.margin.t - 56) };
    }
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
      const config = { responsive: true, scrollZoom: false, displayModeBar: false };
      Plotly.react(div, spec.data, layoutOf(spec), config);
    }
  }

  function show() {
    root.dataset.theme = isDark() ? "dark" : "light";
    toggle.setAttribute("aria-pressed", String(isDark()));
    draw();
  }

  toggle.addEventListener("click", () => {
    chosen = isDark() ? "light" : "dark";
    try { sessionStorage.setItem("theme", chosen); } catch { /* then until the page is left */ }
    show();
  });

  // A saved picture stands alone: it has its heading as a title.
  function save(button) {
    const plot = plots.find(({ div }) => div.id === button.dataset.of + "-plot");
    const layout = layoutOf(plot.spec);
    const size = { width: Math.max(plot.div.clientWidth, 800), height: plot.div.clientHeight + 40 };
    layout.margin.t += 40;
    layout.title = { text: document.getElementById(button.dataset.of + "-title").innerHTML, yref: "container", y: 0.98, yanchor: "top" };
    const options = { format: button.dataset.save, filename: button.dataset.file, ...size };
    if (options.format === "png") options.scale = 2;
    return Plotly.downloadImage({ data: plot.spec.data, layout: { ...layout, ...size } }, options);
  }

  // Where a page may not write to the clipboard, the text is selected, so that it can be copied by hand.
  async function copy(button) {
    const code = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
  }

  for (const [kind, act] of [["[data-save]", save], ["[data-copy]", copy]]) {
    for (const button of document.querySelectorAll(kind)) {
      button.hidden = false;
      button.addEventListener("click", () => act(button));
    }
  }
  toggle.hidden = false;

  function fit() {
    // A figure that is wider than the screen is drawn smaller: it can be enlarged with two fingers.
    for (const box of document.querySelectorAll(".fit")) {
      const inner = box.firstElementChild;
      const scale = Math.min(1, box.clientWidth / inner.offsetWidth);
      inner.style.transform = scale < 1 ? `scale(${scale})` : "";
      box.style.height = scale < 1 ? `${inner.offsetHeight * scale}px` : "";
    }
    // A table that does not fit scrolls in its own box, and says so.
    for (const box of document.querySelectorAll(".scroll")) {
      box.toggleAttribute("data-wide", box.scrollWidth > box.clientWidth);
    }
  }
  const sizes = new ResizeObserver(() => requestAnimationFrame(fit));
  for (const box of document.querySelectorAll(".fit, .fit > div, .scroll")) sizes.observe(box);

  show();
  const cards = JSON.parse(document.getElementById("cards").textContent);
  for (const { div, spec } of plots) attachCards(div, spec.data, cards);
  system.addEventListener("change", show);
  narrow.addEventListener("change", draw);
  root.dataset.drawn = String(plots.length);
})();
