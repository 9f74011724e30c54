// One question over all values of one attribute, in one request: answers side by side, plots, a table.

import { countTokens, stream } from "./api.js";
import { sweepValues } from "./attributes.js";
import { Answer, plural } from "./answer.js";
import { announce, button, byId, countWords, make, spell } from "./dom.js";
import { bodyOf, contentOf } from "./conversation.js";
import { plot } from "./plot.js";
import { sampling, systemText } from "./sampling.js";
import { digitsOf, score, scoreBars } from "./scores.js";
import { inWords } from "./words.js";

export class Sweep {
  /** @param {object} page as for `Chat` */
  constructor(page) {
    Object.assign(this, { page, running: null, last: null });
    byId("swept-name").addEventListener("change", () => this.describe());
  }

  /** Offer the attributes of the model that is chosen. */
  offer() {
    const { attributes } = this.page.panels()[0].model;
    const taste = attributes.findLast((each) => each.higher_is_better === null); // what models follow best
    const select = byId("swept-name"), held = select.value || taste?.name;
    select.replaceChildren(...attributes.map(({ name, label }) => make("option", { value: name }, label)));
    if (attributes.some(({ name }) => name === held)) select.value = held;
    this.describe();
  }

  describe() {
    if (this.attribute) byId("swept-values").textContent = `Asked at ${sweepValues(this.attribute).map(spell).join(", ")}; the rest as set.`;
  }

  get attribute() {
    return this.page.panels()[0].model.attributes.find(({ name }) => name === byId("swept-name").value);
  }

  /** The request: the swept attribute at all its values, the others as the sliders stand. */
  body(question) {
    const { name } = this.attribute, { setting } = this.page.panels()[0];
    const { [name]: _, ...others } = setting.attributes ?? {};
    const messages = [...(systemText() ? [{ role: "system", content: systemText() }] : []), { role: "user", content: contentOf(question) }];
    return { ...bodyOf({ model: setting.model, attributes: others }, sampling(), messages), sweep: { [name]: sweepValues(this.attribute) } };
  }

  stop() {
    this.running?.abort();
  }

  clear() {
    this.stop();
    byId("sweep").replaceChildren();
  }

  /** Ask, show the answers as they come, then measure. */
  async send(question) {
    const { attribute } = this, body = this.body(question), values = body.sweep[attribute.name];
    const again = () => this.running || this.send(question);
    const answers = values.map((value) => new Answer(`${attribute.label} ${spell(value)}`, {}, this.page.panels()[0].model.attributes, null));
    const plots = make("div", { class: "plots" }), table = make("div");
    const cards = make("div", { class: "sweep-answers" }, ...answers.map((answer) => answer.element));
    byId("sweep").replaceChildren(make("h2", {}, `${attribute.label} from ${spell(values[0])} to ${spell(values.at(-1))}`),
      make("p", { class: "said question-line" }, question.text), plots, table, make("h3", {}, "Answers"), cards);
    byId("sweep").scrollIntoView({ block: "start", behavior: "instant" });
    this.running = new AbortController();
    this.page.busy(true);
    announce(`Sweeping ${attribute.label} over ${plural(values.length, "value")}`);
    try {
      await this.#fill(answers, body, this.running.signal);
      await this.#measure({ attribute, values, answers, body, plots, table }, this.running.signal);
      announce(`Sweep complete: ${plural(values.length, "answer")}`);
    } catch (error) {
      this.#end(answers, error, again);
    } finally {
      this.running = null;
      this.page.busy(false);
    }
  }

