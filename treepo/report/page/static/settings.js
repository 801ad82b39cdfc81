"use strict";

// The section of settings: those of all runs side by side, and what they ran in.
(function (treepo) {
  const shown = (value) => {
    if (value === undefined) return "";
    return treepo.dom.lines(typeof value === "string" ? value : JSON.stringify(value));
  };

  const NO_DEFAULT = "no default";

  // [{name, values, differs, standard}] of all names that some run has; values in the runs' order; standard: the default
  // as text where some run has another value, else null. `changed`: per run the default of each setting that differs.
  function rowsOf(tables, changed) {
    const names = [...new Set(tables.flatMap((table) => Object.keys(table)))];
    return names.map((name) => {
      const values = tables.map((table) => shown(table[name]));
      const own = changed.find((defaults) => Object.hasOwn(defaults, name));
      const standard = own ? (own[name] === null ? NO_DEFAULT : shown(own[name]) || '""') : null;
      return { name, values, differs: new Set(values).size > 1, standard };
    });
  }

  const section = (name) => (name.includes(".") ? name.slice(0, name.indexOf(".")) : "");

  // Narrow pages may break a name behind its dots and underscores.
  function breakable(name) {
    return name.split(/(?<=[._])/).flatMap((part) => [part, treepo.dom.element("wbr")]);
  }

  function rowElement({ name, values, differs, standard }, isFirst, hasDefaults) {
    const { element, visible } = treepo.dom;
    const cells = values.map((value) =>
      element("td", {}, value === "" ? element("span", { className: "none" }, "–") : value));
    if (hasDefaults) cells.push(element("td", { className: "default" }, standard ?? ""));
    const made = element("tr", {}, element("th", { scope: "row" }, ...breakable(visible(name))), ...cells);
    made.classList.toggle("changed", standard !== null);
    made.classList.toggle("differs", differs);
    made.classList.toggle("first", isFirst);
    return made;
  }

  function tableElement(title, runs, tables, changed, { query, onlyDifferences, onlyChanged }) {
    const { element, visible } = treepo.dom;
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    const has = (row) => words.every((word) => [row.name, ...row.values].join(" ").toLowerCase().includes(word));
    const all = rowsOf(tables, changed);
    const hasDefaults = all.some((row) => row.standard !== null);
    const isChosen = (row) => (row.differs || !onlyDifferences) && (row.standard !== null || !onlyChanged);
    const rows = all.filter((row) => isChosen(row) && has(row));
    const heading = element("h2", {}, title);
    if (!rows.length) return element("section", {}, heading, element("p", { className: "note" }, "Nothing to show."));
    const names = ["", ...runs.map((run) => visible(run.name)), ...(hasDefaults ? ["default, where it differs"] : [])];
    const head = element("tr", {}, ...names.map((name) => element("th", { scope: "col" }, name)));
    const body = rows.map((row, i) => 
      rowElement(row, i > 0 && section(row.name) !== section(rows[i - 1].name), hasDefaults));
    const table = element("table", { className: "settings" },
      element("thead", {}, head), element("tbody", {}, ...body));
    return element("section", {}, heading, element("div", { className: "scroll" }, table));
  }

  class View {
    constructor(element, payload) {
      const { dom } = treepo;
      this.runs = payload.runs;
      this.state = { query: "", onlyDifferences: false, onlyChanged: false };
      const label = "find a setting";
      const search = dom.element("input", { type: "search", placeholder: label, ariaLabel: label });
      search.addEventListener("input", () => this.choose({ query: search.value.trim() }));
      this.differences = dom.checkbox("only differences", false, (onlyDifferences) => this.choose({ onlyDifferences }));
      this.changed = dom.checkbox("only what is not the default", false, (onlyChanged) => this.choose({ onlyChanged }));
      this.tables = dom.element("div", { className: "tables" });
      element.append(dom.element("div", { className: "bar tools" }, search, this.differences, this.changed), this.tables);
      this.show();
    }

    choose(changes) {
      this.state = { ...this.state, ...changes };
      this.show();
    }

    show() {
      const changed = this.runs.map((run) => run.changed ?? {});
      this.differences.hidden = this.runs.length < 2;
      this.changed.hidden = changed.every((own) => !Object.keys(own).length);
      if (!this.runs.length) {
        this.tables.replaceChildren(treepo.dom.element("p", { className: "note" }, "No run is shown."));
        return;
      }
      this.tables.replaceChildren(
        tableElement("Settings", this.runs, this.runs.map((run) => run.settings), changed, this.state),
        tableElement("Environment", this.runs, this.runs.map((run) => run.environment), [], {
          ...this.state, onlyChanged: false,
        }),
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
