"use strict";

(function (treepo) {
  /** "1 token", "1,024 tokens". */
  function count(number, noun, plural = noun + "s") {
    return `${number.toLocaleString("en")} ${number === 1 ? noun : plural}`;
  }

  /** A number in three figures; a dash where it is not known. */
  function figure(value, isSigned = false) {
    if (value == null) return "–";
    const text = Math.abs(value) >= 1000 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
    return (isSigned && value > 0 ? "+" : "") + text.replace("-", "−");
  }

  function percent(share) {
    return `${Math.round(100 * share)} %`;
  }

  Object.assign(treepo, { count, figure, percent });
})((globalThis.treepo ??= {}));
