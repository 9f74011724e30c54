// Settings and question in the address's fragment, which no server sees. Never a key, never a picture.

import { NUMBERS } from "./sampling.js";

const NOT_ASKED = "none";
const FIELDS = ["view", "model", "ask", "model1", "ask1", "sweep", "system", "q", ...NUMBERS];

const pairs = (values) => Object.entries(values).map(([name, value]) => `${name}:${Math.round(value * 1000) / 1000}`).join(",");

/** @param {{view: string, question: string, system: string, sampling: object, settings: object[], swept: string}} state */
export function write({ view, question, system, sampling, settings, swept }) {
  const fields = new URLSearchParams();
  const put = (name, value) => value && fields.set(name, value);
  put("view", view === "chat" ? "" : view);
  settings.forEach(({ model, attributes }, place) => {
    put(`model${place || ""}`, model);
    if (attributes !== undefined) put(`ask${place || ""}`, attributes === null ? NOT_ASKED : pairs(attributes));
  });
  put("sweep", view === "sweep" ? swept : "");
  for (const [name, value] of Object.entries(sampling)) fields.set(name, value);
  put("system", system);
  put("q", question);
  return fields.toString();
}

/** Read a fragment; what it does not say is undefined, what is no number is left out. */
export function read(fragment) {
  const fields = new URLSearchParams(fragment.replace(/^#/, ""));
  const setting = (place) => ({ model: fields.get(`model${place}`) ?? undefined, attributes: attributesOf(fields.get(`ask${place}`)) });
  const numbers = NUMBERS.filter((name) => fields.has(name)).map((name) => [name, parseFloat(fields.get(name))]);
  return {
    empty: !FIELDS.some((name) => fields.has(name)),
    view: fields.get("view") ?? "chat",
    question: fields.get("q") ?? "",
    system: fields.get("system") ?? "",
    swept: fields.get("sweep"),
    sampling: Object.fromEntries(numbers),
    settings: [setting(""), setting("1")],
  };
}

function attributesOf(text) {
  if (text === null) return undefined;
  if (text === NOT_ASKED) return null;
  return Object.fromEntries(text.split(",").map((pair) => pair.split(":")).map(([name, value]) => [name, parseFloat(value)]));
}
