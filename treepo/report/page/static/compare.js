"use strict";

(function (treepo) {
  const make = (...given) => treepo.dom.element(...given);
  const [FEWEST, MOST, USUAL] = [2, 8, 4];

  /** Trajectories of a problem in columns, with what they share in matching colours. Returns {show, svg}. */
  function compareView(element, { set, shown, tip }) {
    const view = { set, shown, tip, minLength: 8, parts: {} };
    const choose = make("div", { className: "chips", "aria-label": "Trajectories to compare" });
    const told = make("p", { className: "said", role: "status" });
    const slider = make("input", { type: "range", min: 2, max: 64, value: view.minLength });
    const number = make("output", { textContent: treepo.count(view.minLength, "token") });
    const label = make(
      "label",
      { className: "control" },
      make("span", { textContent: "Shared for at least" }),
      slider,
      number,
    );
    const overview = make("div", { className: "tree-box" });
    const columns = make("div", { className: "columns", tabIndex: 0 });
    element.append(make("div", { className: "search-row" }, label), choose, told, overview, columns);
    const hover = (block, event) => point(view, block, event);
    const figure = treepo.compareOverview(overview, { hover, choose: (block) => scrollTo(view, block, null) });
    Object.assign(view.parts, { choose, told, columns, figure });
    slider.addEventListener("input", () => {
      view.minLength = Number(slider.value);
      number.textContent = treepo.count(view.minLength, "token");
      show(view, view.state);
    });
    const blockAt = (event) => event.target.closest?.("[data-block]")?.dataset.block ?? null;
    columns.addEventListener("pointerover", (event) => hover(blockAt(event), event));
    columns.addEventListener("pointerleave", (event) => hover(null, event));
    columns.addEventListener(
      "click",
      (event) => blockAt(event) !== null && scrollTo(view, blockAt(event), event.target.closest(".text")),
    );
    new ResizeObserver(() => view.shared && overview.clientWidth && drawFigure(view)).observe(overview);
    return { svg: figure.svg, show: (state) => show(view, state) };
  }

  function show(view, state) {
    const { tree, model, pieces } = view.shown();
    const leaves = state.leaves ?? spread(model);
    Object.assign(view, { state, leaves });
    showChoice(view, model);
    const along = (leaf, tokens) => treepo.pathTo(tree, leaf).slice(1).flatMap(tokens);
    const sequences = leaves.map((leaf) => along(leaf, (node) => treepo.tokensOf(model, tree.ids, node)));
    const isObserved = (node) => new Array(tree.lengths[node]).fill(Boolean(tree.observed?.[node]));
    view.observed = leaves.map((leaf) => along(leaf, isObserved));
    view.shared = treepo.sharedBlocks(treepo.comparable(sequences, pieces), view.minLength);
    view.sequences = sequences;
    view.parts.told.textContent = summary(view);
    drawFigure(view);
    view.parts.columns.replaceChildren(...leaves.map((leaf, i) => column(view, model, pieces, leaf, i)));
  }

  /** Leaves from all over the tree. */
  function spread(model) {
    const leaves = treepo.leavesBelow(model, 0);
    const number = Math.min(USUAL, leaves.length);
    const chosen = Array.from(
      { length: number },
      (_, i) => leaves[Math.round((i * (leaves.length - 1)) / Math.max(1, number - 1))],
    );
    return [...new Set(chosen)];
  }

  function showChoice({ leaves, set, parts }, model) {
    const chips = treepo.leavesBelow(model, 0).map((leaf) => {
      const isChosen = leaves.includes(leaf);
      const next = isChosen ? leaves.filter((own) => own !== leaf) : inOrder(model, [...leaves, leaf]);
      const reward = model.reward[leaf] == null ? "" : ` · ${treepo.figure(model.reward[leaf])}`;
      const chip = treepo.dom.button(`${leaf}${reward}`, () => set({ leaves: next }), { className: "chip" });
      chip.disabled = isChosen ? leaves.length <= FEWEST : leaves.length >= MOST;
      chip.setAttribute("aria-pressed", isChosen);
      return chip;
    });
    parts.choose.replaceChildren(
      make("span", { className: "note", textContent: `Leaves (${FEWEST} to ${MOST}):` }),
      ...chips,
    );
  }

  function inOrder(model, leaves) {
    return treepo.leavesBelow(model, 0).filter((leaf) => leaves.includes(leaf));
  }

  function summary({ shared, sequences }) {
    const all = treepo.percent(treepo.sharedShare(shared.parts.flat()));
    const prefix = treepo.count(treepo.commonPrefix(sequences), "token");
    const blocks = treepo.count(shared.blocks.length, "stretch", "stretches");
    return `${all} of the tokens are shared with another trajectory, in ${blocks}; all begin alike for ${prefix}.`;
  }

  function drawFigure(view) {
    const { model } = view.shown();
    const palette = treepo.palette();
    const columns = view.leaves.map((leaf, i) => ({
      label: `leaf ${leaf}` + (model.reward[leaf] == null ? "" : ` · ${treepo.figure(model.reward[leaf])}`),
      length: view.sequences[i].length,
      parts: view.shared.parts[i],
    }));
    view.parts.figure.show(columns, (block) => palette.c[block % palette.c.length], palette);
  }

  function column(view, model, pieces, leaf, i) {
    const { tree } = view.shown();
    const parts = view.shared.parts[i];
    const sequence = view.sequences[i];
    const { figure, percent, count } = treepo;
    const facts = [count(sequence.length, "token"), `${percent(treepo.sharedShare(parts))} shared`];
    if (model.reward[leaf] != null) facts.push(`reward ${figure(model.reward[leaf])}`);
    if (model.advantage[leaf] != null) facts.push(`advantage ${figure(model.advantage[leaf], true)}`);
    const grade = treepo.gradeOf(tree, model.place.get(leaf));
    if (grade && treepo.isVerified(tree)) facts.push(`answer ${treepo.oneLine(grade.extracted ?? "–", 60)}, ${treepo.oneLine(grade.verdict.text, 40)}`);
    facts.push(tree.stops[leaf]);
    const text = make("div", { className: "text", dir: "auto", tabIndex: 0, "aria-label": `Text of leaf ${leaf}` });
    treepo.showPieces(
      text,
      parts.flatMap((part) => byWriter(part, view.observed[i])).map(({ start, end, block, observed }) => {
        const written = observed ? "observed" : "";
        const words = sequence
          .slice(start, end)
          .map((id) => pieces[id])
          .join("");
        if (block === null) return { text: words, class: written };
        const colour = `color-mix(in srgb, var(--c${block % 8}) 30%, transparent)`;
        return { text: words, class: `shared shared-${block % 8} ${written}`.trim(), shade: colour, data: { block } };
      }),
    );
    const read = treepo.dom.button(`Leaf ${leaf}`, () => view.set({ view: "tree", node: leaf }), {
      className: "link",
      title: "Show in the tree",
    });
    return make(
      "article",
      {},
      make("header", {}, read, make("span", { className: "facts", textContent: facts.join(" · ") })),
      text,
    );
  }

  /** A part cut where what was sampled and what was observed meet. */
  function byWriter({ start, end, block }, observed) {
    const cuts = [start];
    for (let at = start + 1; at < end; at++) if (observed[at] !== observed[at - 1]) cuts.push(at);
    return cuts.map((from, i) => ({ start: from, end: cuts[i + 1] ?? end, block, observed: observed[from] }));
  }

  /** Bring out a block wherever it stands, and tell of it. */
  function point(view, block, event) {
    if (block !== view.pointed) {
      for (const part of view.parts.columns.querySelectorAll(".pointed")) part.classList.remove("pointed");
      if (block !== null) for (const part of partsOf(view, block)) part.classList.add("pointed");
      view.pointed = block;
    }
    if (block === null) return view.tip.hide();
    const { length, occurrences } = view.shared.blocks[block];
    const among = new Set(occurrences.map((own) => own.sequence)).size;
    return view.tip.show(
      [`${treepo.count(length, "token")}, in ${among} of ${view.leaves.length} trajectories`],
      event,
    );
  }

  function partsOf(view, block) {
    return view.parts.columns.querySelectorAll(`[data-block="${CSS.escape(block)}"]`);
  }

  /** Scroll every column but one to a block. */
  function scrollTo(view, block, except) {
    const seen = new Set([except]);
    for (const part of partsOf(view, block)) {
      const box = part.closest(".text");
      if (seen.has(box)) continue;
      seen.add(box);
      box.scrollTop += part.getBoundingClientRect().top - box.getBoundingClientRect().top - 24;
    }
  }

  Object.assign(treepo, { compareView });
})((globalThis.treepo ??= {}));
