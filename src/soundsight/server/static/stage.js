/** The present, drawn: one picture, few words, and a shape for every state. */

import { DETAILS, HEADLINES, howSure, isKnown, nameOf } from "./words.js";

const SHAPES = {
  start: "start",
  starting: "start",
  not_listening: "fault",
  paused: "paused",
  sound: "sound",
  picture: "picture",
  past: "past",
  nothing: "nothing",
  quiet: "quiet",
  replay: "replay",
};

const SIDE = 768;

export function find(id) {
  return document.getElementById(id);
}

export class Stage {
  constructor() {
    this.layers = [find("layer-a"), find("layer-b")];
    this.front = 0;
    this.asked = 0;
    this.spoken = {};
  }

  /** Turns JPEG pictures into bitmaps. */
  static async decode(pictures) {
    return Promise.all(
      pictures.map((bytes) => createImageBitmap(new Blob([bytes], { type: "image/jpeg" }))),
    );
  }

  /**
   * Shows pictures: one, or several side by side. Resolves when they are painted; to false where
   * newer ones have come before.
   */
  async show(pictures) {
    this.asked += 1;
    const { asked } = this;
    const bitmaps = await Stage.decode(pictures);
    if (asked !== this.asked) return false;
    const back = this.layers[1 - this.front];
    drawGrid(back, bitmaps, SIDE);
    back.classList.add("is-shown");
    this.layers[this.front].classList.remove("is-shown");
    this.front = 1 - this.front;
    await painted();
    return true;
  }

  /** Takes the pictures away. */
  clear() {
    this.asked += 1;
    for (const layer of this.layers) layer.classList.remove("is-shown");
  }

  /** The mark that something sounds at this moment. */
  mark(on) {
    find("mark").classList.toggle("is-on", on);
  }

  /**
   * Says a state.
   * @param {string} state
   * @param {object} facts detail, when, entry (with confidence, name, secondGuess, pictured, named,
   *   pictogram, repeats)
   */
  say(state, facts = {}) {
    const { entry } = facts;
    const shows = ["picture", "named", "past", "replay"].includes(state);
    const known = shows && Boolean(entry) && isKnown(entry);
    const named = known && entry.named;
    const page = document.documentElement;
    page.dataset.state = state;
    // A pictogram stands where a picture would.
    page.dataset.face = shows && !named ? "picture" : "shape";
    const pictogram = named ? `#shape-alert-${entry.pictogram}` : "";
    put(find("shape"), "href", state === "named" ? pictogram : `#shape-${SHAPES[state]}`);
    put(find("big-shape"), "href", pictogram || `#shape-${SHAPES[state]}`);
    find("tag").hidden = !known;
    text("tag", named ? "named, not imagined" : "imagined");
    find("sure").hidden = !known || state === "past";
    let headline = HEADLINES[state] ?? "";
    if (known) {
      const { words, marks } = howSure(entry.confidence);
      headline = nameOf(entry);
      headline = headline[0].toUpperCase() + headline.slice(1) + (marks === 1 ? "?" : "");
      text("sure-words", entry.name ? words : `a picture of what it is: ${words}`);
      [...find("dots").children].forEach((dot, i) => dot.classList.toggle("is-full", i < marks));
    }
    text("headline", headline);
    text("detail", facts.detail ?? DETAILS[state] ?? "");
    text("when", facts.when ?? "");
  }

  note(words) {
    const place = find("note");
    place.hidden = !words;
    text("note", words);
  }

  level(dbfs) {
    const share = Math.min(1, Math.max(0, (dbfs + 80) / 80));
    find("meter").style.transform = `scaleX(${share.toFixed(3)})`;
  }

  /** Says something to a screen reader, once. */
  announce(words, urgent = false) {
    const place = urgent ? "assertive" : "polite";
    if (this.spoken[place] === words) return;
    this.spoken[place] = words;
    text(place, words);
  }
}

/** Draws bitmaps into a square, each as large as fits. */
export function drawGrid(canvas, bitmaps, side) {
  const across = bitmaps.length > 1 ? 2 : 1;
  const down = Math.ceil(bitmaps.length / across) || 1;
  const cell = side / across;
  canvas.width = side;
  canvas.height = cell * down;
  const ink = canvas.getContext("2d");
  ink.imageSmoothingEnabled = true;
  ink.imageSmoothingQuality = "high";
  bitmaps.forEach((bitmap, i) => {
    ink.drawImage(bitmap, (i % across) * cell, Math.floor(i / across) * cell, cell, cell);
    bitmap.close();
  });
}

function text(id, words) {
  const place = find(id);
  if (place.textContent !== words) place.textContent = words;
}

function put(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

function painted() {
  return new Promise((done) => {
    // A page that is not shown paints nothing.
    if (document.hidden) done();
    else requestAnimationFrame(() => requestAnimationFrame(() => done()));
  });
}