  async #fill(answers, body, signal) {
    for await (const { choices } of stream("/v1/chat/completions", { ...body, stream: true }, signal)) {
      for (const choice of choices) {
        const answer = answers[choice.index];
        if (choice.delta?.content) answer.grow(choice.delta.content);
        answer.confirm(choice.attributes);
        if (choice.finish_reason) answer.element.setAttribute("aria-busy", "false");
      }
    }
  }

  async #measure({ attribute, values, answers, body, plots, table }, signal) {
    const tokens = await Promise.all(answers.map((answer) => countTokens(body.model, answer.text, signal)));
    const rows = answers.map((answer, place) => ({ value: values[place], words: countWords(answer.text), tokens: tokens[place], scored: null }));
    rows.forEach((row, place) => answers[place].end([plural(row.words, "word"), row.tokens !== null && plural(row.tokens, "token")]));
    show(attribute, rows, plots, table);
    if (!this.page.scores) return;
    const { attributes } = this.page.panels()[0].model;
    for (const [place, answer] of answers.entries()) {
      if (!answer.text) continue;
      rows[place].scored = await score(body.messages, answer.text, attributes, signal);
      answer.after.replaceChildren(scoreBars(rows[place].scored, `Scores at ${spell(values[place])}`));
      show(attribute, rows, plots, table);
    }
  }

  #end(answers, error, again) {
    for (const answer of answers) {
      if (answer.element.getAttribute("aria-busy") === "true") answer.end([error.name === "AbortError" && "stopped"]);
    }
    if (error.name === "AbortError") return announce("Sweep stopped");
    const { title, advice } = inWords(error);
    const box = make("div", { class: "problem", role: "alert" }, make("p", {}, make("strong", {}, title)), make("p", {}, advice));
    box.append(button("Try again", again, { class: "again" }));
    byId("sweep").querySelector(".plots").before(box);
  }
}

/** Draw what is known so far. */
function show(attribute, rows, plots, table) {
  const xLabel = `${attribute.label} asked for`;
  const counted = rows.every((row) => row.tokens !== null) ? "tokens" : "words";
  const drawn = [{ title: `Answer length in ${counted}`, xLabel, points: rows.map((row) => [row.value, row[counted]]) }];
  const scored = rows.filter((row) => row.scored);
  if (scored.some((row) => attribute.name in row.scored.scores)) {
    const points = scored.map((row) => [row.value, row.scored.scores[attribute.name]]);
    drawn.push({ title: `${attribute.label} as scored`, xLabel, points, low: attribute.minimum, high: attribute.maximum, asAsked: true });
  }
  if (scored.some((row) => row.scored.total !== null)) {
    drawn.push({ title: "Total score", xLabel, points: scored.map((row) => [row.value, row.scored.total]) });
  }
  plots.replaceChildren(...drawn.map((each) => make("figure", {}, make("figcaption", {}, each.title), plot(each))));
  table.replaceChildren(tableOf(attribute, rows, scored));
}

const labelOf = (name, scored) => scored[0].scored.attributes.find((each) => each.name === name)?.label ?? name;

function tableOf(attribute, rows, scored) {
  const names = [...new Set(scored.flatMap((row) => Object.keys(row.scored.scores)))];
  const withTotal = scored.some((row) => row.scored.total !== null);
  const heads = ["Asked", "Words", ...(rows.every((row) => row.tokens !== null) ? ["Tokens"] : []), ...names.map((name) => labelOf(name, scored)), ...(withTotal ? ["Total"] : [])];
  const digits = digitsOf(scored.flatMap((row) => Object.values(row.scored.scores)));
  const cells = (row) => [
    row.words, ...(heads.includes("Tokens") ? [row.tokens] : []),
    ...names.map((name) => (row.scored ? row.scored.scores[name].toFixed(digits) : "")),
    ...(withTotal ? [row.scored ? row.scored.total.toFixed(digits) : ""] : []),
  ];
  const line = (row) => make("tr", {}, make("th", { scope: "row" }, spell(row.value)), ...cells(row).map((cell) => make("td", {}, String(cell))));
  return make("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": "Figures of the sweep" },
    make("table", {}, make("caption", { class: "unseen" }, `Answers by ${attribute.label} asked for`),
      make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))),
      make("tbody", {}, ...rows.map(line))));
}
