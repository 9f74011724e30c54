// From exchanges to the messages of a request. Pure functions.

/** A message's content: plain text, or pictures before the text. @param {{text: string, pictures: {url: string}[]}} question */
export function contentOf({ text, pictures }) {
  if (pictures.length === 0) return text;
  const shown = pictures.map(({ url }) => ({ type: "image_url", image_url: { url } }));
  return text ? [...shown, { type: "text", text }] : shown;
}

const system = (text) => (text ? [{ role: "system", content: text }] : []);

/**
 * The messages that lead to a question. A column of side-by-side answers goes on from its own answers; exchanges without one
 * (refused, or stopped before its first word) are left out.
 * @param {{question: object, answers: {text: string}[]}[]} exchanges before the question @param {number} column
 */
export function messagesOf(exchanges, question, column, systemText) {
  const told = exchanges.flatMap((exchange) => {
    const answer = exchange.answers[column] ?? exchange.answers[0];
    if (!answer?.text) return [];
    return [{ role: "user", content: contentOf(exchange.question) }, { role: "assistant", content: answer.text }];
  });
  return [...system(systemText), ...told, { role: "user", content: contentOf(question) }];
}

/** A request's body; attributes undefined: a model that has none. */
export function bodyOf({ model, attributes }, sampling, messages) {
  return { model, messages, ...(attributes === undefined ? {} : { attributes }), ...sampling };
}
