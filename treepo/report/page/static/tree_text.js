"use strict";

(function (treepo) {
  const PART_TOKENS = 4000;
  const PART_CHARACTERS = 40000;
  // Control, format, private, unassigned characters and lone surrogates; separators of lines and paragraphs.
  const HIDDEN = /[\p{C}\p{Zl}\p{Zp}]/u;
  const RUNS = /([\p{C}\p{Zl}\p{Zp}])/u;

  /** A character as Python's `ascii` writes it: \x1b, \u202e, \U000e0001. */
  function escaped(character) {
    const code = character.codePointAt(0);
    const [mark, digits] = code < 0x100 ? ["x", 2] : code < 0x10000 ? ["u", 4] : ["U", 8];
    return "\\" + mark + code.toString(16).padStart(digits, "0");
  }

  /** Untrusted text cut into what is shown as it is ("") and what is shown otherwise: "escape", "newline", "tab". */
  function visible(text) {
    if (!HIDDEN.test(text)) return text ? [{ kind: "", text }] : [];
    const kinds = { "\n": "newline", "\t": "tab" };
    return text
      .split(RUNS)
      .filter(Boolean)
      .map((part) => {
        if (!HIDDEN.test(part)) return { kind: "", text: part };
        return kinds[part] ? { kind: kinds[part], text: part } : { kind: "escape", text: escaped(part) };
      });
  }

  /** One line of untrusted text, at most `length` characters of it, every hidden one escaped. */
  function oneLine(text, length) {
    const cut = text.slice(0, wholeCharacters(text, length));
    const shown = visible(cut)
      .map((part) => ({ newline: "↵", tab: "→" })[part.kind] ?? part.text)
      .join("");
    return cut.length < text.length ? shown + "…" : shown;
  }

  /** Append untrusted text to an element, as text. */
  function appendText(element, text) {
    for (const part of visible(text)) {
      element.append(
        part.kind
          ? treepo.dom.element("span", { className: "hidden-" + part.kind, textContent: part.text })
          : part.text,
      );
    }
  }

  /** Show untrusted text in an element, in parts where it is long. */
  function showText(element, text) {
    element.replaceChildren();
    appendPart(element, [{ text }], 0);
  }

  /** Show pieces {text, class?, shade?, index?, border?} one span each, in parts where they are many or long. */
  function showPieces(element, pieces) {
    element.replaceChildren();
    appendPart(element, pieces, 0);
  }

  function appendPart(element, pieces, from) {
    const part = document.createDocumentFragment();
    let [at, room] = [from, PART_CHARACTERS];
    for (; at < pieces.length && at - from < PART_TOKENS && room > 0; at++) {
      const piece = pieces[at];
      const cut = wholeCharacters(piece.text, room);
      part.append(pieceElement(piece, piece.text.slice(0, cut)));
      if (piece.text.length > cut) {
        pieces = [{ ...piece, border: undefined, text: piece.text.slice(cut) }, ...pieces.slice(at + 1)];
        at = 0;
        room = 0;
        break;
      }
      room -= piece.text.length;
    }
    element.append(part);
    if (at < pieces.length) element.append(moreButton(element, pieces, at));
  }

  /** The most code units, `length` or one more, that cut no character of a text in two. */
  function wholeCharacters(text, length) {
    return length < text.length && text.codePointAt(length - 1) > 0xffff ? length + 1 : Math.min(length, text.length);
  }

  function pieceElement(piece, text) {
    const span = document.createElement("span");
    if (piece.class) span.className = piece.class;
    if (piece.shade) span.style.backgroundColor = piece.shade;
    if (piece.index !== undefined) span.dataset.index = piece.index;
    for (const [name, value] of Object.entries(piece.data ?? {})) span.dataset[name] = value;
    appendText(span, text);
    if (!piece.border) return span;
    const both = document.createDocumentFragment();
    both.append(piece.border, span);
    return both;
  }

  function moreButton(element, pieces, at) {
    const left = pieces.slice(at).reduce((sum, piece) => sum + piece.text.length, 0);
    const text = `Show more (${treepo.count(left, "character")} left)`;
    const more = () => {
      button.remove();
      appendPart(element, pieces, at);
    };
    const button = treepo.dom.button(text, more, { className: "more" });
    return button;
  }

  Object.assign(treepo, { visible, oneLine, appendText, showText, showPieces });
})((globalThis.treepo ??= {}));
