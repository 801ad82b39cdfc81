"use strict";

// The section of charts that come ready made: benchmarks, evaluations.
(function (treepo) {
  const text = (shown) => treepo.plot.escape(shown ?? "");
  const MOST_TICKS = 12;
  const LONG_TICK = 24;
  // Of the axis, between two ticks that can be read.
  const LEAST_GAP = 0.04;
  // More names beside points hide each other.
  const MOST_NAMED = 24;
  const SYMBOLS = ["circle", "diamond", "square", "triangle-up", "cross", "x"];

  // On a logarithmic axis of few values, as 4, 8, 16, these are the ticks where they leave room for each other.
  function axisType(chart, name) {
    if (!chart[name].log) return {};
    const values = [...new Set(chart.series.flatMap((series) => series[name]))].sort((a, b) => a - b);
    const least = LEAST_GAP * Math.log(values.at(-1) / values[0]);
    const isApart = values.every((value, i) => !i || Math.log(value / values[i - 1]) >= least);
    const isRegular = name === "x" && chart.kind !== "bar" && values.length <= MOST_TICKS && isApart;
    return { type: "log", ...(isRegular ? { tickvals: values } : {}) };
  }

  // Long names at the axis would be cut by the edge of the card; on hovering they are read in full.
  function shortTicks({ series }) {
    const names = [...new Set(series.flatMap(({ x }) => x))].map(String);
    if (names.every((name) => name.length <= LONG_TICK)) return {};
    const ticktext = names.map((name) => text(name.length > LONG_TICK ? `${name.slice(0, LONG_TICK - 1)}…` : name));
    return { tickmode: "array", tickvals: names.map(text), ticktext };
  }

  function errorBars(series, colour) {
    if (!series.low || !series.high) return {};
    const above = series.y.map((y, i) => (series.high[i] ?? y) - y);
    const below = series.y.map((y, i) => y - (series.low[i] ?? y));
    const size = { array: above, arrayminus: below, symmetric: false };
    return { error_y: { type: "data", ...size, color: colour, thickness: 1.2 } };
  }

  // Shares in percent, others without an exponent: 19,000 and not 1.9e+4.
  const format = (axis) => (axis.percent ? ".1%" : ",.4~r");

  function hoverOf({ kind, x, y }, { text: texts }) {
    const where = kind === "scatter" ? `%{x:${format(x)}}, %{y:${format(y)}}` : `%{y:${format(y)}}`;
    return texts ? { text: texts.map(text), hovertemplate: `${where} %{text}` } : { hovertemplate: where };
  }

  function seriesTrace(chart, series, k, palette) {
    const { kind } = chart;
    const look = treepo.plot.line(palette, k);
    const common = {
      x: series.x.map((x) => (typeof x === "string" ? text(x) : x)), y: series.y, name: treepo.plot.name(series.name),
      ...errorBars(series, kind === "bar" ? palette.text : look.color), ...hoverOf(chart, series),
    };
    if (kind === "bar") return { ...common, type: "bar", textposition: "none", marker: { color: look.color } };
    const isLine = kind === "line";
    const trace = {
      ...common, type: "scatter", mode: isLine ? "lines+markers" : "markers", connectgaps: true,
      line: { ...look, width: 1.8 }, marker: { color: look.color, size: isLine ? 6 : 9 },
    };
    return kind === "scatter" && series.text ? { ...trace, ...namedPoints(chart, series, k, palette) } : trace;
  }

  // Points that have names: a symbol for each name, and the name beside those of the first series, on the inner side.
  function namedPoints(chart, series, k, palette) {
    const names = [...new Set(chart.series.flatMap((own) => own.text ?? []))];
    const symbols = series.text.map((name) => SYMBOLS[names.indexOf(name) % SYMBOLS.length]);
    const isFew = names.length <= MOST_NAMED;
    const [low, high] = d3.extent(chart.series.flatMap((own) => own.x));
    return {
      mode: isFew && k === 0 ? "markers+text" : "markers",
      marker: { color: treepo.plot.line(palette, k).color, size: 9, symbol: symbols },
      text: series.text.map(treepo.plot.name), textfont: { size: 10, color: palette.muted },
      textposition: series.x.map((x) => (x > (low + high) / 2 ? "middle left" : "middle right")),
      error_y: { ...errorBars(series, palette.muted).error_y },
    };
  }

  const short = (value) => d3.format(Math.abs(value) >= 1000 ? ".3~s" : ".3~g")(value);

  // Values are written into the cells, in what is read best on the cell's colour.
  function heatmapTrace(chart, palette) {
    const label = (value) => text(String(value));
    const shown = { x: "%{x}", y: "%{y}", z: "%{z:,.4~r}" };
    const titles = { x: chart.x.title, y: chart.y.title, z: chart.z_title };
    const lines = Object.entries(shown).map(([name, value]) => `${text(titles[name])} ${value}`);
    // Ratios have a middle, of which both sides have a colour of their own; other values go from little to much.
    const middle = chart.z_mid ?? null;
    const scale = middle === null ? [[0, palette.mid], [1, palette.accent]]
      : [[0, palette.low], [0.5, palette.mid], [1, palette.high]];
    const cells = chart.z.map((row) => row.map((value) => (value === null ? "" : short(value))));
    return {
      type: "heatmap", x: chart.x.values.map(label), y: chart.y.values.map(label), z: chart.z,
      colorscale: scale, ...(middle === null ? {} : { zmid: middle }),
      text: cells, texttemplate: "%{text}", xgap: 2, ygap: 2, hoverongaps: false,
      hovertemplate: `${lines.join("<br>")}<extra></extra>`,
      colorbar: { title: { text: text(chart.z_title), side: "right" }, thickness: 10, outlinewidth: 0 },
    };
  }

  function dataOf(chart, palette) {
    if (chart.kind === "heatmap") return [heatmapTrace(chart, palette)];
    return chart.series.map((series, k) => seriesTrace(chart, series, k, palette));
  }

  function build(chart, { zoom, palette, isTitled, ...layout }) {
    const isGrid = chart.kind === "heatmap";
    const range = (axis) => (zoom[axis] ? { range: zoom[axis] } : { autorange: true });
    const category = (name) => {
      if (isGrid) return { type: "category", showgrid: false };
      return chart.kind === "bar" && name === "x" ? { showgrid: false, ...shortTicks(chart) } : {};
    };
    const axis = (name) => ({
      ...(chart[name].percent ? { tickformat: ".0%" } : {}), ...category(name), ...axisType(chart, name),
      ...range(name), title: { text: text(chart[name].title) },
    });
    const hovermode = isGrid || chart.kind === "scatter" ? "closest" : "x unified";
    const showlegend = !isGrid && chart.series.length > 1;
    return {
      data: dataOf(chart, palette),
      layout: treepo.plot.layout(palette, { x: axis("x"), y: axis("y"), showlegend, hovermode, ...layout }),
    };
  }

  class View {
    constructor(element, payload) {
      this.charts = new Map();
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
        build: (frame) => build(this.charts.get(id), frame),
        zoom,
        onZoom: (chosen) => {
          this.zooms.set(id, chosen);
          card.draw();
        },
      });
      this.lazy.add(card);
      return card.element;
    }

    update({ charts }) {
      this.charts = new Map(charts.map((chart) => [chart.id, chart]));
      const key = JSON.stringify(charts.map(({ id, title, note }) => [id, title, note]));
      if (key === this.key) return this.lazy.refresh();
      this.key = key;
      this.lazy.clear();
      return this.grid.replaceChildren(...charts.map((chart) => this.card(chart)));
    }

    theme() {
      this.lazy.refresh();
    }
  }

  treepo.resultCharts = { mount: (element, payload) => new View(element, payload) };
})((globalThis.treepo ??= {}));
