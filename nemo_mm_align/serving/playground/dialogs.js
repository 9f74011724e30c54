// The two dialogs: the key that a server asks for, and the present request as code.

import { address, dropKey, key, keepKey, onKeyAsked } from "./api.js";
import { byId, copy } from "./dom.js";
import { asCurl, asPython } from "./snippet.js";

/** Ask for a key whenever the server wants one; several requests that want it ask once. */
export function keyDialog() {
  const dialog = byId("key-dialog"), field = byId("key");
  let asking = null;
  const ask = (refused) => new Promise((resolve) => {
    byId("key-refused").hidden = !refused;
    field.value = "";
    dialog.returnValue = "";
    dialog.showModal();
    field.focus();
    dialog.addEventListener("close", () => resolve(closed()), { once: true });
  });
  const closed = () => {
    const given = dialog.returnValue === "use" ? field.value.trim() : "";
    field.value = "";
    if (given) keepKey(given);
    else dropKey();
    return given !== "";
  };
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    dialog.close("use");
  });
  byId("key-cancel").addEventListener("click", () => dialog.close(""));
  onKeyAsked((refused) => (asking ??= ask(refused).finally(() => (asking = null))));
}

/** @param {() => object} present the body of the present request */
export function codeDialog(present) {
  const dialog = byId("code-dialog");
  const language = () => document.querySelector("input[name=language]:checked").value;
  const show = () => {
    const body = present(), base = address("/v1");
    byId("snippet").textContent = (language() === "curl" ? asCurl : asPython)(body, base, key() !== null);
    const pictures = JSON.stringify(body.messages).includes('"image_url"');
    const notes = [pictures && "Pictures are read from picture1.png, picture2.png and so on.", key() !== null && "The key is read from API_KEY."];
    byId("snippet-note").textContent = notes.filter(Boolean).join(" ");
  };
  const select = () => getSelection().selectAllChildren(byId("snippet"));
  byId("code").addEventListener("click", () => {
    show();
    dialog.showModal();
  });
  byId("languages").addEventListener("change", show);
  byId("code-close").addEventListener("click", () => dialog.close());
  byId("code-copy").addEventListener("click", () => copy(byId("snippet").textContent, "Code copied", select));
}
