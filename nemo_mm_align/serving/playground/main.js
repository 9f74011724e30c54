// The page: which model is served, what is shown for it, and what the composer does.

import { address, ask } from "./api.js";
import { banner, button, byId, copy, make, notify } from "./dom.js";
import { bodyOf } from "./conversation.js";
import { Chat } from "./chat.js";
import { codeDialog, keyDialog } from "./dialogs.js";
import * as link from "./link.js";
import { Panel } from "./panel.js";
import { Pictures, takeEverywhere } from "./pictures.js";
import { Rating } from "./rating.js";
import { sampling, samplingHolds, systemText, writeSampling } from "./sampling.js";
import { Sweep } from "./sweep.js";
import { inWords } from "./words.js";

const pictures = new Pictures();
const page = { scores: false, busy, write, view, panels: () => (view() === "compare" ? panels : panels.slice(0, 1)) };
const chat = new Chat(page), sweep = new Sweep(page), rating = new Rating(page);
let panels = [], models = [];

function view() {
  if (models[0]?.kind === "attribute_model") return "rate";
  return document.querySelector("input[name=view]:checked").value;
}

const working = () => ({ sweep, rate: rating })[view()] ?? chat;
const question = () => ({ text: byId("question").value.trim(), pictures: pictures.items });
const running = () => chat.running || sweep.running || rating.running;

function busy(is) {
  const held = document.activeElement;
  byId("stop").hidden = !is;
  byId("send").hidden = is;
  for (const input of document.querySelectorAll("input[name=view]")) input.disabled = is;
  if (is && held === byId("send")) byId("stop").focus();
  if (!is && held === byId("stop")) byId("question").focus({ preventScroll: true });
}

/** Put a question back into the composer. */
function write({ text, pictures: shown }) {
  byId("question").value = text;
  pictures.set(shown);
  grow();
  byId("question").focus();
}

function grow() {
  const box = byId("question");
  box.style.height = "auto";
  box.style.height = `${Math.min(box.scrollHeight + 2, innerHeight * 0.35)}px`;
}

async function send() {
  if (running() || !panels.length || !samplingHolds()) return;
  await pictures.read; // whoever drops a picture and presses Enter means both
  if (running()) return;
  const asked = { text: byId("question").value.trim(), pictures: [...pictures.items] };
  if (!asked.text && !asked.pictures.length) return missing("question", "Write a question first.");
  if (view() === "rate") {
    const answer = byId("rated").value.trim();
    return answer ? rating.send(asked, answer) : missing("rated", "Write the answer that is to be rated.");
  }
  if (view() === "sweep") return sweep.send(asked);
  byId("question").value = "";
  pictures.take();
  grow();
  await chat.send(asked);
}

function missing(id, text) {
  byId(id).focus();
  notify(text);
}

/** Show what belongs to the view. */
function arrange() {
  const now = view(), rate = now === "rate";
  panels.forEach((panel, place) => {
    panel.pair(now === "compare");
    panel.element.hidden = rate || (place > 0 && now !== "compare");
  });
  for (const [id, shown] of Object.entries({
    talk: now === "chat" || now === "compare", sweep: now === "sweep", swept: now === "sweep", ratings: rate, "to-rate": rate,
    welcome: now === "sweep" ? false : !(rate ? byId("ratings").children.length : chat.exchanges.length),
  })) byId(id).hidden = !shown;
  byId("send").textContent = { sweep: "Run the sweep", rate: "Rate" }[now] ?? "Send";
  byId("hint").textContent = rate ? "Ctrl+Enter rates. Drop or paste pictures." : "Enter sends, Shift+Enter breaks the line. Drop or paste pictures.";
  document.body.dataset.view = now;
  if (now === "sweep") sweep.offer();
  changed();
}

/** The settings in one line, for narrow screens where they are folded. */
function changed() {
  byId("settings-brief").textContent = page.panels().map((panel) => panel.brief).filter(Boolean).join(" | ");
  if (view() === "sweep") sweep.offer();
}

/** Body of the request that "Send" would make, or of the last one. */
function present() {
  if (view() === "sweep") return sweep.body(question());
  if (view() === "rate") return rating.body(question(), byId("rated").value.trim());
  return bodyOf(page.panels()[0].setting, sampling(), chat.present(question(), 0));
}

function state() {
  const text = question().text || chat.exchanges.at(-1)?.question.text || "";
  return {
    view: view() === "rate" ? "chat" : view(), question: text, system: systemText(), sampling: sampling(),
    settings: page.panels().map((panel) => panel.setting), swept: byId("swept-name").value,
  };
}

