// An attribute model: it rates an answer that the user writes. Its reply is `helpfulness:3.2,correctness:...`.

import { ask } from "./api.js";
import { levelText } from "./attributes.js";
import { announce, button, byId, make } from "./dom.js";
import { bodyOf, contentOf } from "./conversation.js";
import { systemText } from "./sampling.js";
import { thumbnail } from "./pictures.js";
import { digitsOf, scoreBars, totalOf } from "./scores.js";
import { inWords } from "./words.js";

/** Read a reply: `{name: number}`; null where it is none. */
export function readRatings(text) {
  const pairs = text.trim().split(",").map((pair) => pair.match(/^\s*([\w-]+):\s*(-?[\d.]+(?:e-?\d+)?)\s*$/i));
  return pairs.every(Boolean) ? Object.fromEntries(pairs.map(([, name, value]) => [name, Number(value)])) : null;
}

export class Rating {
  /** @param {object} page as for `Chat` */
  constructor(page) {
    Object.assign(this, { page, running: null });
  }

  body(question, answer) {
    const system = systemText() ? [{ role: "system", content: systemText() }] : [];
    const messages = [...system, { role: "user", content: contentOf(question) }, { role: "assistant", content: answer }];
    return bodyOf({ model: this.page.panels()[0].model.id, attributes: undefined }, {}, messages);
  }

  stop() {
    this.running?.abort();
  }

  clear() {
    this.stop();
    byId("ratings").replaceChildren();
  }

  /** Have an answer rated; the newest rating stands first. */
  async send(question, answer) {
    const result = make("div", { class: "after" }, make("p", { class: "soft" }, "Rating…"));
    const shown = question.pictures.length ? make("div", { class: "pictures" }, ...question.pictures.map(thumbnail)) : null;
    byId("ratings").prepend(make("article", { class: "answer", "aria-label": "Rating" }, shown,
      make("p", { class: "said question-line" }, question.text), make("p", { class: "said" }, answer), result));
    byId("welcome").hidden = true;
    await this.#rate(this.body(question, answer), result);
  }

  async #rate(body, result) {
    this.running = new AbortController();
    this.page.busy(true);
    try {
      const reply = (await ask("/v1/chat/completions", body, this.running.signal)).choices[0].message.content;
      this.#show(readRatings(reply), reply, result);
    } catch (error) {
      if (error.name === "AbortError") result.replaceChildren(make("p", { class: "soft" }, "Stopped."));
      else this.#refused(error, body, result);
    } finally {
      this.running = null;
      this.page.busy(false);
    }
  }

  #show(scores, reply, result) {
    if (scores === null) return result.replaceChildren(make("p", {}, reply));
    const { attributes } = this.page.panels()[0].model;
    const known = attributes.filter(({ name }) => name in scores);
    const texts = known.map((each) => make("li", {}, `${each.label}: ${levelText(each, Math.round(scores[each.name]))}`));
    result.replaceChildren(scoreBars({ scores, total: totalOf(scores, attributes), attributes }, "Ratings"),
      make("details", {}, make("summary", {}, "What the values mean"), make("ul", {}, ...texts)));
    const digits = digitsOf(Object.values(scores));
    announce(`Rated: ${Object.entries(scores).map(([name, value]) => `${name} ${value.toFixed(digits)}`).join(", ")}`);
  }

  #refused(error, body, result) {
    const { title, advice } = inWords(error);
    const retry = button("Try again", () => this.running || this.#rate(body, result), { class: "again" });
    result.replaceChildren(make("div", { class: "problem", role: "alert" }, make("p", {}, make("strong", {}, title)), make("p", {}, advice), retry));
  }
}
