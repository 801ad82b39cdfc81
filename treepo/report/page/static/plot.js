"use strict";

// What every figure has in common: colours, layout, and Plotly itself.
(function (treepo) {
  const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif';
  const DASHES = ["solid", "dash", "dot", "dashdot"];
  const NUM_COLOURS = 8;
  const LONGEST_NAME = 60;
  const NAMES = ["bg", "panel", "text", "muted", "line", "accent", "low", "mid", "high"];

  // Plotly reads <b>, <a href> and entities in the texts it is given.
  function escape(text) {
    return treepo.dom.visible(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  }

  const plot = {
    FONT,
    NUM_COLOURS,
    escape,

    // A name for legends, which has to leave room for figures.
    name(text) {
      const characters = [...treepo.dom.visible(text)];
      const isLong = characters.length > LONGEST_NAME;
      return escape(isLong ? `${characters.slice(0, LONGEST_NAME - 1).join("")}…` : characters.join(""));
    },

    // The page's colours as an element of it has them.
    palette(element) {
      const style = getComputedStyle(element);
      const read = (name) => style.getPropertyValue(`--${name}`).trim();
      const colours = Array.from({ length: NUM_COLOURS }, (_, i) => read(`c${i}`));
      return { ...Object.fromEntries(NAMES.map((name) => [name, read(name)])), colours };
    },

    // The colours of the light page, also while the dark one is shown: for paper.
    paperPalette() {
      const element = treepo.dom.element("div", { className: "paper", hidden: true });
      document.body.append(element);
      const palette = plot.palette(element);
      element.remove();
      return { ...palette, panel: "#ffffff" };
    },

    // Colour and dash of the i-th of many: eight colours, then the same with another dash.
    line(palette, i) {
      return { color: palette.colours[i % NUM_COLOURS], dash: DASHES[Math.floor(i / NUM_COLOURS) % DASHES.length] };
    },

    // A colour of the palette, #rrggbb, with an opacity from 0 to 1.
    faint(colour, opacity) {
      const alpha = Math.round(255 * opacity).toString(16).padStart(2, "0");
      return /^#[0-9a-f]{6}$/i.test(colour) ? `${colour}${alpha}` : colour;
    },

    axis(palette, more = {}) {
      return {
        automargin: true,
        gridcolor: palette.line,
        linecolor: palette.line,
        zeroline: false,
        tickfont: { color: palette.muted },
        exponentformat: "SI",
        nticks: 6,
        ...more,
        title: { text: "", standoff: 6, font: { color: palette.muted }, ...more.title },
      };
    },

    layout(palette, { x = {}, y = {}, ...more }) {
      return {
        font: { family: FONT, size: 11, color: palette.text },
        paper_bgcolor: palette.panel,
        plot_bgcolor: palette.panel,
        margin: { l: 44, r: 12, t: 6, b: 20 },
        hovermode: "x unified",
        hoverlabel: {
          bgcolor: palette.panel,
          bordercolor: palette.line,
          font: { family: FONT, size: 11, color: palette.text },
          namelength: -1,
        },
        legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 10.5 }, itemwidth: 30 },
        xaxis: plot.axis(palette, x),
        yaxis: plot.axis(palette, y),
        ...more,
      };
    },

    // Draws a figure into an element, or brings the one there up to date.
    draw(element, figure) {
      const config = { displayModeBar: false, doubleClick: false, responsive: false, showTips: false };
      return Plotly.react(element, figure.data, figure.layout, config);
    },
  };

  treepo.plot = plot;
})((globalThis.treepo ??= {}));
