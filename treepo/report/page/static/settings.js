"use strict";

// The section of settings: those of all runs side by side, and what they ran in.
(function (treepo) {
  const shown = (value) => {
    if (value === undefined) return "";
    return treepo.dom.lines(typeof value === "string" ? value : JSON.stringify(value));
  };

  // [{name, values, differs}] of all names that some run has; values in the runs' order.
  function rowsOf(tables) {
    const names = [...new Set(tables.flatMap((table) => Object.keys(table)))];
    return names.map((name) => {
      const values = tables.map((table) => shown(table[name]));
      return { name, values, differs: new Set(values).size > 1 };
    });
  }

  const section = (name) => (name.includes(".") ? name.slice(0, name.indexOf(".")) : "");

  // Narrow pages may break a name behind its dots and underscores.
  function breakable(name) {
    return name.split(/(?<=[._])/).flatMap((part) => [part, treepo.dom.element("wbr")]);
  }

  function rowElement({ name, values, differs }, isFirst) {
    const { element, visible } = treepo.dom;
    const cells = values.map((value) =>
      element("td", {}, value === "" ? element("span", { className: "none" }, "–") : value));
    const made = element("tr", {}, element("th", { scope: "row" }, ...breakable(visible(name))), ...cells);
    made.classList.toggle("differs", differs);
    made.classList.toggle("first", isFirst);
    return made;
  }

  function tableElement(title, runs, tables, { query, onlyDifferences }) {
    const { element, visible } = treepo.dom;
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    const has = (row) => words.every((word) => [row.name, ...row.values].join(" ").toLowerCase().includes(word));
    const rows = rowsOf(tables).filter((row) => (row.differs || !onlyDifferences) && has(row));
    const heading = element("h2", {}, title);
    if (!rows.length) return element("section", {}, heading, element("p", { className: "note" }, "Nothing to show."));
    const names = ["", ...runs.map((run) => visible(run.name))];
    const head = element("tr", {}, ...names.map((name) => element("th", { scope: "col" }, name)));
    const body = rows.map((row, i) => rowElement(row, i > 0 && section(row.name) !== section(rows[i - 1].name)));
    const table = element("table", { className: "settings" },
      element("thead", {}, head), element("tbody", {}, ...body));
    return element("section", {}, heading, element("div", { className: "scroll" }, table));
  }

  class View {
    constructor(element, payload) {
      const { dom } = treepo;
      this.runs = payload.runs;
      this.state = { query: "", onlyDifferences: false };
      const label = "find a setting";
      const search = dom.element("input", { type: "search", placeholder: label, ariaLabel: label });
      search.addEventListener("input", () => this.choose({ query: search.value.trim() }));
      this.differences = dom.checkbox("only differences", false, (onlyDifferences) => this.choose({ onlyDifferences }));
      this.tables = dom.element("div", { className: "tables" });
      element.append(dom.element("div", { className: "bar tools" }, search, this.differences), this.tables);
      this.show();
    }

    choose(changes) {
      this.state = { ...this.state, ...changes };
      this.show();
    }

    show() {
      this.differences.hidden = this.runs.length < 2;
      if (!this.runs.length) {
        this.tables.replaceChildren(treepo.dom.element("p", { className: "note" }, "No run is shown."));
        return;
      }
      this.tables.replaceChildren(
        tableElement("Settings", this.runs, this.runs.map((run) => run.settings), this.state),
        tableElement("Environment", this.runs, this.runs.map((run) => run.environment), this.state),
      );
    }

    update(payload) {
      this.runs = payload.runs;
      this.show();
    }

    theme() {}
  }

  treepo.settings = { mount: (element, payload) => new View(element, payload) };
})((globalThis.treepo ??= {}));
