// One setting: which model, asked for which values. Two of them stand side by side.

import { asParts, defaultsOf, levelText, nearest, share, stepOf } from "./attributes.js";
import { button, make, spell } from "./dom.js";

/** A setting's part of the page. `setting` is what is asked: `{model, attributes}`, attributes null where not asked. */
export class Panel {
  /** @param {string} letter "A" or "B" @param {object[]} models of `/v1/models` @param {() => void} changed */
  constructor(letter, models, changed) {
    Object.assign(this, { letter, models, changed, asked: true });
    this.title = make("h3", { id: `title-${letter}` });
    this.rows = make("div", { class: "rows" });
    this.element = make("section", { class: `panel setting ${letter}`, "aria-labelledby": this.title.id }, this.title,
      this.#choice(), this.#toggle(), this.rows);
    this.pick(models[0].id);
  }

  get model() {
    return this.models.find((each) => each.id === this.select.value);
  }

  get setting() {
    const asks = this.model.attributes.length > 0;
    return { model: this.model.id, attributes: asks ? (this.asked ? { ...this.values } : null) : undefined };
  }

  /** What differs from the defaults. */
  get brief() {
    const { attributes } = this.setting;
    if (attributes === undefined) return "";
    const moved = asParts(attributes, this.model.attributes).filter((part) => part.moved || attributes === null);
    return moved.map((part) => part.text).join(" · ") || "at the defaults";
  }

  /** Choose a model, asked at its own defaults. */
  pick(id) {
    this.select.value = this.models.some((each) => each.id === id) ? id : this.models[0].id;
    this.write(defaultsOf(this.model));
  }

  /** Move the sliders to the values; null: not asked. Values are kept in range, names the model does not have left out. */
  write(values) {
    const known = this.model.attributes.filter((each) => Number.isFinite(values?.[each.name]));
    this.asked = values !== null;
    const start = Object.fromEntries(this.model.attributes.map((each) => [each.name, this.model.default_attributes?.[each.name] ?? each.default]));
    this.values = { ...start, ...Object.fromEntries(known.map((each) => [each.name, nearest(each, values[each.name])])) };
    this.#draw();
  }

  /** Whether one of two settings is shown. */
  pair(shown) {
    this.title.textContent = shown ? `Setting ${this.letter}` : "Attributes";
  }

  #choice() {
    this.select = make("select", { id: `model-${this.letter}` }, ...this.models.map((each) => make("option", { value: each.id }, each.id)));
    this.select.addEventListener("change", () => {
      this.pick(this.select.value);
      this.changed();
    });
    return make("label", { class: "wide", hidden: this.models.length < 2 }, "Model", this.select);
  }

  #toggle() {
    this.switch = make("input", { type: "checkbox", role: "switch", id: `unasked-${this.letter}` });
    this.switch.addEventListener("change", () => {
      this.asked = !this.switch.checked;
      this.#draw();
      this.changed();
    });
    const reset = () => {
      this.write(defaultsOf(this.model));
      this.changed();
    };
    this.line = make("div", { class: "line" }, make("label", { class: "switch" }, this.switch, "Not asked"),
      button("Defaults", reset, { class: "plain", "aria-label": `Defaults of setting ${this.letter}` }));
    return this.line;
  }

  #draw() {
    const { attributes } = this.model;
    this.line.hidden = attributes.length === 0;
    this.switch.checked = !this.asked;
    const none = make("p", { class: "soft" }, "This model was not trained with attributes: it answers as it is.");
    this.rows.classList.toggle("unasked", !this.asked);
    this.rows.replaceChildren(...(attributes.length ? attributes.map((each) => this.#row(each)) : [none]));
  }

  #row(attribute) {
    const { name, label, minimum, maximum, description } = attribute;
    const id = `${name}-${this.letter}`;
    const output = make("output", { for: id });
    const level = make("p", { class: "level", id: `${id}-level` });
    const slider = make("input", {
      type: "range", id, min: minimum, max: maximum, step: stepOf(attribute), disabled: !this.asked,
      "aria-describedby": `${id}-about`,
    });
    const show = () => {
      const value = this.values[name];
      output.textContent = spell(value);
      level.textContent = levelText(attribute, value);
      slider.setAttribute("aria-valuetext", `${spell(value)} of ${spell(maximum)}: ${level.textContent}`);
      slider.style.setProperty("--share", share(attribute, value));
    };
    slider.value = this.values[name];
    slider.addEventListener("input", () => {
      this.values[name] = Number(slider.value);
      show();
      this.changed();
    });
    show();
    const about = make("span", { class: "unseen", id: `${id}-about` }, description ?? "");
    const head = make("div", { class: "line" }, make("label", { for: id, title: description ?? "" }, label), output);
    return make("div", { class: "row" }, head, slider, about, level);
  }
}
