// Attributes as `/v1/models` lists them: steps, level texts, values as text. Pure functions.

import { spell } from "./dom.js";

const MOST_WHOLE = 11; // values of a sweep over whole numbers
const FRACTIONS = 5; // and over fractions, as in the evaluation's sweeps
const SLIDER_STEPS = 20;

/** Step of a slider: 1, or a twentieth of the range. */
export const stepOf = ({ minimum, maximum, integer }) => (integer ? 1 : (maximum - minimum) / SLIDER_STEPS);

/** The value of the range that is nearest to a number. */
export function nearest(attribute, value) {
  const inside = Math.min(Math.max(value, attribute.minimum), attribute.maximum);
  return attribute.integer ? Math.round(inside) : inside;
}

/** The rubric's text for a value; between two levels that of the nearer one, named. */
export function levelText(attribute, value) {
  const levels = Object.entries(attribute.levels ?? {}).map(([level, text]) => [Number(level), text]);
  if (levels.length === 0) return attribute.description ?? "";
  const [level, text] = levels.reduce((best, each) => (Math.abs(each[0] - value) < Math.abs(best[0] - value) ? each : best));
  return level === value ? text : `near ${spell(level)}: ${text}`;
}

/** The values that a sweep asks for: all whole numbers, or evenly spaced ones. */
export function sweepValues({ minimum, maximum, integer }) {
  const all = integer && maximum - minimum < MOST_WHOLE;
  const count = all ? maximum - minimum + 1 : integer ? MOST_WHOLE : FRACTIONS;
  const values = Array.from({ length: count }, (_, place) => minimum + ((maximum - minimum) * place) / (count - 1));
  return integer ? values.map(Math.round) : values;
}

/** What a model is asked for where nothing was moved; null where it is not asked by default. */
export function defaultsOf(model) {
  if (model.asked_by_default === false || model.attributes.length === 0) return null;
  return Object.fromEntries(model.attributes.map((each) => [each.name, model.default_attributes?.[each.name] ?? each.default]));
}

/** "Verbosity 0 · Complexity 2", or that none are asked for. */
export function asText(values, attributes) {
  if (values === null) return "attributes not asked";
  if (values === undefined) return "";
  const label = (name) => attributes.find((each) => each.name === name)?.label ?? name;
  return Object.entries(values).map(([name, value]) => `${label(name)} ${spell(value)}`).join(" · ");
}

/** The same in parts, `{text, moved}`: what differs from the model's defaults stands out. */
export function asParts(values, attributes) {
  if (!values) return [{ text: asText(values, attributes), moved: false }];
  return Object.entries(values).map(([name, value]) => {
    const attribute = attributes.find((each) => each.name === name);
    return { text: asText({ [name]: value }, attributes), moved: attribute !== undefined && attribute.default !== value };
  });
}

/** Where a value lies in a range, 0 to 1. */
export const share = ({ minimum, maximum }, value) => Math.min(Math.max((value - minimum) / (maximum - minimum), 0), 1);
