"use strict";

// The page around the sections.
(function (treepo) {
  async function unpacked(base64) {
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }

  treepo.readPayload = async () => {
    const { type, textContent } = document.getElementById("payload");
    return JSON.parse(type === "application/json" ? textContent : await unpacked(textContent));
  };

  treepo.readPayload().then((payload) => {
    document.getElementById("curves").textContent = `${payload.title}: ${payload.runs.length} runs`;
  });
})((globalThis.treepo ??= {}));
