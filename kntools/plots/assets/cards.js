// A click on a neuron of a figure opens its card beside the figure: on pages, and in the widget of a notebook.
const NEURON = /^L\d+\.N\d+$/;

// The neuron of a point: by its text (cells, dots) or by its place on an axis (bars).
function neuronOf(point) {
  const at = [point.pointNumber].flat();
  const texts = [point.data.text, point.data.hovertext].map((list) => at.reduce((part, n) => part?.[n], list));
  return [...texts, point.y, point.x].find((value) => NEURON.test(value));
}

function neuronsIn(data) {
  const lists = data.flatMap((trace) => [trace.text, trace.hovertext, trace.y, trace.x]).filter(Array.isArray);
  return new Set(lists.flatMap((list) => list.flat()).filter((value) => NEURON.test(value)));
}

// `cards` has the HTML of each card by the name of its neuron; `command` is what to type for another {neuron}.
function attachCards(plot, data, { cards, command }) {
  const named = neuronsIn(data);
  if (!named.size) return;
  const make = (tag, className, ...content) => {
    const element = document.createElement(tag);
    element.className = className;
    element.append(...content);
    return element;
  };
  const button = (text, act) => {
    const element = make("button", "", text);
    element.type = "button";
    element.addEventListener("click", act);
    return element;
  };
  const panel = make("aside", "card");
  panel.hidden = true;
  panel.tabIndex = -1;
  const show = (...content) => {
    panel.replaceChildren(...content);
    panel.hidden = !content.length;
    Plotly.Plots.resize(plot);
  };
  const open = (name) => {
    const card = make("div", "");
    if (Object.hasOwn(cards, name)) card.innerHTML = cards[name];
    else card.append(make("p", "", `The card of ${name} is not here. To make it:`), make("code", "", command.replace("{neuron}", name)));
    panel.setAttribute("aria-label", `Card of neuron ${name}`);
    show(button("Close", () => show()), card);
    panel.focus({ preventScroll: true });
  };
  panel.addEventListener("keydown", (event) => event.key === "Escape" && show());
  plot.on("plotly_click", ({ points }) => {
    const name = points.map(neuronOf).find(Boolean);
    if (name) open(name);
  });
  plot.parentElement.classList.add("beside");
  plot.after(panel);
  const own = Object.keys(cards).filter((name) => named.has(name));
  const hint = own.length ? "Click on a neuron for its card:" : "Click on a neuron to see how to make its card.";
  plot.parentElement.after(make("p", "cards", hint, ...own.map((name) => button(name, () => open(name)))));
}
