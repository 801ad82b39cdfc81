"use strict";

(function (treepo) {
  const make = (...given) => treepo.dom.element(...given);
  // Of files.
  const NAMES = { tree: "tree", compare: "side-by-side" };

  /** The choices above the tree: run, step, view, colour, zoom, export. Returns {show}. */
  function explorerToolbar(element, { set, runs, shown, drawing }) {
    const run = treepo.labelled("Run", [], "", (value) => set({ run: value }));
    const step = treepo.labelled("Step", [], "", (value) => set({ step: Number(value) }));
    const move = (by) => set(treepo.stepBy(shown().run, shown().state, by) ?? {});
    const earlier = treepo.dom.button("‹", () => move(-1), { title: "Step before ([)" });
    const later = treepo.dom.button("›", () => move(1), { title: "Step after (])" });
    const views = viewTabs(set);
    const kinds = Object.entries(treepo.colourKinds).map(([name, { label }]) => [name, label]);
    const colour = treepo.labelled("Colour by", kinds, "reward", (value) => set({ colour: value }));
    const zoom = zoomButtons(drawing);
    const files = exportButtons(shown);
    element.append(
      run.label,
      make("span", { className: "joined" }, step.label, earlier, later),
      views,
      colour.label,
      zoom,
      files,
    );
    const show = (state) => {
      const names = runs().map((own) => own.name);
      treepo.fillSelect(
        run.select,
        names.map((name) => [name, name]),
        state.run,
      );
      run.label.hidden = names.length < 2;
      const steps = shown().run.trees.steps.filter((own) => own.trees.length);
      treepo.fillSelect(
        step.select,
        steps.map((own) => [own.step, String(own.step)]),
        state.step,
      );
      earlier.disabled = state.step === steps[0].step;
      later.disabled = state.step === steps.at(-1).step;
      colour.select.value = state.colour;
      colour.label.hidden = zoom.hidden = state.view !== "tree";
      files.hidden = !treepo.export?.svg;
      for (const tab of views.children) tab.setAttribute("aria-selected", tab.dataset.view === state.view);
    };
    return { show };
  }

  function viewTabs(set) {
    const names = { tree: "Tree", compare: "Side by side" };
    const tabs = Object.entries(names).map(([view, textContent]) =>
      make("button", { type: "button", role: "tab", textContent, "data-view": view, onclick: () => set({ view }) }),
    );
    return make("span", { className: "tabs", role: "tablist" }, ...tabs);
  }

  function zoomButtons(drawing) {
    const { button } = treepo.dom;
    return make(
      "span",
      { className: "joined zoom" },
      button("−", () => drawing().zoomBy(1 / 1.5), { title: "Zoom out (-)" }),
      button("+", () => drawing().zoomBy(1.5), { title: "Zoom in (+)" }),
      button("Fit", () => drawing().fit(), { title: "Show the whole tree (0)" }),
    );
  }

  function exportButtons(shown) {
    const save = (format) => () => {
      const { state, figure } = shown();
      const problem = `${state.run}-step-${state.step}-problem-${state.tree + 1}`;
      return treepo.export[format](figure(), `${problem}-${NAMES[state.view]}`);
    };
    return make(
      "span",
      { className: "joined" },
      treepo.dom.button("SVG", save("svg"), { title: "Save as SVG" }),
      treepo.dom.button("PNG", save("png"), { title: "Save as PNG" }),
    );
  }

  Object.assign(treepo, { explorerToolbar });
})((globalThis.treepo ??= {}));
