"use strict";

(function (treepo) {
  const make = (...given) => treepo.dom.element(...given);

  /** The list of a step's problems, which can be searched. `choose(index)` is called for clicks. Returns {show}. */
  function problemList(element, choose) {
    const search = make("input", { type: "search", placeholder: "Find a problem", "aria-label": "Find a problem" });
    const list = make("ol", { className: "problems" });
    element.append(search, list);
    let shown = { trees: [], index: 0 };
    const fill = () => {
      const found = [...shown.trees.keys()].filter((i) => isFound(shown.trees[i], search.value));
      list.replaceChildren(...found.map((i) => entry(shown.trees[i], i, i === shown.index, choose)));
      if (!found.length) list.append(make("li", { className: "none", textContent: "No problem contains this." }));
    };
    search.addEventListener("input", fill);
    const show = (trees, index) => {
      const isSame = trees === shown.trees;
      shown = { trees, index };
      if (isSame) mark(list, index);
      else fill();
      showMarked(list);
    };
    return { show };
  }

  function isFound(tree, query) {
    const texts = [tree.problem, tree.prompt, tree.grading?.question ?? "", tree.grading?.ground_truth ?? ""];
    return !query || texts.some((text) => treepo.matches(text, query).length > 0);
  }

  function entry(tree, index, isChosen, choose) {
    const name = make("bdi", { className: "name", dir: "auto" });
    name.textContent = treepo.questionOf(tree, 90);
    const mean = tree.rewards && treepo.meanOf(tree.rewards);
    const facts = [
      treepo.count(tree.leaves.length, "leaf", "leaves"),
      `${treepo.percent(treepo.sharing(tree))} saved`,
    ];
    if (mean != null) facts.unshift(`reward ${treepo.figure(mean)}`);
    if (treepo.hasSignal(tree)) facts.unshift("signal");
    const button = make(
      "button",
      { type: "button", "data-tree": index, title: treepo.oneLine(tree.problem, 200) },
      name,
    );
    if (tree.rewards?.length) button.append(rewardStrip(tree.rewards));
    button.append(make("span", { className: "facts", textContent: facts.join(" · ") }));
    button.classList.toggle("signal", treepo.hasSignal(tree));
    const item = make("li", {}, button);
    button.addEventListener("click", () => choose(index));
    if (isChosen) button.setAttribute("aria-current", "true");
    return item;
  }

  /** A strip with the rewards of a tree's leaves, highest first. */
  function rewardStrip(rewards) {
    const [low, high] = [Math.min(0, ...rewards), Math.max(1, ...rewards)];
    const cells = [...rewards]
      .sort((a, b) => b - a)
      .map((reward) => {
        const cell = make("i");
        const share = Math.round((100 * (reward - low)) / (high - low));
        cell.style.background = `color-mix(in srgb, var(--high) ${share}%, var(--low))`;
        return cell;
      });
    return make("span", { className: "strip", "aria-hidden": "true" }, ...cells);
  }

  function mark(list, index) {
    for (const button of list.querySelectorAll("button")) {
      if (Number(button.dataset.tree) === index) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
  }

  /** Scroll the list, and nothing else, to the chosen problem. */
  function showMarked(list) {
    const chosen = list.querySelector("[aria-current]");
    if (!chosen) return;
    const [box, at] = [list.getBoundingClientRect(), chosen.getBoundingClientRect()];
    if (at.top < box.top) list.scrollTop -= box.top - at.top;
    if (at.bottom > box.bottom) list.scrollTop += at.bottom - box.bottom;
  }

  Object.assign(treepo, { problemList });
})((globalThis.treepo ??= {}));
