"use strict";

// Draws what is on the screen or close to it, one figure a frame, so that a page of many figures stays fluid.
(function (treepo) {
  const MARGIN = "400px 0px";

  // Items are {element, draw()}. `refresh()` has each drawn again, now or when it comes into sight.
  treepo.lazy = () => {
    const states = new Map();
    let isQueued = false;

    function next() {
      isQueued = false;
      const due = [...states.values()].find((state) => state.isSeen && state.isStale);
      if (!due) return;
      due.isStale = false;
      queue();
      due.item.draw();
    }

    function queue() {
      if (isQueued) return;
      isQueued = true;
      requestAnimationFrame(next);
    }

    function seen(entries) {
      for (const entry of entries) {
        const state = states.get(entry.target);
        if (state) state.isSeen = entry.isIntersecting;
      }
      queue();
    }

    const observer = new IntersectionObserver(seen, { rootMargin: MARGIN });
    const widths = new Map();
    const sizes = new ResizeObserver((entries) => {
      for (const { target, contentRect } of entries) {
        const before = widths.get(target);
        // A width of 0 is that of a hidden section, which is as it was when it is shown again.
        if (contentRect.width) widths.set(target, contentRect.width);
        if (before && before !== widths.get(target) && states.has(target)) states.get(target).isStale = true;
      }
      queue();
    });

    return {
      add(item) {
        states.set(item.element, { item, isSeen: false, isStale: true });
        observer.observe(item.element);
        sizes.observe(item.element);
      },

      clear() {
        observer.disconnect();
        sizes.disconnect();
        for (const { item } of states.values()) item.remove();
        states.clear();
        widths.clear();
      },

      refresh() {
        for (const state of states.values()) state.isStale = true;
        queue();
      },
    };
  };
})((globalThis.treepo ??= {}));
