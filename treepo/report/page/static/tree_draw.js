"use strict";

(function (treepo) {
  const d3 = globalThis.d3;
  const LAYERS = ["band", "links", "bars", "texts", "starts", "hits", "ends"];
  const MARGIN = { left: 62, right: 66, top: 40, gap: 26 };
  const TOKEN_PIXELS = 16;

  /** The drawing of one tree in an element, left to right, to scale in tokens. `choose(node)` is called for clicks,
   * `hover(node or null, event)` for the pointer. Returns {show(shown, look), zoomBy, fit, resize, svg}. */
  function treeDrawing(element, { choose, hover }) {
    const svg = d3
      .select(element)
      .append("svg")
      .attr("class", "tree")
      .attr("tabindex", 0)
      .attr("role", "application")
      .attr("aria-label", "Tree of answers. Arrow keys move between nodes, plus and minus zoom, 0 fits.");
    const parts = skeleton(svg);
    const drawing = { svg, parts, element, shown: null, look: null, transform: d3.zoomIdentity, frame: 0 };
    drawing.zoom = d3
      .zoom()
      .filter((event) => isMeant(event, drawing))
      .clickDistance(5)
      .on("zoom", ({ transform }) => {
        drawing.transform = transform;
        svg.style("touch-action", transform.k > 1 ? "none" : "pan-y");
        drawing.frame ||= requestAnimationFrame(() => draw(drawing));
      });
    svg.call(drawing.zoom).on("dblclick.zoom", null).style("touch-action", "pan-y");
    listen(svg, choose, hover);
    return {
      svg: svg.node(),
      show: (shown, look) => show(drawing, shown, look),
      zoomBy: (factor) => svg.call(drawing.zoom.scaleBy, factor),
      fit: () => svg.call(drawing.zoom.transform, d3.zoomIdentity),
      resize: () => drawing.shown && show(drawing, drawing.shown, drawing.look),
      reveal: (node) => reveal(drawing, node),
    };
  }

  function skeleton(svg) {
    const clip = "tree-clip";
    const window_ = svg.append("clipPath").attr("id", clip).append("rect");
    const title = svg.append("text").attr("x", 4).attr("y", 12).attr("font-size", 11);
    const axis = svg.append("g");
    const body = svg.append("g").attr("clip-path", `url(#${clip})`);
    const grid = body.append("g");
    const prompt = body.append("g").attr("data-node", 0).attr("class", "prompt");
    const layers = Object.fromEntries(LAYERS.map((name) => [name, body.append("g").attr("class", name)]));
    layers.links.attr("fill", "none");
    prompt.append("rect");
    prompt.append("text");
    return { window: window_, title, axis, grid, prompt, layers, legend: svg.append("g") };
  }

  /** Whether an event zooms or drags: the wheel does once the tree has the focus, or with Ctrl; one finger scrolls the
   * page until the tree is zoomed. */
  function isMeant(event, drawing) {
    if (event.type === "wheel") return event.ctrlKey || event.metaKey || document.activeElement === drawing.svg.node();
    if (event.type === "touchstart") return event.touches.length > 1 || drawing.transform.k > 1;
    return !event.button;
  }

  function listen(svg, choose, hover) {
    const nodeAt = (event) => event.target.closest?.("[data-node]")?.dataset.node;
    svg.on("click", (event) => nodeAt(event) !== undefined && choose(Number(nodeAt(event))));
    svg.on("pointermove", (event) => hover(nodeAt(event) === undefined ? null : Number(nodeAt(event)), event));
    svg.on("pointerleave", (event) => hover(null, event));
  }

  function show(drawing, shown, look) {
    const isNew = drawing.shown?.model !== shown.model;
    Object.assign(drawing, { shown, look, size: sizes(drawing, shown.model) });
    const { svg, parts, size } = drawing;
    const { colours } = look;
    parts.legend.attr("font-family", "system-ui, sans-serif");
    const legend = treepo.drawLegend(parts.legend, shown.model, look.scale, colours, size.width - 16);
    parts.legend.attr("transform", `translate(8,${size.bottom + 22})`);
    const height = size.bottom + 22 + legend;
    svg.attr("width", size.width).attr("height", height).attr("viewBox", `0 0 ${size.width} ${height}`);
    const most = Math.max(8, (TOKEN_PIXELS * shown.model.numTokens) / (size.right - size.left));
    drawing.zoom
      .extent([
        [0, size.top],
        [size.width, size.bottom],
      ])
      .scaleExtent([1, most])
      .translateExtent([
        [0, size.top],
        [size.width, size.bottom],
      ]);
    if (isNew) svg.call(drawing.zoom.transform, d3.zoomIdentity);
    draw(drawing);
  }

  function sizes(drawing, model) {
    const width = Math.max(280, drawing.element.clientWidth);
    const num = model.ends.length;
    const step = Math.max(9, Math.min(42, 580 / num));
    const margin = width < 500 ? { ...MARGIN, left: 44, right: 44 } : MARGIN;
    const bottom = margin.top + Math.max(80, num * step + 12);
    return { width, left: margin.left, right: width - margin.right, top: margin.top, bottom };
  }

  function draw(drawing) {
    cancelAnimationFrame(drawing.frame);
    drawing.frame = 0;
    const { parts, size, shown, look, transform } = drawing;
    const { model } = shown;
    const x = transform.rescaleX(d3.scaleLinear([0, model.numTokens], [size.left, size.right]));
    const y = transform.rescaleY(d3.scaleLinear([-0.6, model.ends.length - 0.4], [size.top, size.bottom]));
    const view = { x, y, step: y(1) - y(0), left: 0, right: size.width, top: size.top, bottom: size.bottom };
    parts.window
      .attr("x", 0)
      .attr("y", size.top)
      .attr("width", size.width)
      .attr("height", size.bottom - size.top);
    drawAxis(parts, view, look.colours, model.tree.observed ? "tokens, of all turns →" : "response tokens →");
    drawPrompt(parts.prompt, model, view, look);
    treepo.drawShapes(parts.layers, model, view, look);
  }

  function drawAxis({ axis, grid, title }, view, colours, name) {
    title.attr("fill", colours.muted).attr("font-family", "system-ui, sans-serif").text(name);
    const ticks = view.x.ticks(Math.max(2, Math.floor(view.right / 90))).filter((t) => Number.isInteger(t) && t >= 0);
    const marks = axis.selectAll("text").data(ticks).join("text");
    marks
      .attr("x", (t) => view.x(t))
      .attr("y", view.top - 12)
      .attr("text-anchor", "middle")
      .attr("font-size", 11)
      .attr("font-family", "system-ui, sans-serif")
      .attr("fill", colours.muted)
      .text((t) => t.toLocaleString("en"));
    grid
      .selectAll("line")
      .data(ticks)
      .join("line")
      .attr("x1", (t) => view.x(t))
      .attr("x2", (t) => view.x(t))
      .attr("y1", view.top)
      .attr("y2", view.bottom)
      .attr("stroke", colours.line)
      .attr("stroke-width", 1);
  }

  function drawPrompt(group, model, view, { colours, selected }) {
    const [right, y] = [view.x(0), view.y(model.row[0])];
    const isWide = view.x(0) > 54;
    const width = isWide ? 52 : 34;
    group
      .select("rect")
      .attr("x", right - width - 2)
      .attr("y", y - 10)
      .attr("width", width)
      .attr("height", 20)
      .attr("rx", 5)
      .attr("fill", colours.panel)
      .attr("stroke", selected === 0 ? colours.text : colours.muted)
      .attr("stroke-width", selected === 0 ? 3 : 1);
    group
      .select("text")
      .attr("x", right - width / 2 - 2)
      .attr("y", y + 4)
      .attr("text-anchor", "middle")
      .attr("font-family", "system-ui, sans-serif")
      .attr("font-size", 11)
      .attr("fill", colours.text)
      .attr("pointer-events", "none")
      .text(isWide ? "prompt" : "P");
  }

  /** Move the view so that a node is in it. */
  function reveal({ svg, zoom, size, shown, transform }, node) {
    if (transform.k === 1) return;
    const { model } = shown;
    const x = d3.scaleLinear([0, model.numTokens], [size.left, size.right]);
    const y = d3.scaleLinear([-0.6, model.ends.length - 0.4], [size.top, size.bottom])(model.row[node]);
    const isInside =
      transform.applyX(x(model.end[node])) > 20 && transform.applyX(x(model.start[node])) < size.width - 20;
    if (isInside && transform.applyY(y) > size.top && transform.applyY(y) < size.bottom) return;
    svg.call(zoom.translateTo, x((model.start[node] + model.end[node]) / 2), y);
  }

  Object.assign(treepo, { treeDrawing });
})((globalThis.treepo ??= {}));
