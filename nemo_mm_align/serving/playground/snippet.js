// The present request as code that runs elsewhere. Pictures become files of the reader's own; keys are named, not shown.

const KNOWN = ["model", "messages", "temperature", "top_p", "max_tokens", "seed"]; // arguments of the openai package
const MARK = `<picture-${Math.random().toString(36).slice(2)}>`; // where a picture stands: no question holds it

/** Replace pictures by what `put(number)` gives. @returns {[object, number]} the body, and how many there were */
function withoutPictures(body, put) {
  let count = 0;
  const part = (each) => (each.type === "image_url" ? { ...each, image_url: { url: put(++count) } } : each);
  const messages = body.messages.map((each) => (Array.isArray(each.content) ? { ...each, content: each.content.map(part) } : each));
  return [{ ...body, messages }, count];
}

/** JSON as Python writes it. */
function python(value, indent) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "string") return value.startsWith(MARK) ? value.slice(MARK.length) : JSON.stringify(value);
  if (typeof value === "number") return String(value);
  const inner = `${indent}    `;
  const list = Array.isArray(value);
  const lines = Object.entries(value).map(([name, each]) => `${inner}${list ? "" : `${JSON.stringify(name)}: `}${python(each, inner)}`);
  const [open, close] = list ? "[]" : "{}";
  const short = `${open}${lines.map((line) => line.trim()).join(", ")}${close}`;
  return short.length < 90 && !short.includes("\n") ? short : `${open}\n${lines.join(",\n")},\n${indent}${close}`;
}

const READING = `def picture(path):
    """A picture file as a data URL."""
    with open(path, "rb") as file:
        return "data:image/png;base64," + base64.b64encode(file.read()).decode()


`;

/** @param {object} body @param {string} base address of the API, up to /v1 @param {boolean} keyed whether a key was asked for */
export function asPython(body, base, keyed) {
  const [plain, pictures] = withoutPictures(body, (number) => `${MARK}picture("picture${number}.png")`);
  const extra = Object.fromEntries(Object.entries(plain).filter(([name]) => !KNOWN.includes(name)));
  const given = Object.entries(plain).filter(([name]) => KNOWN.includes(name));
  const lines = given.map(([name, value]) => `    ${name}=${python(value, "    ")},\n`);
  if (Object.keys(extra).length) lines.push(`    extra_body=${python(extra, "    ")},\n`);
  const imports = [pictures ? "import base64\n" : "", keyed ? "import os\n" : ""].join("");
  const key = keyed ? 'os.environ["API_KEY"]' : '"none"';
  return `${imports}${imports && "\n"}from openai import OpenAI\n\n${pictures ? `\n${READING}` : ""}` +
    `client = OpenAI(base_url=${JSON.stringify(base)}, api_key=${key})\n` +
    `answer = client.chat.completions.create(\n${lines.join("")})\n` +
    "for choice in answer.choices:\n    print(choice.message.content)\n";
}

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** @param {object} body @param {string} base @param {boolean} keyed as for `asPython` */
export function asCurl(body, base, keyed) {
  const [plain, pictures] = withoutPictures(body, (number) => `${MARK}${number}${MARK}`);
  const text = JSON.stringify(plain, null, 1);
  const key = keyed ? ' \\\n  -H "Authorization: Bearer $API_KEY"' : "";
  const head = `curl ${quoted(`${base}/chat/completions`)} -H 'Content-Type: application/json'${key}`;
  if (!pictures) return `${head} \\\n  -d ${quoted(text)}\n`;
  const data = (number) => `'data:image/png;base64,' "$(base64 < picture${number}.png | tr -d '\\n')"`;
  const pieces = text.split(MARK).map((piece, place) => (place % 2 ? data(piece) : quoted(piece)));
  return `printf '%s' ${pieces.join(" ")} | \\\n${head} \\\n  --data-binary @-\n`;
}
