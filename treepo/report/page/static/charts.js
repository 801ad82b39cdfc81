"use strict";

// Which charts there are: groups of charts, each of one metric for all runs, or of several parts of one run.
(function (treepo) {
  const one = (metric, title, more = {}) => ({ title, parts: [{ metric, label: title }], ...more });

  const parts = (title, pairs, more = {}) => ({
    title,
    parts: pairs.map(([metric, label]) => ({ metric, label })),
    ofOneRun: true,
    ...more,
  });

  const SHARE = { format: ".1%" };
  // `suffix` is the unit where it is short enough to stand at each number: "737MB", "0.545 s".
  const BYTES = { format: ".3s", unit: "B", suffix: "B" };
  const SECONDS = { format: ".3~g", unit: "s", suffix: " s" };
  // Those that the steps of a run are made of, in their order; "wait": for the other processes' trees.
  const PHASES = ["grow", "verify", "wait", "pack", "entropies", "update"];

  // The metrics of a name with a number or a word in it, in their order: "forks/depth_*".
  function family(names, pattern, label) {
    const [before, after] = pattern.split("*");
    const found = names.filter(
      (name) => name.startsWith(before) && name.endsWith(after) && name.length > before.length + after.length,
    );
    return found.map((name) => [name, label(name.slice(before.length, name.length - after.length))]);
  }

  const depth = (text) => `depth ${text}`;
  const words = (text) => text.replaceAll("_", " ");

  // The four that matter: does it learn, by what it is trained on, and at what price in words and in variety.
  function first(names) {
    const isEvaluated = names.includes("eval/avg");
    return [
      isEvaluated ? one("eval/avg", "Held-out accuracy", SHARE) : one("accuracy", "Accuracy in training", SHARE),
      one("reward/mean", "Reward"),
      one("completions/length/mean", "Response length", {
        format: ".4~s", unit: "tokens", low: "completions/length/min", high: "completions/length/max",
        note: "Mean; the band reaches from the shortest to the longest.",
      }),
      one("entropy", "Entropy of what was sampled", { unit: "nats per token" }),
    ];
  }

  function learning(names) {
    const sets = names.filter((name) => /^eval\/.+\/(avg|greedy)$/.test(name));
    return [
      ...(names.includes("eval/avg") ? [one("accuracy", "Accuracy in training", SHARE)] : []),
      one("eval/greedy", "Held-out accuracy, greedy", SHARE),
      one("eval/pass", "Held-out pass@k", { ...SHARE, note: "k = eval.num_samples." }),
      one("eval/maj", "Held-out maj@k", { ...SHARE, note: "Majority vote of k = eval.num_samples answers." }),
      ...sets.map((name) => one(name, `Held-out: ${name.slice("eval/".length)}`, SHARE)),
    ];
  }

  function answers(names) {
    const rewards = family(names, "reward/*", words).filter(([name]) => !/\/(mean|unbiased)$/.test(name));
    return [
      parts("Why responses end", family(names, "stop/*", words), { ...SHARE, stacked: true }),
      one("completions/clipped_ratio", "Responses cut off", { ...SHARE, note: "By the limit of tokens or of depth." }),
      parts("Responses that were not graded", family(names, "verify/*", words), SHARE),
      ...(rewards.length > 1 ? [parts("Parts of the reward", rewards)] : []),
      parts("Problems of a step", family(names, "problems/*", words).filter(([name]) => !name.endsWith("/rounds"))),
    ];
  }

  function policy() {
    return [
      one("update/entropy", "Entropy in the update", { unit: "nats per token" }),
      one("clip_ratio/region_mean", "Clip ratio", { format: ".2%" }),
      one("update/kl_reference", "KL to the initial model", { unit: "nats per token" }),
      one("update/approx_kl", "KL to the policy that sampled (approximate)", { unit: "nats per token" }),
      one("update/grad_norm", "Gradient norm"),
      one("update/loss", "Loss"),
      one("update/lr", "Learning rate"),
      one("mismatch/mean", "Engine against model: mean difference", { unit: "nats" }),
      one("mismatch/max", "Engine against model: largest difference", { unit: "nats" }),
    ];
  }

  function trees(names) {
    const decoded = [["tokens/decoded", "decoded"], ["tokens/total", "sequential sampling"]];
    const forwarded = [["tokens/forwarded", "forwarded once each"], ["tokens/unpacked", "each trajectory by itself"]];
    return [
      one("tokens/sharing", "Sharing", { note: "Tokens of the trajectories over distinct tokens." }),
      parts("Tokens decoded", decoded, { format: ".4s", fromZero: true }),
      parts("Tokens of an update", forwarded, { format: ".4s", fromZero: true }),
      parts("Forks of a tree by depth", family(names, "forks/depth_*", depth)),
      one("reward/unbiased", "Reward, leaves weighted without bias"),
      one("leaves/mean", "Leaves of a tree"),
      one("fallbacks/mean", "Fallbacks of a tree"),
    ];
  }

  function environments() {
    const seconds = [["environment/call_s", "calls, added up"], ["environment/wait_s", "the engine waits"]];
    return [
      one("turns/mean", "Turns of a trajectory"),
      one("turns/max", "Turns of a trajectory, most"),
      one("environment/lost", "Trajectories lost to their environment", SHARE),
      one("tokens/observed", "Tokens that environments wrote", { format: ".4s" }),
      parts("Time in environments", seconds, SECONDS),
      parts("Calls into environments", [["environment/calls", "all"], ["environment/failed_calls", "failed"]]),
    ];
  }

  function credit(names) {
    return [
      parts("Advantages by depth, std", family(names, "advantages/depth_*/std", depth)),
      one("advantages/within", "Variance of advantages below the same last fork", SHARE),
      parts("Groups with equal rewards by depth", family(names, "groups/depth_*/frac_reward_zero_std", depth), SHARE),
      parts("Reward of groups by depth, std", family(names, "groups/depth_*/reward_std", depth)),
      parts("Reward of groups by depth, mean", family(names, "groups/depth_*/reward_mean", depth)),
      parts("Groups of a tree by depth", family(names, "groups/depth_*/num", depth)),
    ];
  }

  function cost(names) {
    const known = PHASES.map((name) => [`time/${name}_s`, name]);
    const memory = family(names, "memory/*", words).filter(([name]) => name !== "memory/peak_bytes");
    return [
      parts("Phases of a step", known, { ...SECONDS, stacked: true }),
      one("time/step_s", "Time of a step", SECONDS),
      one("time/tokens_per_s", "Tokens of trajectories per second", { format: ".4s" }),
      one("time/trajectories_per_s", "Trajectories per second", { format: ".4s" }),
      one("engine/utilisation", "Engine utilisation", { ...SHARE, note: "Tokens decoded over places in its batches." }),
      parts("Prefix tokens of the engine", [["engine/prefilled", "computed"], ["engine/cached", "cached"]]),
      one("memory/peak_bytes", "Peak of memory", BYTES),
      parts("Memory of the parts", memory, BYTES),
      one("update/num_oom", "Times that memory ran out"),
    ];
  }

  const FIRST = "What matters";

  const GROUPS = [
    [FIRST, first],
    ["Learning", learning],
    ["Answers", answers],
    ["Turns and environments", environments],
    ["Policy", policy],
    ["Trees", trees],
    ["Credit", credit],
    ["Cost", cost],
  ];

  const charts = {
    // The title of the group that comes first, of the four charts that matter most.
    FIRST,

    // Every metric of the runs that was measured at least once, in the order of the first run that has it.
    names(runs) {
      const measured = (run, name) => run.metrics[name].some((value) => value !== null);
      return [...new Set(runs.flatMap((run) => Object.keys(run.metrics).filter((name) => measured(run, name))))];
    },

    // [{title, charts}] of what was measured; charts of metrics that no group names are in the last.
    groups(names) {
      const has = new Set(names);
      const made = GROUPS.map(([title, make]) => {
        const filled = make(names).map((chart) => ({ ...chart, parts: chart.parts.filter((p) => has.has(p.metric)) }));
        return { title, charts: filled.filter((chart) => chart.parts.length) };
      });
      const shown = new Set(made.flatMap((group) => group.charts.flatMap(charts.metrics)));
      const others = names.filter((name) => !shown.has(name)).map((name) => one(name, name));
      return [...made, { title: "Other", charts: others }].filter((group) => group.charts.length);
    },

    // The names of all metrics that a chart shows.
    metrics(chart) {
      return [...chart.parts.map((part) => part.metric), chart.low, chart.high].filter((name) => name !== undefined);
    },

    // One chart for each metric of which all words of the query are in its name or in the title of a chart that has it.
    search(names, query) {
      const wanted = query.toLowerCase().split(/\s+/).filter(Boolean);
      const all = charts.groups(names).flatMap((group) => group.charts);
      const found = names.filter((name) => {
        const titles = all.filter((chart) => charts.metrics(chart).includes(name)).map((chart) => chart.title);
        const text = [name, ...titles].join(" ").toLowerCase();
        return wanted.every((word) => text.includes(word));
      });
      return found.map((name) => one(name, name));
    },
  };

  treepo.charts = charts;
})((globalThis.treepo ??= {}));
