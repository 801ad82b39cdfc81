"use strict";

// A chart of metrics on the page.
(function (treepo) {
  // The choice of the run whose parts a chart shows. Its element is hidden while there is nothing to choose.
  function runChoice(view, redraw) {
    const { dom } = treepo;
    const select = dom.element("select", { ariaLabel: "run" });
    select.addEventListener("change", redraw);
    const current = () => view.runs().find((run) => run.name === select.value) ?? view.runs()[0];

    function update() {
      const kept = current()?.name;
      const options = view.runs().map(({ name }) =>
        dom.element("option", { value: name, selected: name === kept }, dom.visible(name)));
      select.replaceChildren(...options);
      select.hidden = options.length < 2;
    }
    return { element: select, current, update };
  }

  // `view` is the section's: runs(), seen(), zoom {x} and isLinked; `onZoom(card, chosen)` is told of a zoom.
  treepo.curveCard = (chart, view) => {
    let own = treepo.graph.FREE;
    const choice = runChoice(view, () => card.draw());
    const runs = () => (chart.ofOneRun ? [choice.current()].filter(Boolean) : view.runs());

    const card = treepo.card({
      title: chart.title,
      unit: chart.unit,
      note: chart.note,
      hint: treepo.charts.metrics(chart).join(", "),
      controls: chart.ofOneRun ? [choice.element] : [],
      build: ({ zoom, ...frame }) => treepo.metricFigure(chart, runs(), view.seen(), zoom, frame),
      zoom: () => ({ x: view.isLinked() ? view.zoomX() : own.x, y: own.y }),
      onZoom: (chosen) => view.onZoom(card, chosen),
    });
    choice.update();
    const { draw } = card;
    card.draw = () => {
      choice.update();
      return draw();
    };
    card.setZoom = (chosen) => (own = chosen);
    card.setZoomX = (x) => (own = { ...own, x });
    return card;
  };
})((globalThis.treepo ??= {}));
