"use strict";

(function (treepo) {
  /** A new element: attributes, `text`, listeners `on: {event: function}`, and children. */
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "text") element.textContent = value;
      else if (name === "on") Object.entries(value).forEach(([event, listen]) => element.addEventListener(event, listen));
      else if (value === true) element.setAttribute(name, "");
      else if (value !== false && value != null) element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child != null));
    return element;
  }

  /** Fill a <select> with [value, label] pairs and choose one. */
  function fillSelect(select, options, chosen) {
    select.replaceChildren(...options.map(([value, text]) => make("option", { value, text: treepo.oneLine(text, 80) })));
    select.value = chosen;
  }

  /** A labelled <select> that calls `choose(value)`. */
  function labelled(text, options, chosen, choose) {
    const select = make("select", { on: { change: () => choose(select.value) } });
    fillSelect(select, options, chosen);
    const label = make("label", { class: "control" }, make("span", { text }), select);
    return { label, select };
  }

  /** "1 token", "1,024 tokens". */
  function count(number, noun, plural = noun + "s") {
    return `${number.toLocaleString("en")} ${number === 1 ? noun : plural}`;
  }

  /** A number in at most four figures; a dash where it is not known. */
  function figure(value, signed = false) {
    if (value == null) return "–";
    const text = Math.abs(value) >= 1000 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
    return (signed && value > 0 ? "+" : "") + text.replace("-", "−");
  }

  function percent(share) {
    return `${Math.round(100 * share)} %`;
  }

  Object.assign(treepo, { make, fillSelect, labelled, count, figure, percent });
})((globalThis.treepo ??= {}));
