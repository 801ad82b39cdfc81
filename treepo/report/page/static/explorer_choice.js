"use strict";

(function (treepo) {
  /** Fill a <select> with [value, label] pairs of untrusted text and choose one. */
  function fillSelect(select, options, chosen) {
    const { element } = treepo.dom;
    const made = options.map(([value, label]) => element("option", { value, textContent: treepo.oneLine(label, 80) }));
    select.replaceChildren(...made);
    select.value = chosen;
  }

  /** A labelled <select> that calls `choose(value)`: {label, select}. */
  function labelled(text, options, chosen, choose) {
    const { element } = treepo.dom;
    const select = element("select", { onchange: () => choose(select.value) });
    fillSelect(select, options, chosen);
    return {
      select,
      label: element("label", { className: "control" }, element("span", { textContent: text }), select),
    };
  }

  Object.assign(treepo, { fillSelect, labelled });
})((globalThis.treepo ??= {}));
