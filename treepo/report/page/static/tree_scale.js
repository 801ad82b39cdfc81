"use strict";

(function (treepo) {
  const d3 = globalThis.d3;

  /** What nodes can be coloured by: where the values are in the model, and how they are told. */
  const KINDS = {
    reward: { label: "Mean reward below", signed: false, why: "no rewards were kept" },
    advantage: { label: "Advantage", signed: true, why: "this tree gave no signal" },
    logprob: { label: "Mean log-probability", signed: false, why: "no log-probabilities were kept" },
    entropy: { label: "Mean entropy (nats)", signed: false, why: "no entropies were kept" },
  };

  /** The page's colours, as the theme has them now. */
  function palette() {
    const style = getComputedStyle(document.documentElement);
    const named = (name) => style.getPropertyValue("--" + name).trim();
    const names = ["bg", "panel", "text", "muted", "line", "accent", "low", "mid", "high"];
    const colours = Object.fromEntries(names.map((name) => [name, named(name)]));
    return { ...colours, c: d3.range(8).map((i) => named("c" + i)) };
  }

  /** [values, names of colours] between which a kind is interpolated. */
  function stopsOf(kind, model) {
    const known = model[kind].filter((value) => value != null);
    const [low, high] = known.length ? d3.extent(known) : [0, 0];
    if (kind === "logprob")
      return [
        [Math.min(low, -0.01), 0],
        ["low", "mid"],
      ];
    if (kind === "entropy")
      return [
        [0, Math.max(high, 0.01)],
        ["mid", "high"],
      ];
    if (kind === "advantage") {
      const most = Math.max(-low, high, 1e-9);
      return [
        [-most, 0, most],
        ["low", "mid", "high"],
      ];
    }
    const [from, to] = [Math.min(low, 0), Math.max(high, low < 0 ? 0 : 1)];
    return [
      [from, (from + to) / 2, to],
      ["low", "mid", "high"],
    ];
  }

  /** How nodes are coloured: `of(node)` and `at(value)` give a CSS colour, null where nothing is known. */
  function colourScale(kind, model, colours) {
    const [domain, names] = stopsOf(kind, model);
    const scale = d3
      .scaleLinear(
        domain,
        names.map((name) => colours[name]),
      )
      .interpolate(d3.interpolateLab)
      .clamp(true);
    const at = (value) => (value == null ? null : d3.rgb(scale(value)).formatHex());
    const isKnown = model[kind].some((value) => value != null);
    // Drawn anew with each frame of a zoom, so computed once.
    const fills = model[kind].map(at);
    const inks = fills.map((fill) => inkOn(fill ?? colours.panel));
    return { kind, ...KINDS[kind], domain, isKnown, at, of: (node) => fills[node], inkOf: (node) => inks[node] };
  }

  /** Black or white, whichever is read better on a colour. */
  function inkOn(colour) {
    const { r, g, b } = d3.rgb(colour);
    const linear = [r, g, b].map((c) => (c / 255 <= 0.03928 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.18 ? "#000000" : "#ffffff";
  }

  /** The shade behind a token, which its text stays readable on; nothing where the value is not known. */
  function tokenShade(kind, value, most) {
    if (value == null || kind === "none") return undefined;
    if (kind === "logprob") return tint("--low", -value / 4);
    if (kind === "entropy") return tint("--high", value / Math.max(most, 0.01));
    return tint(value < 0 ? "--low" : "--high", Math.abs(value) / Math.max(most, 1e-9));
  }

  function tint(name, share) {
    const amount = Math.round(60 * Math.min(1, Math.max(0, share)));
    return amount ? `color-mix(in srgb, var(${name}) ${amount}%, transparent)` : undefined;
  }

  Object.assign(treepo, { colourKinds: KINDS, palette, colourScale, tokenShade });
})((globalThis.treepo ??= {}));
