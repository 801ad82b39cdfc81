"use strict";

(function (treepo) {
  const make = (...given) => treepo.dom.element(...given);

  /** The tree explorer and the side-by-side view of a payload's trees. */
  function mount(element, payload) {
    const explorer = { runs: treepo.runsWithTrees(payload), state: treepo.startState, shown: null, hits: new Map() };
    if (!explorer.runs.length) {
      element.append(make("p", { className: "note", textContent: "No trees were kept: set train.trees_every." }));
      return { update: () => {}, theme: () => {} };
    }
    explorer.set = (changes) => change(explorer, changes);
    explorer.parts = build(element, explorer);
    listen(element, explorer);
    settle(explorer, { ...explorer.state, ...treepo.stateOf(location.hash) });
    return {
      update: (later) => {
        explorer.runs = treepo.runsWithTrees(later);
        explorer.shown = null;
        if (explorer.runs.length) settle(explorer, explorer.state);
      },
      theme: () => render(explorer),
    };
  }

  function build(element, explorer) {
    const { set } = explorer;
    const places = {};
    for (const name of ["toolbar", "problems", "search", "tree", "panel", "compare"]) {
      places[name] = make("div", { className: `explorer-${name}` });
    }
    const centre = make("div", { className: "explorer-centre" }, places.search, places.tree, places.compare);
    element.classList.add("explorer");
    element.append(places.toolbar, make("div", { className: "explorer-body" }, places.problems, centre, places.panel));
    const tip = treepo.tooltip(element);
    const shown = () => explorer.shown;
    const tree = treepo.treeBox(places.tree, { set, shown, tip });
    const compare = treepo.compareView(places.compare, { set, shown, tip });
    const figure = () => (explorer.state.view === "tree" ? tree.drawing.svg : compare.svg);
    const told = () => ({ ...explorer.shown, state: explorer.state, figure });
    return {
      places, tree, compare, tip,
      toolbar: treepo.explorerToolbar(places.toolbar, { set, runs: () => explorer.runs, shown: told, drawing: () => tree.drawing }),
      problems: treepo.problemList(places.problems, (index) => set({ tree: index })),
      search: treepo.treeSearch(places.search, { set, shown }),
      panel: treepo.nodePanel(places.panel, { set, shown, tip }),
    };
  }

  function listen(element, explorer) {
    element.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
      const { drawing } = explorer.parts.tree;
      const zooms = { "+": () => drawing.zoomBy(1.5), "=": () => drawing.zoomBy(1.5), "-": () => drawing.zoomBy(1 / 1.5), 0: drawing.fit };
      if (Object.hasOwn(zooms, event.key)) return zooms[event.key]();
      if (event.key.startsWith("Arrow") && event.target !== drawing.svg) return undefined;
      const changes = treepo.changesOfKey(event.key, explorer.state, explorer.shown);
      if (event.key.startsWith("Arrow") || changes) event.preventDefault();
      return changes ? change(explorer, changes) : undefined;
    });
    addEventListener("hashchange", () => {
      const linked = treepo.stateOf(location.hash);
      if (linked.run !== undefined && location.hash !== treepo.addressOf(explorer.state)) settle(explorer, { ...explorer.state, ...linked });
    });
  }

  function change(explorer, changes) {
    settle(explorer, treepo.changedState(explorer.state, changes));
    history.replaceState(null, "", treepo.addressOf(explorer.state));
  }

  function settle(explorer, state) {
    explorer.state = treepo.settled(state, explorer.runs);
    const key = JSON.stringify([explorer.state.run, explorer.state.step, explorer.state.tree]);
    if (explorer.shown?.key !== key) explorer.shown = treepo.shownTree(explorer.state, explorer.runs);
    render(explorer);
  }

  function render({ parts, state, shown }) {
    const { places } = parts;
    const isTree = state.view === "tree";
    places.tree.hidden = places.search.hidden = places.panel.hidden = !isTree;
    places.compare.hidden = isTree;
    parts.tip.hide();
    parts.toolbar.show(state);
    parts.problems.show(shown.step.trees, state.tree);
    if (!isTree) return parts.compare.show(state);
    const hits = treepo.searchTree(shown.model, shown.pieces, state.query);
    parts.search.show(state, hits);
    parts.tree.show(state, hits);
    return parts.panel.show(state);
  }

  treepo.explorer = { mount };
})((globalThis.treepo ??= {}));
