"use strict";

(function (treepo) {
  const make = (...given) => treepo.dom.element(...given);
  const ORIGINS = {
    prompt: "the prompt",
    "initial fork": "initial fork below the prompt",
    environment: "what the environment wrote",
    "only start": "only path from the prompt",
    branching: "branching",
    continued: "continues its parent",
    fallback: "drawn by a fallback",
  };

  /** The panel beside the tree: a node's text, facts and credit, or the trajectory through it. Returns {show}. */
  function nodePanel(element, { tip, set, shown }) {
    const body = make("div", { className: "panel-body" });
    const tabs = { segment: "Segment", trajectory: "Trajectory", answers: "Answers" };
    const buttons = Object.entries(tabs).map(([name, text]) => {
      return make("button", {
        type: "button",
        role: "tab",
        textContent: text,
        "data-tab": name,
        onclick: () => set({ tab: name }),
      });
    });
    const shade = shadeChoice(set);
    element.append(
      make(
        "div",
        { className: "panel-head" },
        make("div", { role: "tablist", className: "tabs" }, ...buttons),
        shade.label,
      ),
      body,
    );
    treepo.tellTokens(body, tip, shown);
    body.addEventListener("click", (event) => {
      const node = event.target.closest("[data-goto]")?.dataset.goto;
      if (node !== undefined) set({ node: Number(node) });
    });
    const show = (state) => {
      buttons.forEach((button) => button.setAttribute("aria-selected", button.dataset.tab === state.tab));
      shade.select.value = state.shade;
      shade.label.hidden = state.tab === "answers";
      const made = { segment, trajectory, answers: treepo.answersTab };
      body.replaceChildren(...made[state.tab](shown(), state, set));
      if (state.tab === "trajectory") showBorder(body, state.node);
    };
    return { show };
  }

  function shadeChoice(set) {
    return treepo.labelled("Shade by", Object.entries(treepo.tokenShades), "logprob", (value) => set({ shade: value }));
  }

  function segment(shown, state, set) {
    const { model } = shown;
    const { node } = state;
    const text = make("div", { className: "text", dir: "auto", tabindex: 0, "aria-label": "Text of the segment" });
    if (node)
      treepo.showPieces(
        text,
        treepo.withHits(treepo.nodePieces(shown, node, state.shade, model.advantage[node]), state.query),
      );
    else treepo.showPieces(text, treepo.withHits([{ text: shown.tree.prompt }], state.query));
    const head = make("h3", { textContent: node ? `Node ${node}` : "Prompt" });
    const elsewhere = treepo.sameProblemLinks(shown.run, state, shown.tree, set);
    return [
      head,
      breadcrumb(shown.tree, node),
      ...(elsewhere ? [elsewhere] : []),
      factList(facts(shown, node)),
      text,
      treepo.creditSection(shown, state, set),
    ];
  }

  /** The nodes from the prompt to this one, each a way to it. */
  function breadcrumb(tree, node) {
    const links = treepo.pathTo(tree, node).map((i) => {
      return make("button", {
        type: "button",
        className: "link",
        "data-goto": i,
        textContent: i ? String(i) : "prompt",
        "aria-current": i === node,
      });
    });
    return make("nav", { className: "breadcrumb", "aria-label": "Path to the node" }, ...links);
  }

  function facts({ tree, model }, node) {
    const { figure } = treepo;
    const of = tree.observed ? "all turns" : "the response";
    const tokens = node ? `${model.start[node] + 1}–${model.end[node]} of ${of}` : "";
    const stop = tree.stops[node];
    const meanBelow = stop ? "" : " (mean below)";
    const below = tree.node_advantages ? "" : meanBelow;
    const perToken = (value) => figure(value, false, treepo.MEAN_DIGITS);
    const grade = treepo.gradeOf(tree, model.place.get(node));
    const isVerified = treepo.isVerified(tree);
    const known = [
      ["answer", isVerified && grade ? treepo.oneLine(grade.extracted ?? "–", 200) : null],
      ["known answer", (grade || !node) && isVerified ? treepo.oneLine(tree.grading.ground_truth, 200) : null],
      ["verdict", isVerified && grade ? treepo.oneLine(grade.verdict.text, 40) : null],
      ["tokens", treepo.count(tree.lengths[node], "token") + (tokens && ` (${tokens})`)],
      ["turn", tree.observed && node ? String(model.turn[node]) : null],
      ["written by", tree.observed && node ? treepo.oneLine(treepo.writerOf(tree, node), 60) : null],
      ["depth", String(model.depth[node])],
      ["began", began({ tree, model }, node)],
      ["leaves below", stop ? "is a leaf" : String(model.numLeaves[node])],
      ["stop", stop ? `${stop}: ${treepo.stopMark(tree, node).meaning}` : null],
      ["reward", model.reward[node] == null ? null : figure(model.reward[node]) + meanBelow],
      ["reward of the turn", tree.turn_rewards?.[node] == null ? null : figure(tree.turn_rewards[node])],
      ["parts of it", (grade && treepo.partsText(grade.parts)) || null],
      ["advantage", model.advantage[node] == null ? null : figure(model.advantage[node], true) + below],
      ["log-probability", model.logprob[node] == null ? null : `${perToken(model.logprob[node])} per token`],
      ["entropy", model.entropy[node] == null ? null : `${perToken(model.entropy[node])} nats per token`],
    ];
    return known.filter(([, value]) => value != null);
  }

  function began({ tree, model }, node) {
    const origin = model.origin[node];
    const ways = model.children[tree.parents[node]]?.filter((i) => !tree.resumed[i]).length;
    const into = origin === "branching" || origin === "initial fork" ? `, one of ${ways}` : "";
    return ORIGINS[origin] + into + forked({ tree, model }, node);
  }

  /** Where the environment was forked, if it was for this node. */
  function forked({ tree, model }, node) {
    const parent = tree.parents[node];
    if (!tree.observed || !node || model.children[parent].length < 2) return "";
    const isStart = parent === 0 || tree.observed[parent];
    return `; the environment forks ${isStart ? "where" : "within"} turn ${model.turn[node]}${isStart ? " begins" : ""}`;
  }

  function factList(pairs) {
    return make(
      "dl",
      { className: "facts" },
      ...pairs.flatMap(([name, text]) => [make("dt", { textContent: name }), make("dd", { textContent: text })]),
    );
  }

  /** Root to leaf as one text: the prompt, then segments with their borders and forks. */
  function trajectory(shown, state, set) {
    const { tree, model } = shown;
    const leaf = state.leaf ?? state.node;
    const prompt = make("div", { className: "text prompt", dir: "auto", "aria-label": "Prompt" });
    treepo.showPieces(prompt, treepo.withHits([{ text: tree.prompt }], state.query));
    const text = make("div", { className: "text", dir: "auto", tabindex: 0, "aria-label": "Text of the trajectory" });
    treepo.showPieces(text, treepo.withHits(trajectoryPieces(shown, leaf, state.shade), state.query));
    const stop = tree.stops[leaf];
    const reward = model.reward[leaf] == null ? "" : `, reward ${treepo.figure(model.reward[leaf])}`;
    const grade = treepo.gradeOf(tree, model.place.get(leaf));
    const graded = grade && treepo.isVerified(tree)
      ? `; answer ${treepo.oneLine(grade.extracted ?? "–", 200)}, known answer ` +
        `${treepo.oneLine(tree.grading.ground_truth, 200)}: ${treepo.oneLine(grade.verdict.text, 40)}`
      : "";
    const said =
      `${treepo.count(model.sampled[leaf], "token")} in ${treepo.count(model.depth[leaf], "segment")}` +
      (tree.observed ? ` and ${treepo.count(model.turn[leaf], "turn")}; ` : "; ") +
      (stop ? `${treepo.stopMark(tree, leaf).meaning}${reward}${graded}` : "no leaf");
    const group = treepo.groupNode(model, state.node);
    return [
      make("h3", { textContent: `Trajectory to leaf ${leaf}` }),
      make("p", { className: "note", textContent: said }),
      leafChoice(model, group, state, set),
      prompt,
      text,
    ];
  }

  function leafChoice(model, group, state, set) {
    const options = treepo.leavesBelow(model, group).map((leaf) => {
      const reward = model.reward[leaf] == null ? "" : `, reward ${treepo.figure(model.reward[leaf])}`;
      return [leaf, `leaf ${leaf}: ${treepo.count(model.sampled[leaf], "token")}${reward}`];
    });
    return treepo.labelled("Read", options, state.leaf ?? "", (value) =>
      set(treepo.choosingLeaf(model, state, Number(value))),
    ).label;
  }

  function trajectoryPieces(shown, leaf, shade) {
    const { model } = shown;
    return treepo
      .pathTo(shown.tree, leaf)
      .slice(1)
      .flatMap((node) => {
        const advantage = shown.tree.node_advantages ? model.advantage[node] : model.advantage[leaf];
        const own = treepo.nodePieces(shown, node, shade, advantage);
        const border = treepo.withTurn(shown, node, leaf, borderMark(shown, node));
        return own.length ? [{ ...own[0], border }, ...own.slice(1)] : [{ text: "", border }];
      });
  }

  /** Bring the beginning of the chosen node into a trajectory's view. */
  function showBorder(body, node) {
    const border = body.querySelector(`.border[data-goto="${node}"]`);
    if (!border) return;
    border.setAttribute("aria-current", "true");
    const text = border.closest(".text");
    text.scrollTop += border.getBoundingClientRect().top - text.getBoundingClientRect().top - 40;
  }

  /** The mark where a segment begins: its node, and how many ways there were. */
  function borderMark({ tree, model }, node) {
    const ways = model.children[tree.parents[node]].length;
    const text = tree.resumed[node] ? `◂${node}` : ways > 1 ? `├${node}` : `|${node}`;
    const title = `Node ${node}: ${began({ tree, model }, node)}`;
    return make("button", { type: "button", className: "border", "data-goto": node, textContent: text, title });
  }

  Object.assign(treepo, { nodePanel, trajectoryPieces });
})((globalThis.treepo ??= {}));
