// The conversation: exchanges of a question and one answer per setting; stop, regenerate, edit.

import { Answer } from "./answer.js";
import { announce, button, byId, make } from "./dom.js";
import { bodyOf, messagesOf } from "./conversation.js";
import { sampling, systemText } from "./sampling.js";
import { thumbnail } from "./pictures.js";

export class Chat {
  /** @param {object} page what the composer gives: `panels()`, `scores`, `busy(boolean)`, `write(question)` */
  constructor(page) {
    Object.assign(this, { page, exchanges: [], running: null, edited: null });
  }

  /** Ask a question at every setting that is shown. */
  async send(question) {
    if (this.edited !== null) this.#cut(this.edited);
    const exchange = { question, answers: [] };
    this.exchanges.push(exchange);
    this.#draw(exchange);
    await this.#answer(exchange);
  }

  stop() {
    this.running?.abort();
  }

  /** Forget the conversation. */
  clear() {
    this.stop();
    this.#cut(0);
  }

  /** The messages of the present request: the question that is being written, or else the last one asked again. */
  present(question, column) {
    if (question.text || question.pictures.length) {
      return messagesOf(this.exchanges.slice(0, this.edited ?? undefined), question, column, systemText());
    }
    const last = this.exchanges.at(-1);
    return messagesOf(this.exchanges.slice(0, -1), last?.question ?? question, column, systemText());
  }

  unedit() {
    this.edited = null;
    byId("editing").hidden = true;
    this.#mark();
  }

  async #answer(exchange, only = null) {
    const before = this.exchanges.slice(0, this.exchanges.indexOf(exchange));
    const panels = this.page.panels();
    const columns = only === null || only >= panels.length ? panels.keys() : [only];
    if (only === null) exchange.answers = [];
    await this.#during(async (signal) => {
      const filled = [...columns].map((column) => {
        const panel = panels[column];
        const title = panels.length > 1 ? `Answer ${panel.letter}` : "Answer";
        const answer = new Answer(title, panel.setting, panel.model.attributes, () => this.#again(exchange, column));
        const body = bodyOf(panel.setting, sampling(), messagesOf(before, exchange.question, column, systemText()));
        exchange.answers[column] = answer;
        return () => answer.fill(body, this.page.scores, signal);
      });
      exchange.row.replaceChildren(...exchange.answers.map((answer) => answer.element));
      this.#mark();
      exchange.element.scrollIntoView({ block: "start", behavior: "instant" });
      await Promise.all(filled.map((fill) => fill()));
    });
    this.#mark();
  }

  async #again(exchange, column) {
    if (this.running) return;
    byId("question").focus({ preventScroll: true }); // the button goes
    await this.#answer(exchange, exchange.answers.length > 1 ? column : null);
  }

  async #during(work) {
    this.running = new AbortController();
    this.page.busy(true);
    announce("Answering");
    try {
      await work(this.running.signal);
    } finally {
      this.running = null;
      this.page.busy(false);
    }
  }

  #draw(exchange) {
    const number = this.exchanges.length;
    const { text, pictures } = exchange.question;
    exchange.row = make("div", { class: "answers" });
    exchange.edit = button("Edit", () => this.#edit(exchange), { class: "plain edit", "aria-label": `Edit question ${number}` });
    const shown = pictures.length ? make("div", { class: "pictures" }, ...pictures.map(thumbnail)) : null;
    const asked = make("div", { class: "asked-question" }, shown, make("p", { class: "said" }, text), exchange.edit);
    exchange.element = make("section", { class: "exchange", "aria-label": `Question ${number}` },
      make("h2", { class: "unseen" }, `Question ${number}`), asked, exchange.row);
    byId("talk").append(exchange.element);
  }

  #edit(exchange) {
    if (this.running) return;
    this.edited = this.exchanges.indexOf(exchange);
    const follow = this.exchanges.length - this.edited > 1 ? " and what follows it" : "";
    byId("editing").firstElementChild.textContent = `Sending replaces question ${this.edited + 1}${follow}.`;
    byId("editing").hidden = false;
    this.#mark();
    this.page.write(exchange.question);
  }

  #cut(place) {
    for (const exchange of this.exchanges.splice(place)) exchange.element.remove();
    this.unedit();
  }

  /** An earlier answer cannot be regenerated: what follows answers to it. */
  #mark() {
    this.exchanges.forEach((exchange, place) => {
      exchange.element.classList.toggle("last", place === this.exchanges.length - 1);
      exchange.element.classList.toggle("edited", this.edited !== null && place >= this.edited);
    });
    if (this.exchanges.length > 0) byId("welcome").hidden = true;
  }
}
