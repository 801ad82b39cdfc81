"use strict";

// Figures as files, made in the page itself.
(function (treepo) {
  const SVG = "http://www.w3.org/2000/svg";
  const STYLES = [
    "fill", "fill-opacity", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray", "stroke-linecap",
    "stroke-linejoin", "opacity", "font-family", "font-size", "font-weight", "font-style", "text-anchor",
    "dominant-baseline", "letter-spacing", "visibility", "display", "paint-order",
  ];

  // The copy looks as the drawing does, without the page's style sheet.
  function inlineStyles(drawn, copy) {
    const style = getComputedStyle(drawn);
    for (const name of STYLES) {
      const value = style.getPropertyValue(name);
      if (value) copy.style.setProperty(name, value);
    }
    copy.removeAttribute("class");
    [...drawn.children].forEach((child, i) => inlineStyles(child, copy.children[i]));
  }

  function withBackground(copy, colour, { x, y, width, height }) {
    const ground = document.createElementNS(SVG, "rect");
    Object.entries({ x, y, width, height, fill: colour }).forEach(([name, value]) => ground.setAttribute(name, value));
    copy.prepend(ground);
  }

  function boxOf(drawn) {
    const { baseVal } = drawn.viewBox;
    if (baseVal?.width) return baseVal;
    const { width, height } = drawn.getBoundingClientRect();
    return { x: 0, y: 0, width, height };
  }

  // The text of a file of an SVG element of the page.
  function svgText(drawn, background = getComputedStyle(document.body).backgroundColor) {
    const copy = drawn.cloneNode(true);
    inlineStyles(drawn, copy);
    const box = boxOf(drawn);
    copy.setAttribute("xmlns", SVG);
    copy.setAttribute("viewBox", `${box.x} ${box.y} ${box.width} ${box.height}`);
    copy.setAttribute("width", box.width);
    copy.setAttribute("height", box.height);
    withBackground(copy, background, box);
    return new XMLSerializer().serializeToString(copy);
  }

  // A name that every file system takes.
  function fileName(name, ending) {
    const plain = name.replaceAll(/[^\p{L}\p{N}._-]+/gu, "-").replaceAll(/^[-.]+|-+$/g, "").slice(0, 80);
    return `${plain || "figure"}.${ending}`;
  }

  function save(blob, name) {
    const link = treepo.dom.element("a", { href: URL.createObjectURL(blob), download: name });
    document.body.append(link);
    link.click();
    link.remove();
    // Browsers read the address after the click.
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }

  const svgBlob = (text) => new Blob([text], { type: "image/svg+xml" });
  const svgAddress = (text) => `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;

  // A PNG of an SVG file's text, `scale` pixels for each of its units.
  async function pngBlob(text, { width, height }, scale) {
    const image = treepo.dom.element("img", { src: svgAddress(text) });
    await image.decode();
    const size = { width: Math.round(width * scale), height: Math.round(height * scale) };
    const canvas = treepo.dom.element("canvas", size);
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  }

  treepo.export = {
    svgText,
    svgAddress,

    // Saves an SVG element of the page as it looks, as NAME.svg.
    svg(drawn, name) {
      save(svgBlob(svgText(drawn)), fileName(name, "svg"));
    },

    // The same as NAME.png, `scale` pixels for each of its units.
    async png(drawn, name, scale = 3) {
      save(await pngBlob(svgText(drawn), boxOf(drawn), scale), fileName(name, "png"));
    },

    // The SVG text of a Plotly figure of a size.
    async figureText(figure) {
      const { width, height } = figure.layout;
      const address = await Plotly.toImage(figure, { format: "svg", width, height });
      return decodeURIComponent(address.slice(address.indexOf(",") + 1));
    },

    // Saves a Plotly figure; `format` is "svg" or "png".
    async figure(figure, name, format, scale) {
      const text = await treepo.export.figureText(figure);
      const blob = format === "svg" ? svgBlob(text) : await pngBlob(text, figure.layout, scale);
      save(blob, fileName(name, format));
    },
  };
})((globalThis.treepo ??= {}));
