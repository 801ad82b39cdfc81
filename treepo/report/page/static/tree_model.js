"use strict";

(function (treepo) {
  /** What a tree of the payload means, as arrays over its nodes: positions in response tokens, rows, means, origins.
   *
   * `ends` are the nodes without children, depth first: `ends[r]` is drawn in row r, and below a node lie the rows from
   * `first` up to, not including, `last`. Means over leaves count those that ended; null where there is none. */
  function treeModel(tree) {
    const children = childrenOf(tree.parents);
    const order = depthFirst(children);
    const model = { tree, size: tree.parents.length, children, order, ends: order.filter((i) => !children[i].length) };
    Object.assign(model, positions(tree, order), rows(model), {
      place: new Map(tree.leaves.map((leaf, i) => [leaf, i])),
    });
    model.offset = offsets(tree.lengths);
    model.numTokens = Math.max(1, ...model.end);
    Object.assign(model, turns(tree, order));
    model.origin = tree.parents.map((_, i) => origin(tree, children, i));
    Object.assign(model, means(model));
    return model;
  }

  function childrenOf(parents) {
    const children = parents.map(() => []);
    parents.forEach((parent, i) => parent >= 0 && children[parent].push(i));
    return children;
  }

  /** All nodes, parents before children, in the order of `Tree.top_down`. */
  function depthFirst(children) {
    const order = [];
    const stack = [0];
    while (stack.length) {
      const node = stack.pop();
      order.push(node);
      for (let i = children[node].length - 1; i >= 0; i--) stack.push(children[node][i]);
    }
    return order;
  }

  /** Where each node starts and ends in response tokens, and how many nodes lie above it. */
  function positions(tree, order) {
    const start = new Array(order.length).fill(0);
    const end = new Array(order.length).fill(0);
    const depth = new Array(order.length).fill(0);
    for (const node of order.slice(1)) {
      const parent = tree.parents[node];
      start[node] = end[parent];
      end[node] = start[node] + tree.lengths[node];
      depth[node] = depth[parent] + 1;
    }
    return { start, end, depth };
  }

  /** For each node the sampled tokens up to its end, and the number of its turn, from 1; what was observed belongs to
   * the turn that it answers. */
  function turns(tree, order) {
    const sampled = new Array(order.length).fill(0);
    const turn = new Array(order.length).fill(1);
    for (const node of order.slice(1)) {
      const parent = tree.parents[node];
      sampled[node] = sampled[parent] + (tree.observed?.[node] ? 0 : tree.lengths[node]);
      turn[node] = turn[parent] + (tree.observed?.[parent] ? 1 : 0);
    }
    return { sampled, turn };
  }

  /** What the environment gave on the way to a node, turn by turn. */
  function turnRewards(tree, node) {
    return pathTo(tree, node)
      .map((i) => tree.turn_rewards?.[i])
      .filter((reward) => reward != null);
  }

  /** Who wrote a node: "model", or the role of what was observed. */
  function writerOf(tree, node) {
    return tree.observed?.[node] ? (tree.roles?.[node] ?? "environment") : "model";
  }

  /** Rows of the ends below each node, and its own: half way between its outermost children's. */
  function rows({ children, order, ends }) {
    const first = new Array(order.length);
    const last = new Array(order.length);
    const row = new Array(order.length);
    ends.forEach((node, i) => ([first[node], last[node], row[node]] = [i, i + 1, i]));
    for (const node of [...order].reverse()) {
      const own = children[node];
      if (!own.length) continue;
      first[node] = first[own[0]];
      last[node] = last[own.at(-1)];
      row[node] = (row[own[0]] + row[own.at(-1)]) / 2;
    }
    return { first, last, row };
  }

  /** For each node, where its tokens begin in the tree's flat lists. */
  function offsets(lengths) {
    const offset = [0];
    for (let i = 1, sum = 0; i < lengths.length; sum += lengths[i++]) offset.push(sum);
    return offset;
  }

  /** Why a node begins where it does. */
  function origin(tree, children, node) {
    if (node === 0) return "prompt";
    if (tree.observed?.[node]) return "environment";
    if (tree.resumed[node]) return "fallback";
    const parent = tree.parents[node];
    const drawn = children[parent].filter((i) => !tree.resumed[i]).length;
    if (drawn < 2) return parent === 0 ? "only start" : "continued";
    return parent === 0 ? "initial fork" : "branching";
  }

  function means(model) {
    const { tree, size, place } = model;
    const over = (values) => values && ((leaf) => values[place.get(leaf)]);
    const nodes = Array.from({ length: size }, (_, i) => i);
    const below = (values) => nodes.map((i) => (values ? mean(leavesBelow(model, i).map(over(values))) : null));
    const tokens = (values) => nodes.map((i) => (values ? mean(tokensOf(model, values, i)) : null));
    return {
      numLeaves: nodes.map((i) => leavesBelow(model, i).length),
      reward: below(tree.rewards),
      advantage: tree.node_advantages ?? below(tree.advantages),
      logprob: tokens(tree.logprobs),
      entropy: tokens(tree.entropies),
    };
  }

  /** The mean of the values that are known; null where none is. */
  function mean(values) {
    const known = values.filter((value) => value != null);
    return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
  }

  /** The leaves at or below a node, in the order of rows. */
  function leavesBelow(model, node) {
    return model.ends.slice(model.first[node], model.last[node]).filter((end) => model.place.has(end));
  }

  /** A node's part of one of the flat lists; the prompt has none. */
  function tokensOf(model, values, node) {
    return node ? values.slice(model.offset[node], model.offset[node] + model.tree.lengths[node]) : [];
  }

  /** Nodes from the prompt to `node`, both included. */
  function pathTo(tree, node) {
    const path = [];
    for (let i = node; i >= 0; i = tree.parents[i]) path.push(i);
    return path.reverse();
  }

  /** The share of tokens that sequential sampling of the same trajectories would decode and this tree did not. */
  function sharing(tree) {
    const sampled = tree.lengths.map((n, i) => (i && !tree.observed?.[i] ? n : 0));
    const decoded = sampled.reduce((sum, n) => sum + n, 0) + tree.num_dropped;
    const end = new Array(tree.parents.length);
    const lengthTo = (node) => (end[node] ??= node ? lengthTo(tree.parents[node]) + sampled[node] : 0);
    const sequential = tree.leaves.reduce((sum, leaf) => sum + lengthTo(leaf), 0);
    return sequential ? 1 - decoded / sequential : 0;
  }

  /** Whether something is learned from a tree: answers that are all as good as each other have no advantage. */
  function hasSignal(tree) {
    return [tree.advantages, tree.node_advantages].some((values) => values?.some(Boolean));
  }

  /** The text of a node: the prompt, or its tokens' pieces joined. */
  function nodeText(model, pieces, node) {
    return node
      ? tokensOf(model, model.tree.ids, node)
          .map((id) => pieces[id])
          .join("")
      : model.tree.prompt;
  }

  Object.assign(treepo, {
    treeModel,
    leavesBelow,
    tokensOf,
    pathTo,
    sharing,
    hasSignal,
    nodeText,
    turnRewards,
    writerOf,
    meanOf: mean,
  });
})((globalThis.treepo ??= {}));
