"use strict";

// The section of curves: groups of charts, with one choice of axis, smoothing and zoom for all of them.
(function (treepo) {
  const LARGEST_SMOOTHING = 0.98;

  // `choose(changes)` is told what the reader chose, `reset()` that everything is to be seen again.
  function toolbar(choose, resetButton) {
    const { dom, series } = treepo;
    const axes = Object.entries(series.AXES).map(([key, axis]) => [key, axis.label]);
    const search = dom.element("input", { type: "search", placeholder: "find a metric", ariaLabel: "find a metric" });
    search.addEventListener("input", () => choose({ query: search.value.trim() }));
    const slider = dom.element("input", { type: "range", min: 0, max: LARGEST_SMOOTHING, step: 0.02, value: 0 });
    slider.addEventListener("input", () => choose({ smoothing: Number(slider.value) }));
    return dom.element("div", { className: "bar tools" },
      search,
      dom.choice("against", axes, "step", (axis) => choose({ axis })),
      dom.element("label", { className: "field" }, dom.element("span", {}, "smoothing"), slider),
      dom.checkbox("zoom all together", true, (isLinked) => choose({ isLinked })),
      resetButton);
  }

  function groupElement({ title, charts }, makeCard) {
    const { dom } = treepo;
    const grid = dom.element("div", { className: "grid" }, ...charts.map((chart) => makeCard(chart).element));
    const isFirst = title === treepo.charts.FIRST;
    return dom.element("section", { className: isFirst ? "group first" : "group" }, dom.element("h2", {}, title), grid);
  }

  // What the reader looks at, and the cards that show it.
  class View {
    constructor(element, payload) {
      this.payload = payload;
      this.state = { axis: "step", smoothing: 0, query: "", isLinked: true };
      this.linkedX = null;
      this.cards = [];
      this.key = "";
      this.lazy = treepo.lazy();
      this.headlines = treepo.dom.element("div", { className: "headlines" });
      this.groups = treepo.dom.element("div", { className: "groups" });
      this.reset = treepo.dom.button("show everything", () => this.free(), { hidden: true });
      element.append(this.headlines, toolbar((changes) => this.choose(changes), this.reset), this.groups);
      this.build();
    }

    runs() {
      return this.payload.runs;
    }

    isLinked() {
      return this.state.isLinked;
    }

    zoomX() {
      return this.linkedX;
    }

    // x of all runs, and what it is called.
    seen() {
      const { axis, smoothing } = this.state;
      this.axes ??= (() => {
        const unit = treepo.series.timeUnit(this.runs());
        const x = new Map(this.runs().map((run) => [run, treepo.series.axis(run, axis, unit)]));
        const { title, suffix, hover, own } = treepo.series.AXES[axis];
        return { x, title: title(unit), suffix: suffix(unit), hover: hover(unit), own: own(unit) };
      })();
      return { ...this.axes, smoothing };
    }

    build() {
      this.headlines.replaceChildren(...treepo.headlines(this.runs()));
      const names = treepo.charts.names(this.runs());
      const { query } = this.state;
      const found = { title: "Metrics found", charts: treepo.charts.search(names, query) };
      const groups = query ? [found] : treepo.charts.groups(names);
      const key = JSON.stringify([query, groups.map((group) => group.charts.map((chart) => chart.parts))]);
      if (key === this.key) return this.lazy.refresh();
      this.key = key;
      this.lazy.clear();
      this.cards = [];
      const reason = query ? "No metric has these words in its name." : "No run is shown.";
      const nothing = treepo.dom.element("p", { className: "note" }, reason);
      const some = groups.filter((group) => group.charts.length);
      const filled = some.map((group) => groupElement(group, (chart) => this.add(chart)));
      this.groups.replaceChildren(...(filled.length ? filled : [nothing]));
      return undefined;
    }

    add(chart) {
      const card = treepo.curveCard(chart, this);
      this.cards.push(card);
      this.lazy.add(card);
      return card;
    }

    choose(changes) {
      const before = this.state;
      this.state = { ...before, ...changes };
      if (this.state.axis !== before.axis) {
        this.axes = null;
        this.linkedX = null;
        for (const card of this.cards) card.setZoomX(null);
      }
      this.showReset();
      if (this.state.query === before.query) this.lazy.refresh();
      else this.build();
    }

    // A zoom along one axis alone leaves the other as it was; none at all shows everything.
    onZoom(card, chosen) {
      const isFree = !chosen.x && !chosen.y;
      const before = card.zoom();
      const zoom = isFree ? chosen : { x: chosen.x ?? before.x, y: chosen.y ?? before.y };
      card.setZoom(zoom);
      if (this.state.isLinked) this.linkedX = zoom.x;
      this.showReset();
      if (this.state.isLinked) this.lazy.refresh();
      else card.draw();
    }

    free() {
      this.linkedX = null;
      for (const card of this.cards) card.setZoom(treepo.graph.FREE);
      this.showReset();
      this.lazy.refresh();
    }

    showReset() {
      this.reset.hidden = !this.cards.some((card) => card.zoom().x || card.zoom().y);
    }

    update(payload) {
      this.payload = payload;
      this.axes = null;
      this.build();
    }

    theme() {
      this.lazy.refresh();
    }
  }

  treepo.curves = { mount: (element, payload) => new View(element, payload) };
})((globalThis.treepo ??= {}));
