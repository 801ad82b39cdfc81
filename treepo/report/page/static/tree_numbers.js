"use strict";

(function (treepo) {
  /** "1 token", "1,024 tokens". */
  function count(number, noun, plural = noun + "s") {
    return `${number.toLocaleString("en")} ${number === 1 ? noun : plural}`;
  }

  /** Of a mean over a segment's tokens, whose values are kept in thousandths: a third figure would be wrong. */
  const MEAN_DIGITS = 2;

  /** A number in three figures, or as many as asked for; a dash where it is not known. */
  function figure(value, isSigned = false, digits = 3) {
    if (value == null) return "–";
    const text = Math.abs(value) >= 1000 ? value.toFixed(0) : String(Number(value.toPrecision(digits)));
    return (isSigned && value > 0 ? "+" : "") + text.replace("-", "−");
  }

  function percent(share) {
    return `${Math.round(100 * share)} %`;
  }

  Object.assign(treepo, { MEAN_DIGITS, count, figure, percent });
})((globalThis.treepo ??= {}));
