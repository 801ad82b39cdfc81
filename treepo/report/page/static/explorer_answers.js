"use strict";

// Answers of a tree beside the known one, so that a wrong verifier can be told from a wrong model.
(function (treepo) {
  const make = (...given) => treepo.dom.element(...given);

  /** A verdict in its colour. */
  function verdictBadge({ text, kind }) {
    return make("span", { className: `verdict ${kind}`, textContent: treepo.oneLine(text, 40) });
  }

  /** An extracted answer, or a dash. */
  function answerText(answer) {
    const shown = make("bdi", { className: "answer", dir: "auto" });
    shown.textContent = answer == null ? "–" : treepo.oneLine(answer, 200);
    return shown;
  }

  /** The panel's tab: question, known answer, and a row per leaf. */
  function answersTab({ tree, model, run }, state, set) {
    const { grading } = tree;
    if (!grading) return [make("p", { className: "note", textContent: "How answers were graded is not kept here." })];
    const question = make("div", { className: "text prompt", dir: "auto", "aria-label": "Question" });
    treepo.showText(question, grading.question);
    const isKnown = treepo.isVerified(tree) || grading.ground_truth;
    const known = isKnown && make("p", { className: "known" }, "Known answer: ", answerText(grading.ground_truth));
    return [make("h3", { textContent: "Answers" }), sameProblemLinks(run, state, tree, set), question, known,
      answerTable(tree, model, state, set)].filter(Boolean);
  }

  function answerTable(tree, model, state, set) {
    const parts = Object.keys(tree.grading.parts);
    const shownParts = parts.length > 1 ? parts : [];
    const logged = Object.keys(tree.grading.extra);
    const verdicts = treepo.isVerified(tree) ? ["extracted answer", "verdict"] : [];
    const turns = tree.observed ? ["turns", "rewards by turn"] : [];
    const heads = ["leaf", ...verdicts, "reward", ...shownParts, "tokens", ...turns, "stop", ...logged];
    const cells = heads.map((text) => make("th", { scope: "col", textContent: treepo.oneLine(text, 40) }));
    const rows = treepo.leavesBelow(model, 0).map((leaf) => answerRow(tree, model, leaf, state, set, shownParts));
    const table = make("table", { className: "components answers" },
      make("thead", {}, make("tr", {}, ...cells)), make("tbody", {}, ...rows));
    return make("div", { className: "scroll" }, table);
  }

  function answerRow(tree, model, leaf, state, set, shownParts) {
    const { figure } = treepo;
    const place = model.place.get(leaf);
    const grade = treepo.gradeOf(tree, place);
    const read = treepo.dom.button(String(leaf), () => set({ node: leaf, tab: "trajectory" }), {
      className: "link", title: "Read this trajectory",
    });
    const texts = [
      figure(model.reward[leaf]),
      ...shownParts.map((name) => figure(tree.grading.parts[name][place])),
      String(model.sampled[leaf]),
      ...(tree.observed ? [String(model.turn[leaf]), treepo.rewardsText(treepo.turnRewards(tree, leaf))] : []),
      tree.stops[leaf],
      ...Object.values(tree.grading.extra).map((values) => treepo.oneLine(values[place], 80)),
    ];
    const judged = treepo.isVerified(tree) ? [answerText(grade.extracted), verdictBadge(grade.verdict)] : [];
    const cells = [read, ...judged].map((shown) => make("td", {}, shown));
    const row = make("tr", {}, ...cells, ...texts.map((textContent) => make("td", { textContent })));
    row.classList.toggle("chosen", leaf === state.leaf);
    return row;
  }

  /** Ways to the same problem at other steps; null if it was asked once. */
  function sameProblemLinks(run, state, tree, set) {
    const places = treepo.sameProblem(run, tree.problem);
    if (places.length < 2) return null;
    const links = places.map((place) => {
      const { rewards } = run.trees.steps.find(({ step }) => step === place.step).trees[place.tree];
      const mean = rewards ? ` · ${treepo.figure(treepo.meanOf(rewards))}` : "";
      const link = treepo.dom.button(`${place.step}${mean}`, () => set({ ...place, tab: state.tab }), {
        className: "chip", title: "The same problem at this step, with its mean reward",
      });
      link.setAttribute("aria-pressed", place.step === state.step);
      return link;
    });
    const told = make("span", { className: "note", textContent: "This problem at step:" });
    return make("div", { className: "chips same-problem" }, told, ...links);
  }

  Object.assign(treepo, { answersTab, sameProblemLinks, verdictBadge, answerText });
})((globalThis.treepo ??= {}));
