"use strict";

// Plotly's figure of a chart of metrics.
(function (treepo) {
  const FEW = 12;
  // More bands than these hide each other, and more lines do not fit into what is shown on hovering over a small chart.
  const MOST_BANDS = 3;
  const MOST_TOLD = 8;
  // Below it 2 x 10^-4 is read more easily than 200 millionths.
  const TINY = 0.005;

  // Evaluations and short runs: points that are worth seeing one by one.
  const isSparse = (points, run) => points.x.length <= FEW || points.x.length < run.steps.length / 2;

  const told = (chart, value) =>
    `%{${value}:${chart.format ?? ".4~g"}}${chart.suffix ?? (chart.unit ? ` ${treepo.plot.escape(chart.unit)}` : "")}`;

  // `look` is {color, dash}; `view` says what the reader chose: {x: Map of runs to their x, smoothing}.
  function lineTraces(chart, run, metric, name, look, view) {
    const points = treepo.series.points(view.x.get(run), run.metrics[metric] ?? []);
    if (!points.x.length) return [];
    const sparse = isSparse(points, run);
    const trace = {
      ...points, name, type: "scatter", mode: sparse ? "lines+markers" : "lines",
      line: { ...look, width: 1.8 }, marker: { color: look.color, size: 5 }, hovertemplate: told(chart, "y") + view.own,
    };
    if (sparse || !view.smoothing) return [trace];
    const raw = { ...trace, line: { ...look, width: 1 }, opacity: 0.3, hoverinfo: "skip", hovertemplate: undefined };
    const smoothed = { ...trace, y: treepo.series.smooth(points.y, view.smoothing), customdata: points.y };
    smoothed.hovertemplate = `${told(chart, "y")} (raw ${told(chart, "customdata")})${view.own}`;
    return [{ ...raw, showlegend: false }, smoothed];
  }

  function bandTraces(chart, run, look, view) {
    const edges = [chart.low, chart.high].map((name) => treepo.series.points(view.x.get(run), run.metrics[name] ?? []));
    if (edges.some((edge) => !edge.x.length)) return [];
    const edge = { type: "scatter", mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false };
    const fill = { fill: "tonexty", fillcolor: treepo.plot.faint(look.color, 0.14) };
    return [{ ...edges[0], ...edge }, { ...edges[1], ...edge, ...fill }];
  }

  function stackTraces(chart, run, palette, view) {
    const x = view.x.get(run);
    const metrics = chart.parts.map((part) => run.metrics[part.metric] ?? []);
    const steps = x.map((_, i) => i).filter((i) => metrics.some((values) => (values[i] ?? null) !== null));
    return chart.parts.map((part, k) => {
      const { color } = treepo.plot.line(palette, k);
      return {
        x: steps.map((i) => x[i]), y: steps.map((i) => metrics[k][i] ?? 0), name: treepo.plot.name(part.label),
        type: "scatter", mode: "lines", stackgroup: "all", line: { color, width: 0.8 },
        fillcolor: treepo.plot.faint(color, 0.55), hovertemplate: told(chart, "y"),
      };
    });
  }

  // The parts that are there at all: "repetition" is of no use to the reader of a run that knows none.
  function present(chart, [run]) {
    const some = chart.parts.filter(({ metric }) => run?.metrics[metric]?.some(Boolean));
    return some.length ? { ...chart, parts: some } : chart;
  }

  function dataOf(chart, runs, palette, view) {
    if (chart.stacked) return runs.flatMap((run) => stackTraces(chart, run, palette, view));
    if (chart.ofOneRun) {
      return runs.flatMap((run) => chart.parts.flatMap((part, k) =>
        lineTraces(chart, run, part.metric, treepo.plot.name(part.label), treepo.plot.line(palette, k), view)));
    }
    const { metric } = chart.parts[0];
    const looks = runs.map((run) => treepo.plot.line(palette, run.colour));
    const hasBands = chart.low && runs.length <= MOST_BANDS;
    const bands = hasBands ? runs.flatMap((run, i) => bandTraces(chart, run, looks[i], view)) : [];
    const lines = runs.flatMap((run, i) => {
      return lineTraces(chart, run, metric, treepo.plot.name(run.name), looks[i], view);
    });
    return [...bands, ...lines];
  }

  function yRange(chart, data, zoom) {
    if (zoom.y) return { range: zoom.y };
    const visible = zoom.x && !chart.stacked ? treepo.series.extent(data, zoom.x) : null;
    if (visible) return { range: visible };
    // Around values that are all 0 there would be as much room below, where none can be.
    const isFromZero = chart.fromZero || chart.stacked || data.every(({ y }) => y.every((value) => value === 0));
    return { autorange: true, rangemode: isFromZero ? "tozero" : "normal" };
  }

  const isTiny = (data) => data.every(({ y }) => y.every((value) => Math.abs(value) < TINY));

  // The figure of `runs`, those to show. `frame` is {palette, isTitled, ...layout}; `zoom` {x, y}: ranges or null.
  treepo.metricFigure = (chart, runs, view, zoom, { palette, isTitled, ...layout }) => {
    const data = dataOf(chart.ofOneRun ? present(chart, runs) : chart, runs, palette, view);
    const title = chart.unit ? `${chart.title}, ${chart.unit}` : chart.title;
    const x = { ...(zoom.x ? { range: zoom.x } : { autorange: true }), showgrid: false };
    Object.assign(x, { spikecolor: palette.muted, spikedash: "dot", spikethickness: 1 });
    x.unifiedhovertitle = { text: view.hover };
    x.automargin = isTitled;
    const isShare = chart.format?.endsWith("%");
    const y = { ...yRange(chart, data, zoom), exponentformat: isTiny(data) ? "power" : "SI" };
    if (chart.suffix) y.ticksuffix = chart.suffix;
    if (isShare) y.tickformat = ".3~%";
    // A figure without titles has its unit at the numbers.
    if (!isTitled) x.ticksuffix = view.suffix;
    if (isTitled) {
      x.title = { text: treepo.plot.escape(view.title) };
      y.title = { text: treepo.plot.escape(title) };
    }
    const showlegend = chart.parts.length > 1 || (isTitled && runs.length > 1);
    const hovermode = isTitled || runs.length * chart.parts.length <= MOST_TOLD ? "x unified" : "closest";
    return { data, layout: treepo.plot.layout(palette, { x, y, showlegend, hovermode, ...layout }) };
  };
})((globalThis.treepo ??= {}));
