"use strict";

(function (treepo) {
  const d3 = globalThis.d3;
  const ROW = 26;
  const MARGIN = { left: 84, right: 12, top: 24 };

  /** The figure of what trajectories share: a bar each, to scale in tokens, equal stretches in equal colours. */
  function compareOverview(element, { hover, choose }) {
    const svg = d3
      .select(element)
      .append("svg")
      .attr("class", "overview")
      .attr("role", "img")
      .attr("aria-label", "What the trajectories share");
    const layers = { axis: svg.append("g"), rows: svg.append("g") };
    const blockAt = (event) => event.target.closest?.("[data-block]")?.dataset.block ?? null;
    svg.on("pointermove", (event) => hover(blockAt(event), event)).on("pointerleave", (event) => hover(null, event));
    svg.on("click", (event) => blockAt(event) !== null && choose(blockAt(event)));
    return {
      svg: svg.node(),
      show: (columns, colourOf, palette) => draw(svg, layers, element, columns, colourOf, palette),
    };
  }

  function draw(svg, layers, element, columns, colourOf, palette) {
    const width = Math.max(280, element.clientWidth);
    const height = MARGIN.top + columns.length * ROW + 4;
    const most = Math.max(1, ...columns.map((column) => column.length));
    const x = d3.scaleLinear([0, most], [MARGIN.left, width - MARGIN.right]);
    svg
      .attr("viewBox", `0 0 ${width} ${height}`)
      .attr("width", width)
      .attr("height", height)
      .attr("font-family", "system-ui, sans-serif")
      .attr("font-size", 11);
    drawAxis(layers.axis, x, width, palette);
    const rows = layers.rows
      .selectAll("g.row")
      .data(columns)
      .join(enterRow)
      .attr("transform", (_, i) => `translate(0,${MARGIN.top + i * ROW})`);
    rows
      .select("text")
      .attr("fill", palette.text)
      .attr("y", 14)
      .text((column) => column.label);
    rows.each(function (column) {
      d3.select(this)
        .select("g")
        .selectAll("rect")
        .data(column.parts)
        .join("rect")
        .attr("x", (part) => x(part.start))
        .attr("width", (part) => Math.max(0.5, x(part.end) - x(part.start)))
        .attr("y", (part) => (part.block === null ? 7 : 1))
        .attr("height", (part) => (part.block === null ? 6 : 18))
        .attr("data-block", (part) => part.block)
        .attr("fill", (part) => (part.block === null ? palette.line : colourOf(part.block)));
    });
  }

  function enterRow(enter) {
    const row = enter.append("g").attr("class", "row");
    row.append("text").attr("x", 2);
    row.append("g");
    return row;
  }

  function drawAxis(layer, x, width, palette) {
    const ticks = x.ticks(Math.max(2, Math.floor(width / 110))).filter(Number.isInteger);
    layer
      .selectAll("text")
      .data(ticks)
      .join("text")
      .attr("x", (t) => x(t))
      .attr("y", 14)
      .attr("text-anchor", "middle")
      .attr("fill", palette.muted)
      .text((t) => (t ? t.toLocaleString("en") : "tokens 0"));
  }

  Object.assign(treepo, { compareOverview });
})((globalThis.treepo ??= {}));
