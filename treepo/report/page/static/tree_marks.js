"use strict";

(function (treepo) {
  const d3 = globalThis.d3;

  /** How each stop reason is marked: a letter, a symbol and what it means. */
  const STOPS = {
    answer: { letter: "A", symbol: d3?.symbolCircle, meaning: "gave an answer" },
    eos: { letter: "E", symbol: d3?.symbolSquare, meaning: "ended the text" },
    length: { letter: "L", symbol: d3?.symbolTriangle, meaning: "reached the length limit" },
    depth: { letter: "D", symbol: d3?.symbolDiamond, meaning: "reached the depth limit" },
    repetition: { letter: "R", symbol: d3?.symbolStar, meaning: "repeated itself" },
    turns: { letter: "T", symbol: d3?.symbolTriangle, meaning: "had all its turns" },
    env_done: { letter: "✓", symbol: d3?.symbolCircle, meaning: "the environment ended it" },
    env_error: { letter: "!", symbol: d3?.symbolWye, meaning: "the environment failed" },
    env_timeout: { letter: "!", symbol: d3?.symbolWye, meaning: "the environment took too long" },
    env_diverged: { letter: "!", symbol: d3?.symbolWye, meaning: "the environment did not repeat itself" },
    unfinished: { letter: "…", symbol: d3?.symbolCross, meaning: "no leaf" },
  };

  /** The mark of a node without children. */
  function stopMark(tree, node) {
    return STOPS[tree.stops[node] ?? "unfinished"];
  }

  function symbolPath(symbol, size) {
    return d3.symbol(symbol, size)();
  }

  /** Where a fallback began: an arrow that goes back. */
  function fallbackPath(size) {
    return `M${-size},0 L0,${-size} L0,${size} Z`;
  }

  /** Draw the legend below a tree, in lines that fit `width`; returns its height. */
  function drawLegend(group, model, scale, colours, width) {
    group.selectAll("*").remove();
    const flow = { x: 0, y: 0, width };
    drawScale(group, scale, colours, flow);
    const used = new Set(model.ends.map((node) => stopMark(model.tree, node)));
    for (const mark of used) drawStop(group, mark, colours, flow);
    const text = (words) => ({ words, colours });
    item(group, flow, text("fork"), (g) => line(g, colours.muted, null));
    if (model.tree.resumed.some(Boolean)) item(group, flow, text("drawn by a fallback"), (g) => fallback(g, colours));
    if (model.tree.observed?.some(Boolean)) {
      item(group, flow, text("written by the environment"), (g) => observed(g, colours));
    }
    item(group, flow, text("group of what is chosen"), (g) => band(g, colours));
    if (model.tree.rewards) item(group, flow, text("colour and number at the end: reward"), () => {});
    return flow.y + 20;
  }

  /** One entry: a mark 18 px wide and words, on the next line where it does not fit. */
  function item(group, flow, { words, colours }, draw) {
    const width = 24 + 6.2 * words.length + 12;
    if (flow.x && flow.x + width > flow.width) [flow.x, flow.y] = [0, flow.y + 20];
    const entry = group.append("g").attr("transform", `translate(${flow.x},${flow.y})`);
    draw(entry);
    label(entry, 24, words, colours);
    flow.x += width;
  }

  function label(group, x, words, colours) {
    return group.append("text").attr("x", x).attr("y", 4).attr("font-size", 11).attr("fill", colours.text).text(words);
  }

  function line(group, colour, dashes) {
    group
      .append("path")
      .attr("d", "M2,0 H10 M10,-6 V6")
      .attr("fill", "none")
      .attr("stroke", colour)
      .attr("stroke-width", 1.5)
      .attr("stroke-dasharray", dashes);
  }

  function band(group, colours) {
    group
      .append("rect")
      .attr("x", 2)
      .attr("y", -7)
      .attr("width", 18)
      .attr("height", 14)
      .attr("rx", 3)
      .attr("fill", colours.accent)
      .attr("fill-opacity", 0.2);
  }

  function observed(group, colours) {
    band(group, { accent: colours.panel });
    group.select("rect").attr("fill-opacity", 1).attr("stroke", colours.accent).attr("stroke-dasharray", "3 2");
  }

  function fallback(group, colours) {
    line(group, colours.c[3], "3 2");
    group.append("path").attr("d", fallbackPath(5)).attr("transform", "translate(20,0)").attr("fill", colours.c[3]);
  }

  function drawStop(group, mark, colours, flow) {
    item(group, flow, { words: `${mark.letter} ${mark.meaning}`, colours }, (g) =>
      g
        .append("path")
        .attr("d", symbolPath(mark.symbol, 70))
        .attr("transform", "translate(10,0)")
        .attr("fill", colours.muted),
    );
  }

  function drawScale(group, scale, colours, flow) {
    if (!scale.isKnown) return item(group, flow, { words: `${scale.label}: ${scale.why}`, colours }, () => {});
    const [length, steps] = [110, 22];
    const [low, high] = [scale.domain[0], scale.domain.at(-1)];
    label(group, 0, scale.label, colours).attr("font-weight", 600);
    const left = 12 + 6.6 * scale.label.length;
    const wraps = left + length + 130 > flow.width;
    const place = group.append("g").attr("transform", wraps ? "translate(20,20)" : `translate(${left + 20},0)`);
    label(place, 30, treepo.figure(low, scale.signed), colours).attr("text-anchor", "end");
    for (let i = 0; i < steps; i++) {
      place
        .append("rect")
        .attr("x", 36 + (i * length) / steps)
        .attr("y", -5)
        .attr("height", 10)
        .attr("width", length / steps + 0.5)
        .attr("fill", scale.at(low + ((high - low) * (i + 0.5)) / steps));
    }
    place
      .append("rect")
      .attr("x", 36)
      .attr("y", -5)
      .attr("width", length)
      .attr("height", 10)
      .attr("fill", "none")
      .attr("stroke", colours.line);
    label(place, 42 + length, treepo.figure(high, scale.signed), colours);
    [flow.x, flow.y] = wraps ? [0, 40] : [left + length + 120, 0];
  }

  Object.assign(treepo, { stopMark, symbolPath, fallbackPath, drawLegend });
})((globalThis.treepo ??= {}));
