"use strict";

// Arithmetic of one run's metrics: pure functions of arrays aligned with its steps.
(function (treepo) {
  // `own` is said of each point, where lines have theirs at different places.
  // `values` are those of a run's steps; sums come with the payload, since steps may have been left out of it.
  const AXES = {
    step: {
      label: "step",
      values: (run) => run.steps,
      title: () => "step",
      suffix: () => "",
      hover: () => "step %{x}",
      own: () => "",
    },
    tokens: {
      label: "tokens decoded",
      values: (run) => run.so_far.tokens,
      title: () => "tokens decoded so far",
      suffix: () => "",
      hover: () => "%{x:.4s} tokens decoded",
      own: () => " at %{x:.4s} tokens",
    },
    time: {
      label: "training time",
      values: (run) => run.so_far.seconds,
      title: (unit) => `training time so far, evaluations not counted, ${unit.name}`,
      suffix: (unit) => ` ${unit.symbol}`,
      hover: (unit) => `%{x:.4~g} ${unit.name} of training`,
      own: (unit) => ` at %{x:.4~g} ${unit.symbol}`,
    },
  };

  const UNITS = [
    { name: "hours", symbol: "h", seconds: 3600 },
    { name: "minutes", symbol: "min", seconds: 60 },
    { name: "seconds", symbol: "s", seconds: 1 },
  ];

  // The largest unit of which the longest run lasted at least two.
  function timeUnit(runs) {
    const longest = Math.max(0, ...runs.map((run) => run.so_far.seconds.at(-1) ?? 0));
    return UNITS.find((unit) => longest >= 2 * unit.seconds) ?? UNITS.at(-1);
  }

  const series = {
    AXES,
    timeUnit,

    // x of every step of a run, on the axis named.
    axis(run, name, unit) {
      const values = AXES[name].values(run);
      return name === "time" ? values.map((seconds) => (seconds === null ? null : seconds / unit.seconds)) : values;
    },

    // The points at which a metric was measured, so that a line bridges the steps between them.
    points(x, y) {
      const kept = { x: [], y: [] };
      y.forEach((value, i) => {
        if (value === null || x[i] === null) return;
        kept.x.push(x[i]);
        kept.y.push(value);
      });
      return kept;
    },

    // Exponential moving average; dividing by the sum of the weights keeps its start unbiased (Adam, arXiv 1412.6980).
    smooth(values, weight) {
      let sum = 0;
      let total = 0;
      return values.map((value) => {
        sum = weight * sum + (1 - weight) * value;
        total = weight * total + (1 - weight);
        return sum / total;
      });
    },

    // Lowest and highest of the values whose x is within a range, with a margin; null where there are none.
    extent(traces, [from, to]) {
      let [low, high] = [Infinity, -Infinity];
      for (const { x, y } of traces) {
        for (let i = 0; i < x.length; i += 1) {
          if (x[i] < from || x[i] > to || y[i] === null) continue;
          low = Math.min(low, y[i]);
          high = Math.max(high, y[i]);
        }
      }
      if (low > high) return null;
      const margin = 0.06 * (high - low) || 0.06 * Math.abs(high) || 1;
      return [low - margin, high + margin];
    },
  };

  treepo.series = series;
})((globalThis.treepo ??= {}));
