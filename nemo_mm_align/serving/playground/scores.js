// What a scorer says of an answer: asked for, and shown as bars.

import { ask } from "./api.js";
import { share } from "./attributes.js";
import { make, spell } from "./dom.js";

/**
 * Have an answer rated. The scorer's own attributes, where it names them, say the ranges; else those that the model is asked for.
 * @returns {Promise<{scores: Object<string, number>, total: number|null, attributes: object[]}>}
 */
export async function score(messages, text, attributes, signal) {
  const found = await ask("/v1/scores", { messages: [...messages, { role: "assistant", content: text }] }, signal);
  const ranges = found.attributes ?? attributes;
  return { scores: found.scores, total: found.total ?? totalOf(found.scores, ranges), attributes: ranges };
}

/** The sum over the scores that have a better end, lower-is-better ones counted from their other end; null without any. */
export function totalOf(scores, attributes) {
  const counted = attributes.filter((each) => each.higher_is_better !== null && each.name in scores);
  const from = (each) => (each.higher_is_better ? scores[each.name] : each.maximum + each.minimum - scores[each.name]);
  return counted.length ? counted.reduce((sum, each) => sum + from(each), 0) : null;
}

/** Bars, one per score: name, bar where the range is known, number. */
export function scoreBars({ scores, total, attributes }, title = "Scores") {
  const digits = digitsOf(Object.values(scores));
  const rows = Object.entries(scores).map(([name, value]) => bar(name, value, digits, attributes.find((each) => each.name === name)));
  const sum = total === null ? null : make("p", { class: "total" }, `Total ${total.toFixed(digits)}`);
  return make("div", { class: "scores", role: "group", "aria-label": title }, make("ul", { class: "bars" }, ...rows), sum);
}

function bar(name, value, digits, attribute) {
  const filled = make("span", { class: "filled" });
  filled.style.setProperty("--share", attribute ? share(attribute, value) : 0);
  const track = make("span", { class: "track", "aria-hidden": "true", hidden: !attribute }, filled);
  const range = attribute ? make("span", { class: "unseen" }, ` of ${spell(attribute.maximum)}`) : null;
  return make("li", {}, make("span", { class: "name" }, attribute?.label ?? name), track, make("span", { class: "value" }, value.toFixed(digits), range));
}

/** Decimals of scores that stand together: two, or none where all are whole numbers. */
export const digitsOf = (values) => (values.every(Number.isInteger) ? 0 : 2);
