// Pictures of a question: added by button, drop or paste; sent as they are unless the server's limits are below them.

import { announce, button, byId, make, notify } from "./dom.js";

const SENT_AS_THEY_ARE = ["image/png", "image/jpeg", "image/webp"]; // others are drawn anew, as PNG
const SMALLER = 0.8;
const QUALITY = 0.92;

/** The pictures of the question that is being written, as `{name, url, width, height}`. */
export class Pictures {
  constructor() {
    this.items = [];
    this.read = Promise.resolve(); // once all that was added so far has been read
    this.limits = { bytes: Infinity, pixels: Infinity };
  }

  /** Read files, one after the other; those that are no picture are named. @param {Iterable<File>} files */
  add(files) {
    const given = [...files];
    this.read = this.read.then(() => this.#readAll(given));
    return this.read;
  }

  async #readAll(files) {
    for (const file of files) {
      try {
        this.items.push(await readPicture(file, this.limits));
      } catch {
        notify(`${file.name}: the browser cannot read it as a picture. Use PNG, JPEG or WebP.`);
        continue;
      }
      this.draw();
      announce(`Picture ${this.items.length} added: ${file.name}`);
    }
  }

  set(items) {
    this.items = [...items];
    this.draw();
  }

  take() {
    const taken = this.items;
    this.set([]);
    return taken;
  }

  draw() {
    byId("pictures").replaceChildren(...this.items.map((item, place) => this.#preview(item, place)));
  }

  #preview(item, place) {
    const remove = () => {
      this.items.splice(place, 1);
      this.draw();
      announce(`${item.name} removed`);
      const left = byId("pictures").querySelectorAll("button");
      (left[Math.min(place, left.length - 1)] ?? byId("file")).focus();
    };
    return make("li", {}, thumbnail(item, place), button("×", remove, { "aria-label": `Remove picture ${place + 1}, ${item.name}` }));
  }
}

/** A picture as it stands in the page. */
export const thumbnail = (item, place) =>
  make("img", { src: item.url, alt: `Picture ${place + 1}: ${item.name}, ${item.width} by ${item.height} pixels`, title: item.name });

async function readPicture(file, limits) {
  const bitmap = await decoded(file);
  const whole = SENT_AS_THEY_ARE.includes(file.type) && file.size <= limits.bytes && bitmap.width * bitmap.height <= limits.pixels;
  const shrink = Math.min(1, Math.sqrt(limits.pixels / (bitmap.width * bitmap.height)));
  const { blob, width, height } = whole ? { blob: file, width: bitmap.width, height: bitmap.height } : await drawn(bitmap, shrink, limits.bytes);
  return { name: file.name || "pasted picture", url: await dataUrl(blob), width, height, scaled: width < bitmap.width };
}

/** Decode through an image element, which reads SVG as well. */
async function decoded(file) {
  const image = make("img", { src: URL.createObjectURL(file) });
  try {
    await image.decode();
    return { image, width: image.naturalWidth || 512, height: image.naturalHeight || 512 };
  } finally {
    URL.revokeObjectURL(image.src);
  }
}

/** Draw a picture smaller and smaller until it has few enough bytes; JPEG once PNG does not do. */
async function drawn({ image, width, height }, scale, bytes) {
  for (let type = "image/png"; ; type = "image/jpeg") {
    const canvas = make("canvas", { width: Math.max(1, Math.floor(width * scale)), height: Math.max(1, Math.floor(height * scale)) });
    const pen = canvas.getContext("2d");
    if (type === "image/jpeg") pen.fillStyle = "#fff", pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(image, 0, 0, canvas.width, canvas.height);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, type, QUALITY));
    if (blob.size <= bytes || canvas.width * canvas.height === 1) return { blob, width: canvas.width, height: canvas.height };
    if (type === "image/jpeg") scale *= SMALLER;
  }
}

function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

/** Take pictures that are dropped anywhere on the page, pasted, or chosen. */
export function takeEverywhere(pictures) {
  const drop = byId("drop");
  const carries = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  addEventListener("dragover", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    drop.hidden = false;
  });
  addEventListener("dragleave", (event) => event.relatedTarget === null && (drop.hidden = true));
  addEventListener("drop", (event) => {
    drop.hidden = true;
    if (!carries(event)) return;
    event.preventDefault();
    pictures.add(event.dataTransfer.files);
  });
  addEventListener("paste", (event) => {
    if (document.querySelector("dialog[open]") || !event.clipboardData?.files.length) return;
    event.preventDefault();
    pictures.add(event.clipboardData.files);
  });
  byId("file").addEventListener("change", async (event) => {
    const files = [...event.target.files];
    event.target.value = "";
    await pictures.add(files);
  });
}
