"use strict";

// A figure on the page: its title, what can be done with it, the figure, a note.
(function (treepo) {
  function enlarge(title, build, zoom) {
    const { dom } = treepo;
    const holder = dom.element("div", { className: "graph" });
    const opened = dom.dialog(title, holder);
    opened.classList.add("large");
    let own = zoom();
    const graph = treepo.graph(holder, build, (chosen) => graph.draw((own = chosen)), {
      isTitled: true, zoomsByTouch: true,
    });
    const redraw = () => graph.draw(own);
    addEventListener("resize", redraw);
    opened.addEventListener("close", () => {
      removeEventListener("resize", redraw);
      graph.remove();
    });
    redraw();
  }

  // `title`, `unit`, `note`, `hint` are texts; `build` makes the figure (see graph.js); `zoom()` is what is zoomed
  // into, and `onZoom` told of another choice; `controls` are elements beside the title.
  treepo.card = (card) => {
    const { title, unit = "", note = "", hint = "", build, zoom, onZoom, controls = [] } = card;
    const { dom } = treepo;
    const named = dom.visible(title);
    const holder = dom.element("div", { className: "graph" });
    const buttons = dom.element("span", { className: "actions" },
      dom.button("enlarge", () => enlarge(named, build, zoom), { className: "quiet" }),
      dom.button("save", () => treepo.saveDialog(named, build, zoom()), { className: "quiet" }));
    const name = dom.element("h3", { title: dom.visible(hint) }, named);
    const measured = dom.element("span", { className: "unit", hidden: !unit }, dom.visible(unit));
    const heading = dom.element("header", {}, name, measured, ...controls, buttons);
    const made = dom.element("article", { className: "card" }, heading, holder);
    if (note) made.append(dom.element("p", { className: "note" }, dom.visible(note)));
    const graph = treepo.graph(holder, build, onZoom);
    return { element: made, zoom, draw: () => graph.draw(zoom()), remove: () => graph.remove() };
  };
})((globalThis.treepo ??= {}));
