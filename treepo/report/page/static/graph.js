"use strict";

// One drawn figure that can be zoomed: dragging zooms, a double click shows everything again.
(function (treepo) {
  const FREE = { x: null, y: null };

  function rangeOf(change, axis) {
    const [from, to] = [change[`${axis}.range[0]`], change[`${axis}.range[1]`]];
    return from === undefined ? null : [from, to];
  }

  // A finger that scrolls the page must not be taken for one that zooms.
  const scrollsByTouch = () => matchMedia("(pointer: coarse)").matches;

  // `build({zoom, palette, width, height, isTitled, dragmode})` gives the figure. `onZoom(zoom)` is told what the
  // reader chose, and draws again.
  treepo.graph = (element, build, onZoom, { isTitled = false, zoomsByTouch = false } = {}) => {
    let isListening = false;

    function listen() {
      isListening = true;
      element.on("plotly_relayout", (change) => {
        const zoom = { x: rangeOf(change, "xaxis"), y: rangeOf(change, "yaxis") };
        if (zoom.x || zoom.y) onZoom(zoom);
      });
      element.on("plotly_doubleclick", () => onZoom(FREE));
    }

    return {
      draw(zoom = FREE) {
        const dragmode = zoomsByTouch || !scrollsByTouch() ? "zoom" : false;
        const size = { width: element.clientWidth, height: element.clientHeight };
        const figure = build({ zoom, palette: treepo.plot.palette(element), isTitled, dragmode, ...size });
        const drawn = treepo.plot.draw(element, figure);
        if (!isListening) listen();
        return drawn;
      },

      remove() {
        if (isListening) Plotly.purge(element);
      },
    };
  };

  treepo.graph.FREE = FREE;
})((globalThis.treepo ??= {}));
