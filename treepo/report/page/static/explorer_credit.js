"use strict";

(function (treepo) {
  const make = (...given) => treepo.dom.element(...given);
  const figure = (...given) => treepo.figure(...given);

  /** How the advantage of a leaf came about: {rows: [{...term, product}], sum, result} of its terms and the tree's
   * whitening; null where no terms were kept. */
  function creditOf(tree, place) {
    const terms = tree.terms?.[place];
    if (!terms) return null;
    const rows = terms.map((term) => ({ ...term, product: term.weight * term.value }));
    const sum = rows.reduce((total, row) => total + row.product, 0);
    const { whitening } = tree;
    return { rows, sum, result: whitening ? (sum - whitening.mean) / whitening.std : sum };
  }

  /** The group a node stands for or belongs to: the nearest node, itself or above, with two leaves below. */
  function groupNode(model, node) {
    let at = node;
    while (at > 0 && model.numLeaves[at] < 2) at = model.tree.parents[at];
    return at;
  }

  /** The leaves of a node's group as buttons that say their rewards; `state.leaf` is pressed. */
  function groupChips(model, group, state, set) {
    const chips = treepo.leavesBelow(model, group).map((leaf) => {
      const reward = model.reward[leaf];
      const text = `${leaf}${reward == null ? "" : ` · ${figure(reward)}`}`;
      const chip = make("button", { type: "button", className: "chip", textContent: text, title: `Leaf ${leaf}: its advantage below` });
      if (reward != null) chip.style.setProperty("--share", `${Math.round(100 * Math.min(1, Math.max(0, reward)))}%`);
      chip.classList.toggle("scored", reward != null);
      chip.setAttribute("aria-pressed", leaf === state.leaf);
      chip.addEventListener("click", () => set({ leaf }));
      return chip;
    });
    return make("div", { className: "chips" }, ...chips);
  }

  /** The section on credit: the group, a leaf of it, and its advantage term by term. */
  function creditSection({ tree, model }, state, set) {
    const group = groupNode(model, state.node);
    const section = make("section", { className: "credit" });
    const size = model.numLeaves[group];
    const leaves = size === 1 ? "1 leaf" : `${size} leaves`;
    const mean = model.reward[group] == null ? "" : `, mean reward ${figure(model.reward[group])}`;
    const name = group ? `Group of node ${group}` : "Group of the prompt";
    section.append(make("h4", { textContent: `${name}: ${leaves}${mean}` }), groupChips(model, group, state, set));
    if (tree.node_advantages) section.append(ownAdvantage(tree, state.node));
    if (state.leaf == null) return section;
    section.append(make("h4", { textContent: `Advantage of leaf ${state.leaf}` + (tree.estimator ? ` (${treepo.oneLine(tree.estimator, 60)})` : "") }));
    section.append(...leafAdvantage(tree, model, state, set));
    return section;
  }

  function ownAdvantage(tree, node) {
    return make("p", { textContent: `Each node has its own advantage; that of node ${node} is ${figure(tree.node_advantages[node], true)}.` });
  }

  function leafAdvantage(tree, model, state, set) {
    const place = model.place.get(state.leaf);
    const kept = tree.advantages?.[place];
    const credit = creditOf(tree, place);
    if (!credit) return [make("p", { textContent: kept == null ? withoutSignal(tree) : `${figure(kept, true)}; its terms were not kept.` })];
    const shown = [termTable(credit, tree, state, set)];
    if (!credit.rows.length) shown.push(make("p", { className: "note", textContent: "No group counts for this leaf." }));
    if (kept != null && Math.abs(kept - credit.result) > 1e-3 * Math.max(1, Math.abs(kept))) {
      shown.push(make("p", { className: "note", textContent: `The run recorded ${figure(kept, true)}.` }));
    }
    return shown;
  }

  function withoutSignal(tree) {
    if (tree.node_advantages) return "This estimator gives advantages to nodes, not to leaves.";
    return "None: this tree gave no signal (its rewards all agree, or it was not learned from).";
  }

  function termTable(credit, tree, state, set) {
    const table = make("table", { className: "terms" });
    const heads = ["group", "leaves", "mean", "value", "weight", "product"];
    table.append(make("thead", {}, make("tr", {}, ...heads.map((text) => make("th", { textContent: text, scope: "col" })))));
    const body = make("tbody", {}, ...credit.rows.map((row) => termRow(row, state, set)));
    body.append(totalRow("sum of weight × value", credit.sum));
    if (tree.whitening) {
      const { mean, std } = tree.whitening;
      body.append(totalRow(`whitened over the batch: (sum − ${figure(mean)}) / ${figure(std)}`.replace("− −", "+ "), credit.result));
    }
    table.append(body);
    return make("div", { className: "scroll" }, table);
  }

  function termRow(row, state, set) {
    const isChosen = state.band === row.node;
    const highlight = () => set({ band: isChosen ? null : row.node });
    const name = make("button", { type: "button", className: "link", textContent: treepo.oneLine(row.name, 60), "aria-pressed": isChosen });
    name.title = "Highlight this group in the tree";
    name.addEventListener("click", highlight);
    const numbers = [row.size, row.mean, row.value, row.weight].map((value) => figure(value));
    const cells = [make("td", {}, name), ...numbers.map((text) => make("td", { textContent: text }))];
    const line = make("tr", {}, ...cells, make("td", { textContent: figure(row.product, true) }));
    line.classList.toggle("chosen", isChosen);
    return line;
  }

  function totalRow(text, value) {
    return make("tr", { className: "total" }, make("td", { colspan: 5, textContent: text }), make("td", { textContent: figure(value, true) }));
  }

  Object.assign(treepo, { creditOf, groupNode, creditSection });
})((globalThis.treepo ??= {}));
