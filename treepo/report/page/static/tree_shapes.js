"use strict";

(function (treepo) {
  /** Draw what of a tree is in view. `view`: {x, y} scales to pixels, {step} pixels between rows, {left, right, top,
   * bottom} the window; `look`: {colours, scale, selected, band, hits, pieces}; `layers`: groups by name. */
  function drawShapes(layers, model, view, look) {
    const nodes = nodesInView(model, view);
    const path = new Set(look.selected == null ? [] : treepo.pathTo(model.tree, look.selected));
    drawBand(layers.band, model, view, look);
    drawLinks(layers.links, model, view, look, path);
    drawBars(layers.bars, nodes, model, view, look, path);
    drawTexts(layers.texts, nodes, model, view, look);
    drawStarts(
      layers.starts,
      nodes.filter((i) => model.tree.resumed[i]),
      model,
      view,
      look,
    );
    drawHits(
      layers.hits,
      nodes.filter((i) => look.hits.has(i)),
      model,
      view,
      look,
    );
    drawEnds(
      layers.ends,
      model.ends.filter((i) => isRowInView(model.row[i], view)),
      model,
      view,
      look,
    );
  }

  function nodesInView(model, view) {
    return model.order.filter(
      (i) =>
        i > 0 &&
        isRowInView(model.row[i], view) &&
        view.x(model.end[i]) >= view.left &&
        view.x(model.start[i]) <= view.right,
    );
  }

  function isRowInView(row, view) {
    return view.y(row) > view.top - view.step && view.y(row) < view.bottom + view.step;
  }

  function barHeight(view) {
    return Math.max(2, Math.min(20, view.step * 0.6));
  }

  function barWidth(model, view, node) {
    const width = view.x(model.end[node]) - view.x(model.start[node]);
    return Math.max(1, width - (width > 6 ? 1 : 0));
  }

  function drawBand(layer, model, view, { band, colours }) {
    layer
      .selectAll("rect")
      .data(band == null ? [] : [band])
      .join("rect")
      .attr("x", (i) => (i ? view.x(model.start[i]) : view.left))
      .attr("width", (i) => Math.max(0, view.right - (i ? view.x(model.start[i]) : view.left)))
      .attr("y", (i) => view.y(model.first[i] - 0.5))
      .attr("height", (i) => view.y(model.last[i] - 0.5) - view.y(model.first[i] - 0.5))
      .attr("rx", 6)
      .attr("fill", colours.accent)
      .attr("fill-opacity", 0.14);
  }

  /** One link per child that does not lie in its parent's row: from the sibling nearer to it to the child. */
  function drawLinks(layer, model, view, { colours }, path) {
    const { tree, row, end, children } = model;
    const links = [];
    for (const parent of model.order) {
      const own = children[parent];
      if (own.length < 2 || view.x(end[parent]) < view.left || view.x(end[parent]) > view.right) continue;
      own.forEach((child, i) => {
        const nearer = row[child] > row[parent] ? row[own[i - 1]] : row[own[i + 1]];
        const from = row[child] > row[parent] ? Math.max(row[parent], nearer) : Math.min(row[parent], nearer);
        if (from !== row[child]) links.push({ child, parent, from });
      });
    }
    const isDashed = (d) => tree.resumed[d.child];
    layer
      .selectAll("path")
      .data(links, (d) => d.child)
      .join("path")
      .attr("d", (d) => `M${view.x(end[d.parent]) - 0.5},${view.y(d.from)} V${view.y(row[d.child])}`)
      .attr("stroke", (d) => (isDashed(d) ? colours.c[3] : path.has(d.child) ? colours.text : colours.muted))
      .attr("stroke-width", (d) => (path.has(d.child) ? 2.5 : 1.2))
      .attr("stroke-dasharray", (d) => (isDashed(d) ? "3 2" : null));
  }

  /** What was observed is an empty bar with a dashed border: nobody sampled it, and it earns nothing. */
  function drawBars(layer, nodes, model, view, { colours, scale, selected }, path) {
    const height = barHeight(view);
    const isObserved = (i) => model.tree.observed?.[i];
    layer
      .selectAll("rect")
      .data(nodes, (i) => i)
      .join((enter) => enter.append("rect").attr("data-node", (i) => i))
      .attr("x", (i) => view.x(model.start[i]))
      .attr("y", (i) => view.y(model.row[i]) - height / 2)
      .attr("width", (i) => barWidth(model, view, i))
      .attr("height", height)
      .attr("rx", Math.min(3, height / 4))
      .attr("fill", (i) => (isObserved(i) ? colours.panel : (scale.of(i) ?? colours.panel)))
      .attr("stroke", (i) => (path.has(i) ? colours.text : isObserved(i) ? colours.accent : colours.muted))
      .attr("stroke-dasharray", (i) => (isObserved(i) ? "3 2" : null))
      .attr("stroke-width", (i) => (i === selected ? 3 : path.has(i) ? 1.8 : isObserved(i) ? 1.2 : 0.6));
  }

  /** The beginning of a segment's text in its bar, where the bar has room for it. */
  function drawTexts(layer, nodes, model, view, { colours, scale, pieces }) {
    const height = barHeight(view);
    const from = (i) => Math.max(view.x(model.start[i]) + (model.tree.resumed[i] ? 7 : 0), view.left) + 4;
    const room = (i) => Math.floor((view.x(model.start[i]) + barWidth(model, view, i) - from(i) - 4) / 6.1);
    const shown = height < 13 ? [] : nodes.filter((i) => room(i) >= 4);
    layer
      .selectAll("text")
      .data(shown, (i) => i)
      .join("text")
      .attr("x", from)
      .attr("y", (i) => view.y(model.row[i]) + 3.5)
      .attr("font-family", "ui-monospace, Menlo, Consolas, monospace")
      .attr("font-size", 10)
      .attr("direction", "ltr")
      .attr("unicode-bidi", "isolate")
      .attr("pointer-events", "none")
      .attr("font-style", (i) => (model.tree.observed?.[i] ? "italic" : null))
      .attr("fill", (i) => (model.tree.observed?.[i] ? colours.text : scale.inkOf(i)))
      .text((i) => beginning(model, pieces, i, room(i)));
  }

  function beginning(model, pieces, node, length) {
    let text = "";
    const first = model.offset[node];
    for (let at = first; at < first + model.tree.lengths[node] && text.length <= length; at++) {
      text += pieces[model.tree.ids[at]].slice(0, length + 1);
    }
    const shown = treepo.oneLine(text, length + 1);
    return shown.length > length ? shown.slice(0, length - 1) + "…" : shown;
  }

  function drawStarts(layer, nodes, model, view, { colours }) {
    const size = Math.max(4, Math.min(7, barHeight(view) / 2));
    layer
      .selectAll("path")
      .data(nodes, (i) => i)
      .join("path")
      .attr("d", treepo.fallbackPath(size))
      .attr("transform", (i) => `translate(${view.x(model.start[i]) + size},${view.y(model.row[i])})`)
      .attr("fill", colours.c[3])
      .attr("stroke", colours.panel)
      .attr("stroke-width", 1)
      .attr("pointer-events", "none");
  }

  function drawHits(layer, nodes, model, view, { colours }) {
    const height = barHeight(view);
    layer
      .selectAll("rect")
      .data(nodes, (i) => i)
      .join("rect")
      .attr("x", (i) => view.x(model.start[i]) - 2)
      .attr("y", (i) => view.y(model.row[i]) - height / 2 - 2)
      .attr("width", (i) => barWidth(model, view, i) + 4)
      .attr("height", height + 4)
      .attr("rx", 4)
      .attr("fill", "none")
      .attr("stroke", colours.c[7])
      .attr("stroke-width", 2)
      .attr("pointer-events", "none");
  }

  /** At the end of each path a symbol for why it stopped, coloured by its reward; where there is room its letter and
   * its reward. */
  function drawEnds(layer, ends, model, view, { colours, rewards }) {
    const size = Math.max(3, Math.min(7, view.step * 0.36));
    const isLabelled = view.step >= 10;
    const place = (i) => `translate(${view.x(model.end[i]) + size + 3},${view.y(model.row[i])})`;
    const groups = layer
      .selectAll("g")
      .data(ends, (i) => i)
      .join(enterEnd)
      .attr("transform", place)
      .attr("display", (i) =>
        view.x(model.end[i]) < view.left - 40 || view.x(model.end[i]) > view.right ? "none" : null,
      );
    groups
      .select("path")
      .attr("d", (i) => treepo.symbolPath(treepo.stopMark(model.tree, i).symbol, size * size * 3))
      .attr("fill", (i) => rewards.of(i) ?? colours.panel)
      .attr("stroke", colours.text)
      .attr("stroke-width", 0.8);
    groups
      .select("text")
      .attr("x", size + 4)
      .attr("y", 4)
      .attr("font-size", view.step < 13 ? 9 : 11)
      .attr("fill", colours.text)
      .text((i) => (isLabelled ? endLabel(model, i) : ""));
  }

  function enterEnd(enter) {
    const group = enter.append("g").attr("data-node", (i) => i);
    group.append("path");
    group.append("text");
    return group;
  }

  function endLabel(model, node) {
    const reward = model.reward[node];
    return treepo.stopMark(model.tree, node).letter + (reward == null ? "" : " " + treepo.figure(reward));
  }

  Object.assign(treepo, { drawShapes });
})((globalThis.treepo ??= {}));
