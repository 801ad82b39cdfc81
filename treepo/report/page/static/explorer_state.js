"use strict";

(function (treepo) {
  const START = {
    run: null,
    step: null,
    tree: null,
    node: 0,
    leaf: null,
    band: null,
    view: "tree",
    tab: "segment",
    colour: "reward",
    shade: "logprob",
    query: "",
    scope: "tree",
    leaves: null,
  };

  /** The runs of a payload that have trees. */
  function runsWithTrees(payload) {
    return payload.runs.filter((run) => run.trees?.steps?.some((step) => step.trees.length));
  }

  /** A state as it can be shown: what is not there is replaced by what is, a tree by the first that has a signal. */
  function settled(state, runs) {
    const run = runs.find((own) => own.name === state.run) ?? runs[0];
    const steps = run.trees.steps.filter((own) => own.trees.length);
    const step = steps.find((own) => own.step === state.step) ?? steps.at(-1);
    const tree = step.trees[state.tree] ? state.tree : Math.max(0, step.trees.findIndex(treepo.hasSignal));
    const isOneOf = (value, names, otherwise) => (names.includes(value) ? value : otherwise);
    return {
      ...state,
      run: run.name,
      step: step.step,
      tree,
      view: isOneOf(state.view, ["tree", "compare"], "tree"),
      tab: isOneOf(state.tab, ["segment", "trajectory", "answers"], "segment"),
      colour: isOneOf(state.colour, Object.keys(treepo.colourKinds), "reward"),
      shade: isOneOf(state.shade, Object.keys(treepo.tokenShades), "logprob"),
      ...settledNode(state, step.trees[tree]),
    };
  }

  function settledNode(state, tree) {
    const node = state.node < tree.parents.length ? state.node : 0;
    const isLeaf = (leaf) => tree.leaves.includes(leaf);
    const below = tree.leaves.filter((leaf) => treepo.pathTo(tree, leaf).includes(node));
    const chosen = (state.leaves ?? []).filter(isLeaf);
    return {
      node,
      leaf: below.includes(state.leaf) ? state.leaf : (below[0] ?? null),
      band: state.band != null && state.band < tree.parents.length ? state.band : null,
      leaves: chosen.length > 1 ? [...new Set(chosen)] : null,
    };
  }

  /** What a change of some fields entails: another problem begins at its prompt, another node at its own group. */
  function changed(state, changes) {
    const isOther = (names) => names.some((name) => name in changes && changes[name] !== state[name]);
    const next = { ...state, ...changes };
    if (isOther(["run", "step", "tree"]))
      Object.assign(next, { node: 0, leaf: null, band: null, leaves: null }, changes);
    else if (isOther(["node"])) Object.assign(next, { leaf: null, band: null }, changes);
    return next;
  }

  /** The tree that a state chooses and what it means, with the texts of its tokens. */
  function shownTree(state, runs) {
    const run = runs.find((own) => own.name === state.run);
    const step = run.trees.steps.find((own) => own.step === state.step);
    const tree = step.trees[state.tree];
    const model = treepo.treeModel(tree);
    const key = JSON.stringify([state.run, state.step, state.tree]);
    return { key, run, step, tree, model, pieces: run.trees.pieces, largest: treepo.largestValues(tree, model) };
  }

  /** The change that shows the trajectory to a leaf: from the node on, or where it is not below it, as the node. */
  function choosingLeaf(model, state, leaf) {
    return treepo.leavesBelow(model, state.node).includes(leaf) ? { leaf } : { node: leaf };
  }

  Object.assign(treepo, { choosingLeaf, startState: START, runsWithTrees, settled, changedState: changed, shownTree });
})((globalThis.treepo ??= {}));
