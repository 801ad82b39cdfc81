"use strict";

(function (treepo) {
  const make = (...given) => treepo.dom.element(...given);

  /** The tree's drawing with its tooltip and what is said of the tree. Returns {show, redraw, drawing}. */
  function treeBox(element, { set, shown, tip }) {
    const said = make("p", { className: "said" });
    const box = make("div", { className: "tree-box" });
    const keys =
      " Scroll to zoom once the tree is clicked (Escape: the page scrolls again). Keys: arrows between segments, " +
      "n and p between problems, [ and ] between steps, + − 0 to zoom.";
    const hint = make("p", { className: "note" }, "Choose a segment to read it; drag to move.");
    hint.append(make("span", { className: "keys" }, keys));
    element.append(said, box, hint);
    const hover = (node, event) => (node === null ? tip.hide() : tip.show(nodeFacts(shown(), node), event));
    const drawing = treepo.treeDrawing(box, { choose: (node) => set({ node }), hover });
    const show = (state, hits) => {
      said.textContent = summary(shown());
      drawing.show(shown(), look(shown(), state, hits));
      drawing.reveal(state.node);
    };
    new ResizeObserver(() => box.clientWidth && drawing.resize()).observe(box);
    return { show, drawing };
  }

  /** How the tree is drawn for a state: colours, what is selected, what is highlighted. */
  function look({ model, pieces }, state, hits) {
    const colours = treepo.palette();
    const group = treepo.groupNode(model, state.node);
    return {
      colours,
      scale: treepo.colourScale(state.colour, model, colours),
      rewards: treepo.colourScale("reward", model, colours),
      selected: state.node,
      band: state.band ?? (state.node && model.numLeaves[group] > 1 && group ? group : null),
      hits,
      pieces,
    };
  }

  function summary({ tree, model }) {
    const { count, percent, figure } = treepo;
    const parts = [
      count(tree.leaves.length, "leaf", "leaves"),
      count(model.size - 1, "segment"),
      `${percent(treepo.sharing(tree))} of tokens saved`,
    ];
    if (tree.observed) {
      const turns = tree.leaves.map((leaf) => model.turn[leaf]);
      parts.push(`${figure(treepo.meanOf(turns))} turns on average, ${Math.max(...turns)} at most`);
    }
    if (model.reward[0] != null) parts.push(`mean reward ${figure(model.reward[0])}`);
    if (tree.num_fallbacks) parts.push(count(tree.num_fallbacks, "fallback"));
    if (tree.num_dropped) parts.push(`${count(tree.num_dropped, "token")} dropped`);
    if (treepo.isVerified(tree)) parts.push(`known answer ${treepo.oneLine(tree.grading.ground_truth, 80)}`);
    return parts.join(" · ");
  }

  function nodeFacts({ tree, model, pieces }, node) {
    const { figure, count } = treepo;
    const facts = [node ? `node ${node}: ${count(tree.lengths[node], "token")}, ${model.origin[node]}` : "prompt"];
    const stop = tree.stops[node];
    if (tree.observed && node) facts.push(`turn ${model.turn[node]}, ${treepo.oneLine(treepo.writerOf(tree, node), 40)}`);
    if (stop) facts.push(`${stop}: ${treepo.stopMark(tree, node).meaning}`);
    const grade = treepo.gradeOf(tree, model.place.get(node));
    if (grade && treepo.isVerified(tree)) facts.push(`answer ${treepo.oneLine(grade.extracted ?? "–", 80)}: ${treepo.oneLine(grade.verdict.text, 40)}`);
    const values = [
      ["reward", model.reward],
      ["advantage", model.advantage],
      ["log-probability", model.logprob, treepo.MEAN_DIGITS],
      ["entropy", model.entropy, treepo.MEAN_DIGITS],
    ];
    const known = values
      .filter(([, own]) => own[node] != null)
      .map(([name, own, digits]) => `${name} ${figure(own[node], name === "advantage", digits)}`);
    if (known.length) facts.push(known.join(", "));
    facts.push(treepo.oneLine(treepo.nodeText(model, pieces, node), 90));
    return facts;
  }

  Object.assign(treepo, { treeBox });
})((globalThis.treepo ??= {}));
