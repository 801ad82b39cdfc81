"use strict";

(function (treepo) {
  const make = (...given) => treepo.dom.element(...given);
  const figure = (...given) => treepo.figure(...given);

  /** How an advantage came about: {rows: [{...component, product}], sum, result} of the components at its
   * place, those of a leaf or of a node, and the tree's whitening; null where no components are known. */
  function creditOf(tree, place) {
    const components = tree.components?.[place];
    if (!components) return null;
    const rows = components.map((component) => ({ ...component, product: component.weight * component.value }));
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
      const chip = make("button", {
        type: "button",
        className: "chip",
        textContent: text,
        title: `Leaf ${leaf}: its advantage below`,
      });
      if (reward != null) chip.style.setProperty("--share", `${Math.round(100 * Math.min(1, Math.max(0, reward)))}%`);
      chip.classList.toggle("scored", reward != null);
      chip.setAttribute("aria-pressed", leaf === state.leaf);
      chip.addEventListener("click", () => set(treepo.choosingLeaf(model, state, leaf)));
      return chip;
    });
    return make("div", { className: "chips" }, ...chips);
  }

  /** The section on credit: the group, what of it is credited, and its advantage component by component. */
  function creditSection({ tree, model }, state, set) {
    const group = groupNode(model, state.node);
    const leaves = treepo.count(model.numLeaves[group], "leaf", "leaves");
    const mean = model.reward[group] == null ? "" : `, mean reward ${figure(model.reward[group])}`;
    const name = group ? `Group of node ${group}` : "Group of the prompt";
    const section = make("section", { className: "credit" }, make("h4", { textContent: `${name}: ${leaves}${mean}` }));
    section.append(groupChips(model, group, state, set));
    const credited = creditedBy({ tree, model }, state);
    if (!credited) return section;
    const estimator = tree.estimator ? ` (${treepo.oneLine(tree.estimator, 60)})` : "";
    section.append(make("h4", { textContent: `Advantage of ${credited.name}${estimator}` }));
    section.append(...howItCame(credited, tree, state, set));
    return section;
  }

  /** What has the advantage that is shown, {name, place, kept}: the node where each has its own, else the leaf. */
  function creditedBy({ tree, model }, { node, leaf }) {
    if (tree.node_advantages)
      return node ? { name: `node ${node}`, place: node, kept: tree.node_advantages[node] } : null;
    const place = model.place.get(leaf);
    return place === undefined ? null : { name: `leaf ${leaf}`, place, kept: tree.advantages?.[place] };
  }

  function howItCame({ place, kept }, tree, state, set) {
    const credit = creditOf(tree, place);
    if (kept == null) return [make("p", { textContent: "None: this tree gave no signal, or was not learned from." })];
    if (!credit) return [make("p", { textContent: `${figure(kept, true)}; how it came about is not known.` })];
    const shown = [componentTable(credit, tree, state, set)];
    if (!credit.rows.length) shown.push(make("p", { className: "note", textContent: "It is compared with nothing." }));
    if (Math.abs(kept - credit.result) > 1e-3 * Math.max(1, Math.abs(kept))) {
      shown.push(make("p", { className: "note", textContent: `The run kept ${figure(kept, true)}.` }));
    }
    return shown;
  }

  function componentTable(credit, tree, state, set) {
    const table = make("table", { className: "components" });
    const heads = ["compared with", "size", "mean", "value", "weight", "product"];
    table.append(
      make("thead", {}, make("tr", {}, ...heads.map((text) => make("th", { textContent: text, scope: "col" })))),
    );
    const body = make("tbody", {}, ...credit.rows.map((row) => componentRow(row, state, set)));
    body.append(totalRow("sum of weight × value", credit.sum));
    if (tree.whitening) {
      const { mean, std } = tree.whitening;
      body.append(
        totalRow(
          `whitened over the batch: (sum − ${figure(mean)}) / ${figure(std)}`.replace("− −", "+ "),
          credit.result,
        ),
      );
    }
    table.append(body);
    return make("div", { className: "scroll" }, table);
  }

  function componentRow(row, state, set) {
    const isChosen = state.band === row.node;
    const highlight = () => set({ band: isChosen ? null : row.node });
    const name = make("button", {
      type: "button",
      className: "link",
      textContent: treepo.oneLine(row.name, 60),
      "aria-pressed": isChosen,
    });
    name.title = "Highlight this group in the tree";
    name.addEventListener("click", highlight);
    const numbers = [row.size, row.mean, row.value, row.weight].map((value) => figure(value));
    const cells = [make("td", {}, name), ...numbers.map((text) => make("td", { textContent: text }))];
    const line = make("tr", {}, ...cells, make("td", { textContent: figure(row.product, true) }));
    line.classList.toggle("chosen", isChosen);
    return line;
  }

  function totalRow(text, value) {
    return make(
      "tr",
      { className: "total" },
      make("td", { colspan: 5, textContent: text }),
      make("td", { textContent: figure(value, true) }),
    );
  }

  Object.assign(treepo, { creditOf, groupNode, creditSection });
})((globalThis.treepo ??= {}));
