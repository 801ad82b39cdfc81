"use strict";

// The page around the sections: payload, runs, tabs, theme.
(function (treepo) {
  const WAITING = "Nothing is written yet: waiting for the run to begin.";
  const GONE = "The folder of the run is gone, or emptied.";
  const NAMES = { curves: "Curves", trees: "Trees", answers: "Early and late", charts: "Charts", settings: "Settings" };

  // Sections in the order of their tabs: which object mounts each, and whether a payload has anything for it.
  const SECTIONS = {
    curves: { view: () => treepo.curves, has: ({ runs }) => runs.some((run) => run.steps.length) },
    trees: { view: () => treepo.explorer, has: ({ runs }) => runs.some((run) => run.trees?.steps.length) },
    answers: { view: () => treepo.heldOut, has: (payload) => treepo.heldOut.has(payload) },
    charts: { view: () => treepo.resultCharts, has: ({ charts }) => charts.length > 0 },
    settings: { view: () => treepo.settings, has: ({ runs }) => runs.length > 0 },
  };

  async function unpacked(base64) {
    const bytes = Uint8Array.from(atob(base64.trim()), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  // The payload that was written into the page.
  treepo.readPayload = async () => {
    const element = document.getElementById("payload");
    const text = element.textContent;
    return JSON.parse(element.type === "application/json" ? text : await unpacked(text));
  };

  // What stands above and below the sections, by name.
  function frame() {
    const { element, button } = treepo.dom;
    const made = {
      title: element("h1"),
      theme: button("", () => treepo.shell.switchTheme(), { className: "quiet" }),
      runs: element("div", { id: "runs" }),
      notes: element("div", { id: "notes" }),
      written: element("span"),
      state: element("span", { className: "state", role: "status" }),
    };
    const tabs = document.getElementById("tabs");
    tabs.before(element("header", { id: "top" }, made.title, made.theme, made.runs));
    tabs.after(made.notes);
    document.body.append(element("footer", { id: "bottom" }, made.written, made.state));
    return { ...made, tabs };
  }

  // Whether a run has taken all the steps of its settings.
  const isFinished = ({ steps, settings }) => steps.length > 0 && steps.at(-1) >= settings["train.num_steps"];

  // Runs keep the number of their colour whatever else is shown or hidden.
  const coloured = (payload) => ({ ...payload, runs: payload.runs.map((run, i) => ({ ...run, colour: i })) });

  // The section that the page's address names.
  const asked = () => location.hash.slice(1).split("?")[0];

  class Shell {
    constructor() {
      this.frame = frame();
      this.payload = null;
      this.hidden = new Set();
      this.views = new Map();
      this.tabs = new Map();
      this.current = null;
      this.hadSteps = false;
      // Where the reader was in each tab, as the page's address has it.
      this.addresses = new Map();
      addEventListener("hashchange", () => this.follow());
    }

    // Without the runs that the reader hides; whether there are such.
    shown() {
      const runs = this.payload.runs.filter((run) => !this.hidden.has(run.name));
      return { ...this.payload, runs, isSomeHidden: runs.length < this.payload.runs.length };
    }

    // Shows a payload, at first or in place of the one before.
    update(payload) {
      this.payload = coloured(payload);
      document.title = treepo.dom.visible(payload.title);
      this.frame.title.textContent = treepo.dom.visible(payload.title);
      this.frame.written.textContent =
        `treepo ${payload.treepo}, written ${new Date(payload.written).toLocaleString()}`;
      this.buildRuns();
      this.buildTabs();
      this.refresh();
    }

    refresh() {
      for (const view of this.views.values()) view.update(this.shown());
    }

    buildRuns() {
      const { element, visible } = treepo.dom;
      const { runs } = this.payload;
      this.frame.runs.replaceChildren(...runs.map((run) => this.runButton(run)));
      const isEmpty = !runs.some((run) => run.steps.length);
      const waiting = isLive() && isEmpty ? [element("p", { className: "note" }, this.hadSteps ? GONE : WAITING)] : [];
      this.hadSteps ||= !isEmpty;
      const noted = ({ name, note }) => visible(runs.length > 1 ? `${name}: ${note}` : note);
      const notes = runs.filter((run) => run.note).map((run) => element("p", { className: "note" }, noted(run)));
      this.frame.notes.replaceChildren(...waiting, ...notes);
    }

    runButton(run) {
      const { element, visible, button } = treepo.dom;
      const swatch = element("span", { className: "swatch" });
      const { dash } = treepo.plot.line({ colours: [] }, run.colour);
      swatch.style.borderTopColor = `var(--c${run.colour % treepo.plot.NUM_COLOURS})`;
      swatch.style.borderTopStyle = { solid: "solid", dash: "dashed" }[dash] ?? "dotted";
      const made = button("", () => this.toggle(run, made), { className: "run", title: "show or hide this run" });
      made.setAttribute("aria-pressed", !this.hidden.has(run.name));
      made.append(swatch, element("bdi", {}, visible(run.name)));
      return made;
    }

    toggle(run, made) {
      if (!this.hidden.delete(run.name)) this.hidden.add(run.name);
      made.setAttribute("aria-pressed", !this.hidden.has(run.name));
      this.refresh();
    }

    buildTabs() {
      const holder = this.frame.tabs;
      holder.setAttribute("role", "tablist");
      const names = Object.keys(SECTIONS).filter((name) => SECTIONS[name].has(this.payload));
      for (const name of names) if (!this.tabs.has(name)) this.tabs.set(name, this.tab(name));
      holder.replaceChildren(...names.map((name) => this.tabs.get(name)));
      for (const name of Object.keys(SECTIONS)) if (!names.includes(name)) document.getElementById(name).hidden = true;
      if (!names.includes(this.current)) this.open(names.includes(asked()) ? asked() : names[0]);
    }

    // Opens the tab that the address was changed to.
    follow() {
      const isTab = [...this.frame.tabs.children].some((tab) => tab.id === `tab-${asked()}`);
      if (isTab && asked() !== this.current) this.open(asked());
    }

    // Opens the tab that the reader chose, where they were in it.
    choose(name) {
      if (name === this.current) return;
      if (asked() === this.current) this.addresses.set(this.current, location.hash);
      history.replaceState(null, "", this.addresses.get(name) ?? `#${name}`);
      this.open(name);
    }

    tab(name) {
      const made = treepo.dom.button(NAMES[name], () => this.choose(name), { id: `tab-${name}` });
      made.setAttribute("role", "tab");
      made.setAttribute("aria-controls", name);
      made.addEventListener("keydown", (event) => this.move(event));
      const section = document.getElementById(name);
      section.setAttribute("role", "tabpanel");
      section.setAttribute("aria-labelledby", made.id);
      return made;
    }

    // Arrow keys go from tab to tab, as in any list of tabs.
    move(event) {
      const all = [...this.frame.tabs.children];
      const steps = { ArrowRight: 1, ArrowLeft: -1, Home: -all.length, End: all.length };
      if (!(event.key in steps)) return;
      event.preventDefault();
      const at = all.indexOf(event.currentTarget) + steps[event.key];
      const inside = Math.min(Math.max(at, 0), all.length - 1);
      const to = event.key.startsWith("Arrow") ? (at + all.length) % all.length : inside;
      all[to].focus();
      all[to].click();
    }

    open(name) {
      this.current = name;
      for (const [other, tab] of this.tabs) {
        tab.setAttribute("aria-selected", other === name);
        tab.tabIndex = other === name ? 0 : -1;
        document.getElementById(other).hidden = other !== name;
      }
      if (!name || this.views.has(name)) return;
      this.views.set(name, SECTIONS[name].view().mount(document.getElementById(name), this.shown()));
    }

    // Says why the page is not up to date, or that it is and whether more is to come.
    tell(text) {
      const { state } = this.frame;
      state.classList.toggle("late", text !== "");
      const isComplete = this.payload.runs.length > 0 && this.payload.runs.every(isFinished);
      const known = isComplete ? "the run is complete" : "live: follows the run";
      state.textContent = treepo.dom.visible(text || known);
    }

    setTheme(theme) {
      document.documentElement.dataset.theme = theme;
      this.frame.theme.textContent = theme === "dark" ? "light page" : "dark page";
      for (const view of this.views.values()) view.theme();
    }

    followTheme() {
      const query = matchMedia("(prefers-color-scheme: dark)");
      this.setTheme(query.matches ? "dark" : "light");
      query.addEventListener("change", () => this.setTheme(query.matches ? "dark" : "light"));
    }

    switchTheme() {
      this.setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
    }
  }

  // Only the page that a server keeps up to date may fetch anything.
  function isLive() {
    const policy = document.querySelector("meta[http-equiv='Content-Security-Policy']");
    return policy !== null && policy.content.includes("connect-src 'self'");
  }

  async function start() {
    const shell = new Shell();
    treepo.shell = shell;
    shell.followTheme();
    shell.update(await treepo.readPayload());
    if (isLive()) treepo.live.start((payload) => shell.update(payload), (text) => shell.tell(text));
  }

  start();
})((globalThis.treepo ??= {}));
