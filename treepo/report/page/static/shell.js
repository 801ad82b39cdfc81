"use strict";

// The page around the sections: payload, runs, tabs, theme.
(function (treepo) {
  const NAMES = { curves: "Curves", trees: "Trees", figures: "Figures", settings: "Settings" };

  // Sections in the order of their tabs: which object mounts each, and whether a payload has anything for it.
  const SECTIONS = {
    curves: { view: () => treepo.curves, has: ({ runs }) => runs.some((run) => run.steps.length) },
    trees: { view: () => treepo.explorer, has: ({ runs }) => runs.some((run) => run.trees?.steps.length) },
    figures: { view: () => treepo.figures, has: ({ figures }) => figures.length > 0 },
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

  // Runs keep the number of their colour whatever else is shown or hidden.
  const coloured = (payload) => ({ ...payload, runs: payload.runs.map((run, i) => ({ ...run, colour: i })) });

  class Shell {
    constructor() {
      this.frame = frame();
      this.payload = null;
      this.hidden = new Set();
      this.views = new Map();
      this.tabs = new Map();
      this.current = null;
    }

    shown() {
      return { ...this.payload, runs: this.payload.runs.filter((run) => !this.hidden.has(run.name)) };
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
      const noted = ({ name, note }) => visible(runs.length > 1 ? `${name}: ${note}` : note);
      const notes = runs.filter((run) => run.note).map((run) => element("p", { className: "note" }, noted(run)));
      this.frame.notes.replaceChildren(...notes);
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
      const [asked] = location.hash.split("?");
      if (!names.includes(this.current)) this.open(names.find((name) => `#${name}` === asked) ?? names[0]);
    }

    tab(name) {
      const made = treepo.dom.button(NAMES[name], () => this.open(name), { id: `tab-${name}` });
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

    // Says why the page is not up to date, or nothing.
    tell(text) {
      this.frame.state.textContent = treepo.dom.visible(text);
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
