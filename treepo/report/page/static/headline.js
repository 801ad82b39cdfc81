"use strict";

// What a run was, what it has come to and what it cost, above its curves.
(function (treepo) {
  function fact({ name, value, hint }) {
    const { element, visible } = treepo.dom;
    const shown = element("dd", { dir: "auto" }, visible(value));
    return element("div", { title: visible(hint) }, element("dt", {}, visible(name)), shown);
  }

  function runElement(run, isNamed) {
    const { element, visible } = treepo.dom;
    const name = isNamed ? [element("h3", {}, visible(run.name))] : [];
    return element("section", { className: "headline" }, ...name, element("dl", {}, ...run.headline.map(fact)));
  }

  /** One headline for each run that has one; `isNamed`: whether there are several. */
  treepo.headlines = (runs) => {
    const told = runs.filter((run) => run.headline?.length);
    return told.map((run) => runElement(run, runs.length > 1));
  };
})((globalThis.treepo ??= {}));
