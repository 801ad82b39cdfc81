"use strict";

(function (treepo) {
  const make = (...given) => treepo.dom.element(...given);
  const MOST = 200;
  const PAUSE_MS = 150;

  /** A field to search texts with, the number of hits, ways from one to the next, and a list of them for more than the
   * shown tree. `set` changes the state; `shown()` and `runs()` tell what there is. Returns {show}. */
  function treeSearch(element, { set, shown }) {
    const input = make("input", { type: "search", placeholder: "Search texts", "aria-label": "Search texts" });
    const scopes = [
      ["tree", "this tree"],
      ["step", "this step"],
      ["run", "this run"],
    ];
    const scope = treepo.labelled("in", scopes, "tree", (value) => set({ scope: value }));
    const told = make("span", { className: "told", role: "status" });
    const list = make("ol", { className: "results" });
    let waiting = 0;
    let hits = [];
    input.addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => set({ query: input.value }), PAUSE_MS);
    });
    const move = (by) => hits.length && set({ node: neighbour(hits, shown().model.order, by) });
    let current = 0;
    const neighbour = (nodes, order, by) => {
      const at = nodes.indexOf(current);
      if (at >= 0) return nodes[(at + by + nodes.length) % nodes.length];
      const place = order.indexOf(current);
      return nodes.find((node) => order.indexOf(node) > place) ?? nodes[0];
    };
    input.addEventListener("keydown", (event) => event.key === "Enter" && move(event.shiftKey ? -1 : 1));
    const buttons = [
      treepo.dom.button("‹", () => move(-1), { title: "Previous hit" }),
      treepo.dom.button("›", () => move(1), { title: "Next hit" }),
    ];
    element.append(make("div", { className: "search-row" }, input, scope.label, ...buttons, told), list);
    const show = (state, own) => {
      if (document.activeElement !== input) input.value = state.query;
      hits = shown().model.order.filter((node) => own.has(node));
      current = state.node;
      buttons.forEach((button) => (button.disabled = !hits.length));
      const number = [...own.values()].reduce((sum, n) => sum + n, 0);
      told.textContent = state.query ? `${treepo.count(number, "hit")} in ${treepo.count(own.size, "segment")}` : "";
      const found = state.scope === "tree" || !state.query ? [] : results(shown(), state);
      list.replaceChildren(...found.slice(0, MOST).map((result) => resultEntry(result, state.query, set)));
      if (state.scope !== "tree" && state.query) told.textContent += ` of this tree; ${resultCount(found.length)}`;
    };
    return { show };
  }

  function resultCount(number) {
    return number > MOST ? `the first ${MOST} segments of all are listed` : `${treepo.count(number, "segment")} of all`;
  }

  /** The segments of the step's or the run's trees that a match ends in, one more than are listed at most. */
  function results({ run, step, pieces }, { scope, query }) {
    const found = [];
    for (const own of scope === "step" ? [step] : run.trees.steps) {
      for (const [index, tree] of own.trees.entries()) {
        const model = treepo.treeModel(tree);
        for (const node of treepo.searchTree(model, pieces, query).keys()) {
          found.push({ step: own.step, tree: index, node, text: treepo.searchContext(model, pieces, node, query) });
          if (found.length > MOST) return found;
        }
      }
    }
    return found;
  }

  function resultEntry({ step, tree, node, text }, query, set) {
    const place = make("span", {
      className: "facts",
      textContent: `step ${step}, problem ${tree + 1}, ${node ? `node ${node}` : "prompt"}`,
    });
    const words = make("bdi", { className: "text", dir: "auto" });
    treepo.showPieces(
      words,
      treepo.withHits(
        Array.from(text, (character) => ({ text: character })),
        query,
      ),
    );
    const button = make("button", { type: "button", onclick: () => set({ step, tree, node }) }, place, words);
    return make("li", {}, button);
  }

  Object.assign(treepo, { treeSearch });
})((globalThis.treepo ??= {}));
