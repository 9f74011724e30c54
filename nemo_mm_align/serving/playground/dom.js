// Elements and what is said aloud. Text always becomes text nodes: nothing here reads markup.

/** @param {string} id @returns {HTMLElement} */
export const byId = (id) => document.getElementById(id);

/**
 * Make an element. `on...` properties are listeners, `class` and `aria-...`/`data-...`/`role`/`for` attributes, others properties.
 * @param {string} tag @param {Object<string, any>} properties @param {...(Node|string|null|undefined)} children
 */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && !name.startsWith("aria")) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** A button that does something in the page. */
export const button = (text, onclick, properties = {}) => make("button", { type: "button", onclick, ...properties }, text);

/** Tell screen readers, once and politely. */
export function announce(text) {
  const status = byId("status");
  status.textContent = "";
  setTimeout(() => (status.textContent = text), 50); // the same text twice is said twice
}

let fading = 0;

/** Show a short note to those who see the page, and say it to those who hear it. */
export function notify(text) {
  const toast = byId("toast");
  toast.textContent = text;
  toast.hidden = false;
  clearTimeout(fading);
  fading = setTimeout(() => (toast.hidden = true), 6000);
  announce(text);
}

/** Show or, with null, take away what stands above the page. */
export function banner(text, ...actions) {
  const box = byId("banner");
  box.hidden = text === null;
  box.replaceChildren(...(text === null ? [] : [make("span", {}, text), ...actions]));
}

/** Put a text on the clipboard; where the browser refuses, `fallback` is called. */
export async function copy(text, said, fallback) {
  try {
    if (navigator.clipboard) await navigator.clipboard.writeText(text);
    else copySelected(text);
    notify(said);
  } catch {
    fallback();
  }
}

/** The clipboard of pages that came over plain http from another machine. */
function copySelected(text) {
  const held = document.activeElement;
  const box = make("textarea", { value: text, class: "unseen" });
  (document.querySelector("dialog[open]") ?? document.body).append(box);
  box.select();
  const done = document.execCommand("copy");
  box.remove();
  held?.focus();
  if (!done) throw new Error("the browser does not let the page copy");
}

/** Do something that makes the page longer; who reads at its end stays there. */
export function following(grow) {
  const root = document.documentElement, near = root.scrollHeight - scrollY - innerHeight < 80;
  grow();
  if (near) scrollTo({ top: root.scrollHeight, behavior: "instant" });
}

/** 3 -> "3", 0.25 -> "0.25", 2.0000001 -> "2". */
export const spell = (value) => String(Math.round(value * 1000) / 1000);

/** Words of a text, by white space. */
export const countWords = (text) => (text.match(/\S+/g) ?? []).length;
