"use strict";

// A figure on the page: its title, what can be done with it, the figure, a note.
(function (treepo) {
  const LONG_NOTE = 120;

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

  // A long note shows its first part until it is opened: figures of one file have the same, line after line.
  function noteElement(note) {
    const { element } = treepo.dom;
    if (note.length <= LONG_NOTE || !note.includes("; ")) return element("p", { className: "note" }, note);
    const at = note.indexOf("; ");
    const summary = element("summary", {}, note.slice(0, at));
    return element("details", { className: "note" }, summary, note.slice(at + 2));
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
    if (note) made.append(noteElement(dom.visible(note)));
    const graph = treepo.graph(holder, build, onZoom);
    return { element: made, zoom, draw: () => graph.draw(zoom()), remove: () => graph.remove() };
  };
})((globalThis.treepo ??= {}));
