// One answer: streamed into its card, then measured, scored, or told why there is none.

import { stream } from "./api.js";
import { asParts } from "./attributes.js";
import { announce, button, copy, countWords, following, make, notify } from "./dom.js";
import { score, scoreBars } from "./scores.js";
import { inWords } from "./words.js";

const REASONS = { length: "cut at the most tokens" };

/** A card with an answer. `text` is what came so far; `failed` says that none came. */
export class Answer {
  /** @param {string} title @param {object[]} attributes of the model @param {?() => void} again what "Regenerate" does; null: no such button */
  constructor(title, setting, attributes, again) {
    Object.assign(this, { title, setting, attributes, again, text: "", failed: false, scored: null });
    this.said = make("p", { class: "said" });
    this.asked = make("p", { class: "asked" });
    this.confirm(setting.attributes);
    this.facts = make("p", { class: "facts soft" });
    this.after = make("div", { class: "after" });
    this.tools = make("div", { class: "tools" });
    this.element = make("article", { class: "answer", "aria-label": title, "aria-busy": "true" },
      make("header", {}, make("h3", {}, title), this.asked), this.said, this.after, make("footer", {}, this.facts, this.tools));
  }

  grow(text) {
    this.text += text;
    following(() => this.said.append(text));
  }

  /** What the server says that the answer was asked for. */
  confirm(attributes) {
    if (attributes === undefined) return;
    const parts = asParts(attributes, this.attributes).map(({ text, moved }) => make(moved ? "b" : "span", {}, text));
    this.asked.replaceChildren(...parts.flatMap((part, place) => (place ? [" · ", part] : [part])));
  }

  end(facts) {
    this.element.setAttribute("aria-busy", "false");
    this.facts.textContent = facts.filter(Boolean).join(" · ");
    const take = () => copy(this.text, `${this.title} copied`, () => notify("The browser does not let the page copy."));
    const buttons = [this.text && button("Copy", take, { class: "plain", "aria-label": `Copy: ${this.title}` })];
    if (this.again && !this.failed) {
      buttons.push(button("Regenerate", this.again, { class: "plain again", "aria-label": `Regenerate: ${this.title}` }));
    }
    this.tools.replaceChildren(...buttons.filter(Boolean));
  }

  /** Say why there is no answer, or no more of it. */
  fail(error) {
    const { title, advice } = inWords(error);
    this.failed = true;
    this.end([]);
    const retry = button("Try again", this.again, { class: "again" });
    this.after.replaceChildren(make("div", { class: "problem" }, make("p", {}, make("strong", {}, title)), make("p", {}, advice), retry));
    announce(`${this.title}: ${title} ${advice}`);
  }

  /** Stream the answer in, then have it scored. Returns once all of it stands, stopped and failed ones included. */
  async fill(body, scores, signal) {
    const started = performance.now();
    const found = { usage: null, reason: null };
    try {
      for await (const event of stream("/v1/chat/completions", { ...body, stream: true, stream_options: { include_usage: true } }, signal)) {
        this.#take(event, found);
      }
      this.end(this.#facts(found, (performance.now() - started) / 1000));
      announce(`${this.title}: ${this.text || "an empty answer"}`);
      if (!this.text) this.said.replaceChildren(make("em", {}, "(an empty answer)"));
      if (scores && this.text) await this.#score(body.messages, signal);
    } catch (error) {
      if (error.name === "AbortError") this.#stopped();
      else this.fail(error);
    }
  }

  #take({ choices, usage }, found) {
    if (usage) found.usage = usage;
    const [choice] = choices ?? [];
    if (!choice) return;
    if (choice.delta?.content) this.grow(choice.delta.content);
    this.confirm(choice.attributes);
    if (choice.finish_reason) found.reason = choice.finish_reason;
  }

  #facts({ usage, reason }, seconds) {
    const tokens = usage?.completion_tokens;
    const speed = tokens && seconds > 0 ? `${Math.round(tokens / seconds)} tokens/s` : null;
    return [plural(countWords(this.text), "word"), tokens && plural(tokens, "token"), `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`, speed,
      REASONS[reason]];
  }

  #stopped() {
    if (this.element.getAttribute("aria-busy") === "false") return; // only its scores were still to come
    this.end([plural(countWords(this.text), "word"), "stopped"]);
    announce(`${this.title} stopped`);
  }

  async #score(messages, signal) {
    this.after.replaceChildren(make("p", { class: "soft" }, "Scoring…"));
    try {
      this.scored = await score(messages, this.text, this.attributes, signal);
      this.after.replaceChildren(scoreBars(this.scored, `Scores of ${this.title}`));
    } catch (error) {
      if (error.name === "AbortError") return this.after.replaceChildren();
      const { title, advice } = inWords(error);
      this.after.replaceChildren(make("p", { class: "soft" }, `No scores: ${title} ${advice}`));
    }
  }
}

/** "1 word", "2 words". */
export const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
