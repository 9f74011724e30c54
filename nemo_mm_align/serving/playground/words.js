// What the server refused, in words, with what to do.

const ADVICE = {
  400: "Change the setting that is named and ask again.",
  401: "Ask whoever runs the server for a key, then try again.",
  403: "Ask whoever runs the server for a key that may do this.",
  404: "Reload the page: the server may serve another model by now.",
  408: "Try again; fewer tokens take less time.",
  413: "Send fewer or smaller pictures, or a shorter text.",
  422: "Change the setting that is named and ask again.",
  429: "Too many questions are waiting. Try again in a moment.",
  500: "The fault is the server's, its log says more. Try again.",
  503: "The server is stopping or starting. Try again in a moment.",
  504: "Try again; fewer tokens take less time.",
};

/** What to tell of an error. @returns {{title: string, advice: string}} what happened, what to do */
export function inWords(error) {
  if (!("status" in error)) return { title: `The page made a mistake: ${error.message}`, advice: "Reload it." };
  if (error.status === 0) return { title: unreachable(error), advice: "Check the connection, then try again." };
  const wait = error.wait ? ` The server asks to wait ${error.wait} s.` : "";
  const title = error.message || `The server answered with status ${error.status}.`;
  const id = error.status >= 500 && error.id ? ` (Request ${error.id} in its log.)` : "";
  return { title, advice: (ADVICE[error.status] ?? "Try again.") + wait + id };
}

const unreachable = (error) =>
  navigator.onLine === false
    ? "This device is offline."
    : /ended/.test(error.message) ? error.message : "The server cannot be reached.";
