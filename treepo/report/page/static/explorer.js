"use strict";

(function (treepo) {
  const make = (...given) => treepo.dom.element(...given);

  /** The tree explorer and the side-by-side view of a payload's trees. */
  function mount(element, payload) {
    const explorer = { element, runs: [], state: treepo.startState, shown: null, parts: null };
    explorer.set = (changes) => change(explorer, changes);
    const empty = make("p", { className: "note" });
    element.append(empty);
    const update = (later) => {
      const runs = treepo.runsWithTrees(later);
      empty.hidden = runs.length > 0;
      empty.textContent = later.isSomeHidden
        ? "No run with trees is shown: choose one above."
        : "No trees are kept of these runs (train.save_trees_every).";
      if (explorer.parts) setHidden(explorer, !runs.length);
      if (runs.length) renew(explorer, runs);
    };
    update(payload);
    return { update, theme: () => explorer.shown && render(explorer) };
  }

  function setHidden({ parts }, isHidden) {
    parts.places.toolbar.hidden = parts.body.hidden = isHidden;
  }

  /** Show the trees of other data, or of more of the same: what is looked at stays as it is if it is still there. */
  function renew(explorer, runs) {
    explorer.runs = runs;
    if (!explorer.parts) {
      explorer.parts = build(explorer.element, explorer);
      listen(explorer.element, explorer);
      return settle(explorer, { ...explorer.state, ...treepo.stateOf(location.hash) });
    }
    const before = explorer.shown;
    const state = treepo.settled(explorer.state, runs);
    const after = treepo.shownTree(state, runs);
    if (JSON.stringify([before.key, before.tree]) !== JSON.stringify([after.key, after.tree])) {
      explorer.shown = null;
      return settle(explorer, state);
    }
    Object.assign(explorer, { state, shown: { ...after, model: before.model } });
    return explorer.parts.toolbar.show(state);
  }

  function build(element, explorer) {
    const { set } = explorer;
    const places = {};
    for (const name of ["toolbar", "problems", "search", "tree", "panel", "compare"]) {
      places[name] = make("div", { className: `explorer-${name}` });
    }
    const centre = make("div", { className: "explorer-centre" }, places.search, places.tree, places.compare);
    element.classList.add("explorer");
    const body = make("div", { className: "explorer-body" }, places.problems, centre, places.panel);
    element.append(places.toolbar, body);
    const tip = treepo.tooltip(element);
    const shown = () => explorer.shown;
    const tree = treepo.treeBox(places.tree, { set, shown, tip });
    const compare = treepo.compareView(places.compare, { set, shown, tip });
    const figure = () => (explorer.state.view === "tree" ? tree.drawing.svg : compare.svg);
    const told = () => ({ ...explorer.shown, state: explorer.state, figure });
    return {
      places,
      body,
      tree,
      compare,
      tip,
      toolbar: treepo.explorerToolbar(places.toolbar, {
        set,
        runs: () => explorer.runs,
        shown: told,
        drawing: () => tree.drawing,
      }),
      problems: treepo.problemList(places.problems, (index) => set({ tree: index })),
      search: treepo.treeSearch(places.search, { set, shown }),
      panel: treepo.nodePanel(places.panel, { set, shown, tip }),
    };
  }

  function listen(element, explorer) {
    document.addEventListener("keydown", (event) => {
      if (element.hidden || !(element.contains(event.target) || event.target === document.body)) return undefined;
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea"))
        return undefined;
      const { drawing } = explorer.parts.tree;
      const zooms = {
        "+": () => drawing.zoomBy(1.5),
        "=": () => drawing.zoomBy(1.5),
        "-": () => drawing.zoomBy(1 / 1.5),
        0: drawing.fit,
      };
      if (Object.hasOwn(zooms, event.key)) return zooms[event.key]();
      // Gives the wheel back to the page.
      if (event.key === "Escape") return drawing.svg.blur();
      if (event.key.startsWith("Arrow") && event.target !== drawing.svg) return undefined;
      const changes = treepo.changesOfKey(event.key, explorer.state, explorer.shown);
      if (event.key.startsWith("Arrow") || changes) event.preventDefault();
      return changes ? change(explorer, changes) : undefined;
    });
    addEventListener("hashchange", () => {
      const linked = treepo.stateOf(location.hash);
      if (linked.run !== undefined && location.hash !== treepo.addressOf(explorer.state))
        settle(explorer, { ...explorer.state, ...linked });
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
