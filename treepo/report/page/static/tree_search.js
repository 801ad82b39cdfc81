"use strict";

(function (treepo) {
  /** Lower case that keeps every position: what would change its length stays as it is. */
  function folded(text) {
    const lower = text.toLowerCase();
    if (lower.length === text.length) return lower;
    return Array.from(text, (c) => (c.toLowerCase().length === c.length ? c.toLowerCase() : c)).join("");
  }

  /** Where a query begins in a text, whatever the case; matches do not overlap. */
  function matches(text, query) {
    const [within, sought, found] = [folded(text), folded(query), []];
    if (!sought) return found;
    for (let at = within.indexOf(sought); at >= 0; at = within.indexOf(sought, at + sought.length)) found.push(at);
    return found;
  }

  /** For each node that a match ends in, how many do. A match may begin in a node above, but not in the prompt. */
  function searchTree(model, pieces, query) {
    const hits = new Map();
    const tails = new Map();
    if (!query) return hits;
    for (const node of model.order) {
      const above = model.tree.parents[node] > 0 ? tails.get(model.tree.parents[node]) : "";
      const text = above + treepo.nodeText(model, pieces, node);
      const number = matches(text, query).length;
      if (number) hits.set(node, number);
      tails.set(node, query.length > 1 ? text.slice(1 - query.length) : "");
    }
    return hits;
  }

  /** What a piece list says in one string, and which pieces a match touches. */
  function piecesHit(pieces, query) {
    const hit = new Set();
    const found = query ? matches(pieces.map((piece) => piece.text).join(""), query) : [];
    let [piece, end] = [-1, 0];
    for (const at of found) {
      while (end <= at) end += pieces[++piece].text.length;
      let [last, until] = [piece, end];
      hit.add(last);
      while (until < at + query.length) {
        until += pieces[++last].text.length;
        hit.add(last);
      }
    }
    return hit;
  }

  /** The text around the first match that ends in a node, for a list of results. */
  function context(model, pieces, node, query) {
    const path = node ? treepo.pathTo(model.tree, node).slice(1) : [0];
    const text = path
      .slice(-2)
      .map((i) => treepo.nodeText(model, pieces, i))
      .join("");
    const at = Math.max(0, matches(text, query)[0] ?? 0);
    return text.slice(Math.max(0, at - 20), at + query.length + 40);
  }

  Object.assign(treepo, { matches, searchTree, piecesHit, searchContext: context });
})((globalThis.treepo ??= {}));
