"use strict";

(function (treepo) {
  const SHADES = { logprob: "log-probability", entropy: "entropy", advantage: "advantage", none: "nothing" };

  /** The pieces of a node's tokens, shaded, as `showPieces` takes them; `index` is their place in the tree's lists. */
  function nodePieces({ tree, model, pieces, largest }, node, shade, advantage) {
    const first = model.offset[node];
    const values = shade === "advantage" ? null : tree[shade === "logprob" ? "logprobs" : "entropies"];
    const most = shade === "advantage" ? largest.advantage : largest.entropy;
    const isObserved = Boolean(tree.observed?.[node]);
    return treepo.tokensOf(model, tree.ids, node).map((id, i) => {
      const value = shade === "advantage" ? advantage : values?.[first + i];
      const own = { text: pieces[id], index: first + i };
      return isObserved ? { ...own, class: "observed" } : { ...own, shade: treepo.tokenShade(shade, value, most) };
    });
  }

  /** The largest entropy of a token and the largest advantage of a tree, which shades are relative to. */
  function largestValues(tree, model) {
    const most = (values) => (values ?? []).reduce((largest, value) => Math.max(largest, Math.abs(value ?? 0)), 0);
    return { entropy: most(tree.entropies), advantage: most(model.advantage) };
  }

  /** Mark the pieces that a query's matches touch. */
  function withHits(pieces, query) {
    const hit = treepo.piecesHit(pieces, query);
    return pieces.map((piece, i) => (hit.has(i) ? { ...piece, class: `${piece.class ?? ""} hit`.trim() } : piece));
  }

  /** What is said of a token when the pointer is on it. */
  function tokenFacts({ tree, model, pieces }, index) {
    const [logprob, entropy] = [tree.logprobs?.[index], tree.entropies?.[index]];
    const node = model.offset.findLastIndex((offset, i) => i && offset <= index);
    const facts = tree.observed?.[node] ? ["not sampled: written by the environment or the chat template"] : [];
    facts.push(`token “${treepo.oneLine(pieces[tree.ids[index]], 60)}”`);
    if (logprob != null) {
      facts.push(`log-probability ${treepo.figure(logprob)}`, `probability ${treepo.figure(Math.exp(logprob))}`);
    }
    if (entropy != null) facts.push(`entropy ${treepo.figure(entropy)} nats`);
    return facts;
  }

  /** A box beside the pointer with a few lines. Returns {show(lines, event), hide}. */
  function tooltip(element) {
    const box = treepo.dom.element("div", { className: "tip", role: "tooltip", hidden: true });
    element.append(box);
    const show = (lines, event) => {
      box.hidden = false;
      box.replaceChildren(...lines.map((text) => treepo.dom.element("div", { textContent: text, dir: "auto" })));
      const { width, height } = box.getBoundingClientRect();
      const left = Math.min(event.clientX + 14, innerWidth - width - 8);
      const below = event.clientY + 16;
      box.style.left = `${Math.max(4, left)}px`;
      box.style.top = `${below + height > innerHeight ? event.clientY - height - 12 : below}px`;
    };
    return { show, hide: () => (box.hidden = true) };
  }

  /** Tell of the tokens of an element, now and later, when the pointer is on them. */
  function tellTokens(element, tip, shown) {
    element.addEventListener("pointerover", (event) => {
      const index = event.target.closest?.("[data-index]")?.dataset.index;
      if (index === undefined) tip.hide();
      else tip.show(tokenFacts(shown(), Number(index)), event);
    });
    element.addEventListener("pointerleave", tip.hide);
  }

  Object.assign(treepo, { tokenShades: SHADES, nodePieces, largestValues, withHits, tooltip, tellTokens });
})((globalThis.treepo ??= {}));
