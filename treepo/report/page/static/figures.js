"use strict";

// The section of figures that come ready made: benchmarks, evaluations.
(function (treepo) {
  const text = (shown) => treepo.plot.escape(shown ?? "");
  const MOST_TICKS = 12;

  // On a logarithmic axis of few values, as 4, 8, 16, these are the ticks.
  function axisType(figure, name) {
    if (!figure[name].log) return {};
    const values = [...new Set(figure.series.flatMap((series) => series[name]))].sort((a, b) => a - b);
    const isRegular = name === "x" && figure.kind === "line" && values.length <= MOST_TICKS;
    return { type: "log", ...(isRegular ? { tickvals: values } : {}) };
  }

  function errorBars(series, colour) {
    if (!series.low || !series.high) return {};
    const above = series.y.map((y, i) => (series.high[i] ?? y) - y);
    const below = series.y.map((y, i) => y - (series.low[i] ?? y));
    const size = { array: above, arrayminus: below, symmetric: false };
    return { error_y: { type: "data", ...size, color: colour, thickness: 1.2 } };
  }

  function hoverOf(kind, { text: texts }) {
    const where = kind === "scatter" ? "%{x:.4~g}, %{y:.4~g}" : "%{y:.4~g}";
    return texts ? { text: texts.map(text), hovertemplate: `${where} %{text}` } : { hovertemplate: where };
  }

  function seriesTrace(kind, series, look, palette) {
    const common = {
      x: series.x.map((x) => (typeof x === "string" ? text(x) : x)), y: series.y, name: treepo.plot.name(series.name),
      ...errorBars(series, kind === "bar" ? palette.text : look.color), ...hoverOf(kind, series),
    };
    if (kind === "bar") return { ...common, type: "bar", textposition: "none", marker: { color: look.color } };
    const isLine = kind === "line";
    return {
      ...common, type: "scatter", mode: isLine ? "lines+markers" : "markers", connectgaps: true,
      line: { ...look, width: 1.8 }, marker: { color: look.color, size: isLine ? 6 : 9 },
    };
  }

  // Values are written into the cells, in what is read best on the cell's colour.
  function heatmapTrace(figure, palette) {
    const label = (value) => text(String(value));
    const lines = [`${text(figure.x.title)} %{x}`, `${text(figure.y.title)} %{y}`, `${text(figure.z_title)} %{z:.4~g}`];
    return {
      type: "heatmap", x: figure.x.values.map(label), y: figure.y.values.map(label), z: figure.z,
      colorscale: [[0, palette.low], [0.5, palette.mid], [1, palette.high]],
      texttemplate: "%{z:.3~g}", xgap: 2, ygap: 2, hoverongaps: false,
      hovertemplate: `${lines.join("<br>")}<extra></extra>`,
      colorbar: { title: { text: text(figure.z_title), side: "right" }, thickness: 10, outlinewidth: 0 },
    };
  }

  function dataOf(figure, palette) {
    if (figure.kind === "heatmap") return [heatmapTrace(figure, palette)];
    return figure.series.map((series, i) => seriesTrace(figure.kind, series, treepo.plot.line(palette, i), palette));
  }

  function build(figure, { zoom, palette, isTitled, ...layout }) {
    const isGrid = figure.kind === "heatmap";
    const range = (axis) => (zoom[axis] ? { range: zoom[axis] } : { autorange: true });
    const category = (name) => {
      if (isGrid) return { type: "category", showgrid: false };
      return figure.kind === "bar" && name === "x" ? { showgrid: false } : {};
    };
    const axis = (name) => ({
      ...category(name), ...axisType(figure, name), ...range(name), title: { text: text(figure[name].title) },
    });
    const hovermode = isGrid || figure.kind === "scatter" ? "closest" : "x unified";
    const showlegend = !isGrid && figure.series.length > 1;
    return {
      data: dataOf(figure, palette),
      layout: treepo.plot.layout(palette, { x: axis("x"), y: axis("y"), showlegend, hovermode, ...layout }),
    };
  }

  class View {
    constructor(element, payload) {
      this.figures = new Map();
      this.zooms = new Map();
      this.key = "";
      this.lazy = treepo.lazy();
      this.grid = treepo.dom.element("div", { className: "grid wide" });
      element.append(this.grid);
      this.update(payload);
    }

    card({ id, title, note }) {
      const zoom = () => this.zooms.get(id) ?? treepo.graph.FREE;
      const card = treepo.card({
        title,
        note,
        build: (frame) => build(this.figures.get(id), frame),
        zoom,
        onZoom: (chosen) => {
          this.zooms.set(id, chosen);
          card.draw();
        },
      });
      this.lazy.add(card);
      return card.element;
    }

    update({ figures }) {
      this.figures = new Map(figures.map((figure) => [figure.id, figure]));
      const key = JSON.stringify(figures.map(({ id, title, note }) => [id, title, note]));
      if (key === this.key) return this.lazy.refresh();
      this.key = key;
      this.lazy.clear();
      return this.grid.replaceChildren(...figures.map((figure) => this.card(figure)));
    }

    theme() {
      this.lazy.refresh();
    }
  }

  treepo.figures = { mount: (element, payload) => new View(element, payload) };
})((globalThis.treepo ??= {}));
