"use strict";

// The window in which a figure is saved: what is seen there is what is written.
(function (treepo) {
  // Pixels of 1/96 inch, of which a millimetre has 96 / 25.4.
  const WIDTHS = { single: 89, middle: 120, double: 183 };
  const PIXELS_PER_MM = 96 / 25.4;
  const SHAPES = { flat: 0.45, usual: 0.62, square: 1 };
  const PNG_DPI = 400;

  const FIELDS = {
    format: ["Format", [["svg", "SVG"], ["png", `PNG, ${PNG_DPI} dpi`]]],
    width: ["Width", [["single", "89 mm, one column"], ["middle", "120 mm"], ["double", "183 mm, two columns"]]],
    shape: ["Shape", [["flat", "flat"], ["usual", "usual"], ["square", "square"]]],
    ground: ["Background", [["white", "white"], ["page", "as on the page"]]],
  };

  function figureOf(build, zoom, chosen) {
    const width = Math.round(WIDTHS[chosen.width] * PIXELS_PER_MM);
    const height = Math.round(width * SHAPES[chosen.shape]);
    const palette = chosen.ground === "white" ? treepo.plot.paperPalette() : treepo.plot.palette(document.body);
    return build({ zoom, palette, width, height, isTitled: true, dragmode: false });
  }

  // `build` makes the figure (see graph.js), `zoom` is what it is zoomed into.
  treepo.saveDialog = (title, build, zoom) => {
    const { dom } = treepo;
    const chosen = { format: "svg", width: "single", shape: "usual", ground: "white" };
    const preview = dom.element("img", { className: "preview", alt: title });

    async function show() {
      preview.src = treepo.export.svgAddress(await treepo.export.figureText(figureOf(build, zoom, chosen)));
    }

    const fields = Object.entries(FIELDS).map(([key, [label, options]]) =>
      dom.choice(label, options, chosen[key], (value) => {
        chosen[key] = value;
        return show();
      }));
    const save = () => treepo.export.figure(figureOf(build, zoom, chosen), title, chosen.format, PNG_DPI / 96);
    const bar = dom.element("div", { className: "bar" }, ...fields, dom.button("Save", save, { className: "main" }));
    dom.dialog(title, bar, dom.element("div", { className: "preview-frame" }, preview)).classList.add("saving");
    return show();
  };
})((globalThis.treepo ??= {}));
