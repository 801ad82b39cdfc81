"use strict";

// Who wrote what: the heads of turns in a trajectory's text, and turns of which only the texts are known.
(function (treepo) {
  const make = (...given) => treepo.dom.element(...given);

  /** Rewards of turns as text; a dash without any. */
  function rewardsText(rewards) {
    return rewards.map((reward) => treepo.figure(reward)).join(", ") || "–";
  }

  /** The mark where a node begins on the path to a leaf, behind the head of a turn where it begins one. */
  function withTurn({ tree, model }, node, leaf, border) {
    const parent = tree.parents[node];
    const begins = tree.observed && (parent === 0 || Boolean(tree.observed[node]) !== Boolean(tree.observed[parent]));
    if (!begins) return border;
    const isObserved = Boolean(tree.observed[node]);
    const path = treepo.pathTo(tree, leaf);
    const end = path.slice(path.indexOf(node)).find((i) => tree.turn_rewards[i] != null && (i === leaf || tree.observed[i]));
    // What was given for a turn stands at the reply to it, or at the leaf.
    const reward = isObserved || end === undefined || model.turn[end] !== model.turn[node] ? null : tree.turn_rewards[end];
    const both = document.createDocumentFragment();
    both.append(turnHead(treepo.writerOf(tree, node), model.turn[node], reward, isObserved), border);
    return both;
  }

  function turnHead(writer, number, reward, isObserved) {
    const given = reward == null ? "" : ` · reward ${treepo.figure(reward)}`;
    const textContent = `${treepo.oneLine(writer, 40)} · turn ${number}${given}`;
    return make("span", { className: `turn-head ${isObserved ? "of-environment" : "of-model"}`, textContent });
  }

  /** Show turns {role, text, reward} in an element, one below the other. */
  function showTurns(element, turns) {
    const shown = turns.map(({ role, text, reward }, i) => {
      const isObserved = role !== "assistant";
      const own = make("div", { className: isObserved ? "observed" : "", dir: "auto" });
      treepo.showText(own, text);
      const writer = isObserved ? role : "model";
      return make("div", {}, turnHead(writer, Math.floor(i / 2) + 1, reward, isObserved), own);
    });
    element.replaceChildren(...shown);
  }

  Object.assign(treepo, { rewardsText, withTurn, showTurns });
})((globalThis.treepo ??= {}));
