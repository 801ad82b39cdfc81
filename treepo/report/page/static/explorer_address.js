"use strict";

(function (treepo) {
  const NUMBERS = ["step", "tree", "node", "leaf", "band"];
  const TEXTS = ["run", "view", "tab", "colour", "shade"];

  /** The part of the address after #trees? that leads back to a view. */
  function addressOf(state) {
    const fields = new URLSearchParams();
    for (const name of [...TEXTS, ...NUMBERS]) if (state[name] != null) fields.set(name, state[name]);
    if (state.leaves) fields.set("leaves", state.leaves.join("."));
    return `#trees?${fields}`;
  }

  /** The fields of a state that an address gives; {} where it leads elsewhere. Anyone may have written it. */
  function stateOf(address) {
    if (!address.startsWith("#trees?")) return {};
    const fields = new URLSearchParams(address.slice("#trees?".length));
    const state = {};
    for (const name of TEXTS) if (fields.has(name)) state[name] = fields.get(name);
    for (const name of NUMBERS) if (/^\d{1,9}$/.test(fields.get(name) ?? "")) state[name] = Number(fields.get(name));
    if (/^\d{1,9}(\.\d{1,9}){1,7}$/.test(fields.get("leaves") ?? ""))
      state.leaves = fields.get("leaves").split(".").map(Number);
    return state;
  }

  Object.assign(treepo, { addressOf, stateOf });
})((globalThis.treepo ??= {}));