async function share() {
  const fragment = link.write(state());
  history.replaceState(null, "", `#${fragment}`);
  const held = pictures.items.length || chat.exchanges.some((each) => each.question.pictures.length);
  const said = `Link copied: settings and question.${held ? " Pictures are not in it." : ""}`;
  await copy(`${address("")}#${fragment}`, said, () => notify("The link stands in the address bar."));
}

/** Set everything as a link says; nothing is sent. */
function follow() {
  const found = link.read(location.hash);
  if (found.empty || running()) return;
  const wanted = document.querySelector(`input[name=view][value="${CSS.escape(found.view)}"]`);
  if (wanted && !wanted.closest("label").hidden) wanted.checked = true;
  found.settings.forEach(({ model, attributes }, place) => {
    if (model !== undefined) panels[place].pick(model);
    if (attributes !== undefined) panels[place].write(attributes);
  });
  writeSampling(found.sampling, found.system);
  byId("question").value = found.question;
  grow();
  arrange();
  if (found.swept !== null) byId("swept-name").value = found.swept;
  sweep.describe();
}

/** Ask what is served; on failure say so, with a button. */
async function start() {
  banner(null);
  try {
    const config = await ask("/playground/config.json");
    models = (await ask(config.models_path)).data;
    page.scores = config.scores;
    pictures.limits = { bytes: config.max_image_bytes ?? Infinity, pixels: config.max_image_pixels ?? Infinity };
  } catch (error) {
    const { title, advice } = inWords(error);
    return banner(`${title} ${advice}`, button("Try again", start));
  }
  served();
  follow();
}

function served() {
  const [first] = models, rate = first.kind === "attribute_model";
  byId("served").textContent = first.root ?? first.id;
  document.title = `Playground: ${first.root ?? first.id}`;
  panels = ["A", "B"].map((letter) => new Panel(letter, models, changed));
  byId("panels").replaceChildren(...panels.map((panel) => panel.element));
  byId("views").hidden = rate;
  const steered = models.some((each) => each.attributes.length > 0);
  document.querySelector("input[value=sweep]").closest("label").hidden = !steered;
  document.querySelector("input[value=compare]").closest("label").hidden = !steered && models.length < 2;
  byId("share").hidden = rate;
  if (rate) byId("sampling").replaceChildren(byId("system").closest("label")); // nothing is sampled
  if (rate) byId("welcome").replaceChildren(...rateWelcome());
  arrange();
}

const rateWelcome = () => [
  make("h2", {}, "Have an answer rated"),
  make("p", {}, "This server serves an attribute model: write a question and an answer to it, and see what it would give."),
];

function listen() {
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  for (const id of ["question", "rated"]) byId(id).addEventListener("keydown", (event) => {
    const sends = event.key === "Enter" && !event.shiftKey && !event.isComposing && (view() !== "rate" || event.ctrlKey || event.metaKey);
    if (!sends) return;
    event.preventDefault();
    send();
  });
  byId("question").addEventListener("input", grow);
  byId("skip").addEventListener("click", (event) => {
    event.preventDefault(); // the fragment is the link's
    byId("question").focus();
  });
  byId("stop").addEventListener("click", () => working().stop());
  addEventListener("keydown", (event) => event.key === "Escape" && !document.querySelector("dialog[open]") && working().stop());
  byId("views").addEventListener("change", arrange);
  byId("unedit").addEventListener("click", () => {
    chat.unedit();
    write({ text: "", pictures: [] });
  });
  byId("fresh").addEventListener("click", () => {
    working().clear();
    byId("rated").value = "";
    write({ text: "", pictures: [] });
    arrange();
  });
  byId("share").addEventListener("click", share);
  byId("ideas").addEventListener("click", (event) => event.target.matches(".idea") && write({ text: event.target.textContent, pictures: pictures.items }));
  addEventListener("hashchange", follow);
  addEventListener("offline", () => banner("This device is offline. Answers come again once it is connected."));
  addEventListener("online", () => (models.length ? banner(null) : start()));
}

/** On narrow screens the settings are folded at first. */
function fold() {
  const wide = matchMedia("(min-width: 860px)");
  const set = () => (byId("settings").open = wide.matches);
  wide.addEventListener("change", set);
  set();
}

keyDialog();
codeDialog(present);
takeEverywhere(pictures);
listen();
fold();
start();
