"use strict";

(function (treepo) {
  // Controls and marks that turn text round could make a name read as another.
  const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;

  const escaped = (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;

  const dom = {
    // An element with its properties and children; a child that is a string becomes text, never markup.
    element(tag, properties = {}, ...children) {
      const made = document.createElement(tag);
      for (const [name, value] of Object.entries(properties)) {
        if (name in made && name !== "list") made[name] = value;
        else made.setAttribute(name, value);
      }
      made.append(...children);
      return made;
    },

    // The text on one line, with unseen characters written out.
    visible(text) {
      return String(text).replace(UNSEEN, escaped);
    },

    // The same, with the lines that the text has.
    lines(text) {
      return String(text).split("\n").map(dom.visible).join("\n");
    },

    button(label, action, properties = {}) {
      const made = dom.element("button", { type: "button", ...properties }, label);
      made.addEventListener("click", action);
      return made;
    },

    // A labelled choice: options are [value, text] pairs.
    choice(label, options, value, action) {
      const items = options.map(([key, text]) => dom.element("option", { value: key, selected: key === value }, text));
      const select = dom.element("select", {}, ...items);
      select.addEventListener("change", () => action(select.value));
      return dom.element("label", { className: "field" }, dom.element("span", {}, label), select);
    },

    checkbox(label, checked, action) {
      const box = dom.element("input", { type: "checkbox", checked });
      box.addEventListener("change", () => action(box.checked));
      return dom.element("label", { className: "check" }, box, dom.element("span", {}, label));
    },

    // Opens a window over the page, gone for good when it is closed.
    dialog(title, ...children) {
      const close = dom.button("close", () => opened.close(), { className: "quiet" });
      const heading = dom.element("header", {}, dom.element("h2", {}, title), close);
      const opened = dom.element("dialog", {}, heading, ...children);
      opened.addEventListener("close", () => opened.remove());
      opened.addEventListener("click", (event) => event.target === opened && opened.close());
      document.body.append(opened);
      opened.showModal();
      return opened;
    },
  };

  treepo.dom = dom;
})((globalThis.treepo ??= {}));
