// Sampling settings: an empty field is not sent, so that the server's own default holds.

import { byId } from "./dom.js";

export const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];

/** The settings that were filled in, as the request's fields. */
export function sampling() {
  const filled = NUMBERS.filter((name) => (byId(name)?.value ?? "") !== ""); // an attribute model's page has none of them
  return Object.fromEntries(filled.map((name) => [name, Number(byId(name).value)]));
}

export const systemText = () => byId("system").value.trim();

/** Fill the fields; what is not given becomes empty, what is no number is left out. */
export function writeSampling(values, system) {
  for (const name of NUMBERS.filter(byId)) byId(name).value = Number.isFinite(values[name]) ? values[name] : "";
  byId("system").value = system ?? "";
}

/** Point at the first field whose number cannot be sent. @returns {boolean} whether all can */
export function samplingHolds() {
  const wrong = NUMBERS.map(byId).find((input) => input && !input.checkValidity());
  if (wrong) byId("settings").open = true;
  return wrong ? wrong.reportValidity() : true;
}
