"use strict";

(function (treepo) {
  /** What a key does to a state, as changes of it; null where it does nothing. */
  function changesOf(key, state, { model, step, run }) {
    const { parents } = model.tree;
    const moves = {
      ArrowLeft: () => (state.node ? { node: parents[state.node] } : null),
      ArrowRight: () => (model.children[state.node].length ? { node: model.children[state.node][0] } : null),
      ArrowUp: () => beside(model, state.node, -1),
      ArrowDown: () => beside(model, state.node, 1),
      n: () => (step.trees[state.tree + 1] ? { tree: state.tree + 1 } : null),
      p: () => (state.tree ? { tree: state.tree - 1 } : null),
      "[": () => stepBy(run, state, -1),
      "]": () => stepBy(run, state, 1),
    };
    return Object.hasOwn(moves, key) ? moves[key]() : null;
  }

  /** The next node up or down that overlaps this one in tokens, or else ends last before it. */
  function beside(model, node, by) {
    const { row, start, end } = model;
    const middle = (start[node] + end[node]) / 2;
    const isThere = (i) => i && (row[i] - row[node]) * by > 0;
    const distance = (i) => {
      const apart = Math.max(0, start[i] - middle, middle - end[i]);
      return Math.abs(row[i] - row[node]) + (apart ? 1000 + apart : 0);
    };
    let best = null;
    for (const i of model.order) if (isThere(i) && (best === null || distance(i) < distance(best))) best = i;
    return best === null ? null : { node: best };
  }

  /** The same problem at the step before or after, where it is there, or else the problem at its place. */
  function stepBy(run, state, by) {
    const steps = run.trees.steps.filter((own) => own.trees.length);
    const at = steps.findIndex((own) => own.step === state.step);
    const next = steps[at + by];
    if (!next) return null;
    const { problem } = steps[at].trees[state.tree];
    const same = next.trees.findIndex((tree) => tree.problem === problem);
    return { step: next.step, tree: same >= 0 ? same : Math.min(state.tree, next.trees.length - 1) };
  }

  Object.assign(treepo, { changesOfKey: changesOf, stepBy });
})((globalThis.treepo ??= {}));
