"use strict";

// The section of held-out answers: the same problems at an early and a late evaluation, side by side.
(function (treepo) {
  const KINDS = {
    all: { label: "all", has: () => true },
    gained: { label: "became right", has: ([before, after]) => !isRight(before) && isRight(after) },
    lost: { label: "became wrong", has: ([before, after]) => isRight(before) && !isRight(after) },
    wrong: { label: "wrong at the later step", has: ([, after]) => !isRight(after) },
  };

  const isRight = (answer) => answer?.correct === 1;
  const hasAnswers = (run) => run.held_out?.steps.length > 0;

  function answerElement(answer, step) {
    const { element, visible } = treepo.dom;
    const head = element("header", {}, element("strong", {}, `step ${step}`));
    if (!answer) return element("article", {}, head, element("p", { className: "note" }, "not asked"));
    if (answer.outcome !== "unverified") {
      const verdict = treepo.verdictBadge(treepo.verdict(answer.correct, answer.outcome));
      head.append(verdict, treepo.answerText(answer.extracted));
    }
    if (answer.reward != null) head.append(element("span", { className: "note" }, `reward ${treepo.figure(answer.reward)}`));
    const length = answer.num_tokens === null ? "" : treepo.count(answer.num_tokens, "token");
    head.append(element("span", { className: "note" }, visible([length, answer.stop].filter(Boolean).join(", "))));
    const text = element("div", { className: "text", dir: "auto", tabIndex: 0, ariaLabel: `Answer at step ${step}` });
    if (answer.turns?.length) treepo.showTurns(text, answer.turns);
    else treepo.showText(text, answer.response);
    const cut = answer.num_cut ? [element("p", { className: "note" }, `${answer.num_cut} more characters`)] : [];
    return element("article", {}, head, text, ...cut);
  }

  function problemElement(problem, pair, steps) {
    const { element, visible } = treepo.dom;
    const question = element("div", { className: "question", dir: "auto" });
    treepo.showText(question, problem.question);
    const answer = problem.ground_truth ? ["Known answer: ", treepo.answerText(problem.ground_truth)] : [];
    const known = element("p", { className: "known" }, ...answer);
    const columns = pair.map((answer, i) => answerElement(answer, steps[i]));
    const grid = element("div", { className: "pair" }, ...columns);
    return element("section", { className: "held-out", title: visible(problem.problem) }, question, known, grid);
  }

  class View {
    constructor(element, payload) {
      const { dom } = treepo;
      this.state = { run: null, early: null, late: null, kind: "all" };
      this.tools = dom.element("div", { className: "bar tools" });
      this.said = dom.element("p", { className: "note", role: "status" });
      this.list = dom.element("div", { className: "held-out-list" });
      element.append(this.tools, this.said, this.list);
      this.update(payload);
    }

    update({ runs }) {
      this.runs = runs.filter(hasAnswers);
      this.show();
    }

    choose(changes) {
      this.state = { ...this.state, ...changes };
      this.show();
    }

    show() {
      const { dom } = treepo;
      const run = this.runs.find(({ name }) => name === this.state.run) ?? this.runs[0];
      if (!run) {
        this.key = "";
        this.tools.replaceChildren();
        this.said.textContent = "No run with held-out answers is shown.";
        this.list.replaceChildren();
        return;
      }
      const { steps, problems, note } = run.held_out;
      const places = [this.place(steps, this.state.early, 0), this.place(steps, this.state.late, steps.length - 1)];
      this.showTools(run, places);
      const pairs = problems.map((problem) => places.map((place) => problem.answers[place]));
      const num = (kind) => pairs.filter(KINDS[kind].has).length;
      const counts = `${num("gained")} became right, ${num("lost")} became wrong`;
      const of = `greedy answers to ${treepo.count(problems.length, "held-out problem")}`;
      this.said.textContent = dom.visible([`${of}: ${counts}`, note].filter(Boolean).join("; "));
      const chosen = [...problems.keys()].filter((i) => KINDS[this.state.kind].has(pairs[i]));
      // What changed comes first.
      const rank = (i) => [KINDS.gained, KINDS.lost].findIndex(({ has }) => has(pairs[i])) >>> 0;
      chosen.sort((i, j) => rank(i) - rank(j));
      const shown = chosen.map((i) => problemElement(problems[i], pairs[i], places.map((place) => steps[place])));
      const none = dom.element("p", { className: "note" }, "There is no such problem.");
      this.list.replaceChildren(...(shown.length ? shown : [none]));
    }

    place(steps, step, otherwise) {
      const found = steps.indexOf(step);
      return found < 0 ? otherwise : found;
    }

    // Made anew only for other choices: one that is being used keeps the focus.
    showTools(run, [early, late]) {
      const { dom } = treepo;
      const key = JSON.stringify([this.runs.map(({ name }) => name), run.name, run.held_out.steps]);
      if (key === this.key) return;
      this.key = key;
      const names = this.runs.map(({ name }) => [name, dom.visible(name)]);
      const steps = run.held_out.steps.map((step) => [String(step), String(step)]);
      const kinds = Object.entries(KINDS).map(([kind, { label }]) => [kind, label]);
      const chosen = (place) => String(run.held_out.steps[place]);
      this.tools.replaceChildren(
        ...(names.length > 1 ? [dom.choice("run", names, run.name, (name) => this.choose({ run: name }))] : []),
        dom.choice("step", steps, chosen(early), (step) => this.choose({ early: Number(step) })),
        dom.choice("against step", steps, chosen(late), (step) => this.choose({ late: Number(step) })),
        dom.choice("show", kinds, this.state.kind, (kind) => this.choose({ kind })),
      );
    }

    theme() {}
  }

  treepo.heldOut = { has: ({ runs }) => runs.some(hasAnswers), mount: (element, payload) => new View(element, payload) };
})((globalThis.treepo ??= {}));
