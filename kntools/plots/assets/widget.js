// The widget of a notebook: a figure and the cards of its neurons. `cards.js` stands before it.
export default {
  render({ model, el }) {
    const plot = document.createElement("div"), place = document.createElement("div");
    plot.className = "plot";
    place.append(plot);
    el.append(place);
    const { data, layout } = JSON.parse(model.get("figure"));
    Plotly.newPlot(plot, data, layout, { responsive: true }).then(() =>
      attachCards(plot, data, { cards: JSON.parse(model.get("cards")), command: model.get("command") }));
  },
};
