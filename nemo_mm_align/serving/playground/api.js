// Requests to the server: keys, errors, streams. No other file fetches.

const KEY = "playground-key";

/** What the server or the network refused, with what can be said of it (`words.js`). */
export class ApiError extends Error {
  /** @param {string} message @param {{status?: number, code?: string, wait?: string, id?: string}} facts
   *   status 0: nothing came; wait: seconds; id: of the request, as the server's log has it */
  constructor(message, { status = 0, code = null, wait = null, id = null } = {}) {
    super(message);
    Object.assign(this, { status, code, wait, id });
  }
}

/** Addresses are relative to the page, so that a proxy may put the server below a path. */
export const address = (path) => new URL(path.replace(/^\//, ""), document.baseURI.split("#")[0]).href;

/** The key of this tab, or null. */
export const key = () => sessionStorage.getItem(KEY);
export const keepKey = (value) => sessionStorage.setItem(KEY, value);
export const dropKey = () => sessionStorage.removeItem(KEY);

let askForKey = async () => false;

/** Say who asks the user for a key: `asker(refused: boolean) -> Promise<boolean>`, true once a key is kept. */
export const onKeyAsked = (asker) => (askForKey = asker);

async function fault(response) {
  const facts = { status: response.status, wait: response.headers.get("Retry-After"), id: response.headers.get("X-Request-Id") };
  const text = await response.text();
  try {
    const { message, code } = JSON.parse(text).error;
    return new ApiError(message, { ...facts, code });
  } catch {
    return new ApiError(text.slice(0, 300), facts);
  }
}

async function send(path, body, signal) {
  const headers = {};
  if (key() !== null) headers.Authorization = `Bearer ${key()}`;
  if (body) headers["Content-Type"] = "application/json";
  const method = body ? "POST" : "GET";
  try {
    return await fetch(address(path), { method, headers, signal, body: body && JSON.stringify(body), cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(error.message);
  }
}

/** Return the response of a request, after a key was asked for where one is needed. Throws `ApiError`. */
export async function request(path, body = null, signal = undefined) {
  for (;;) {
    const used = key();
    const response = await send(path, body, signal);
    if (response.ok) return response;
    if (response.status !== 401) throw await fault(response);
    if (key() === used && !(await askForKey(used !== null))) throw await fault(response);
  }
}

/** Return the JSON that a request is answered with. */
export const ask = async (path, body = null, signal = undefined) => (await request(path, body, signal)).json();

/** An error within a stream, whose status was sent before. */
const broken = ({ message, code }) => new ApiError(message, { status: { draining: 503, timeout: 504 }[code] ?? 500, code });

/** Yield the objects of a stream of server-sent events, up to `[DONE]`. */
export async function* stream(path, body, signal) {
  const reader = (await request(path, body, signal)).body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new ApiError("The connection ended before the answer did.");
      held += value;
      const lines = held.split(/\r?\n/);
      held = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data:")) continue;
        const data = line.slice(5).trim();
        if (data === "[DONE]") return;
        const event = JSON.parse(data);
        if (event.error) throw broken(event.error);
        yield event;
      }
    }
  } catch (error) {
    throw error instanceof TypeError ? new ApiError(error.message) : error;
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Return how many tokens a text has, or null where the server does not say. */
export async function countTokens(model, text, signal) {
  try {
    return (await ask("/tokenize", { model, prompt: text, add_special_tokens: false }, signal)).count ?? null;
  } catch {
    return null;
  }
}
