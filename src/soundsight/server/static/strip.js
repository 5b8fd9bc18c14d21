/** The last minutes: an entry for each event, gaps where nothing listened, newest first. */

import { drawGrid, Stage } from "./stage.js";
import { clock, howSure, isKnown, length, nameOf } from "./words.js";

const KEPT_S = 600;
const MOST = 200;
const TAIL_MS = 1000; // unrecognisable for no longer than this before it is quiet: the end of a sound
const THUMB = 192;
/** What an event is before anything is recognised. */
const NOTHING = {
  pictured: false, named: false, name: "", secondGuess: "", pictogram: "", confidence: 0,
  drawing: 0, pictures: [],
};
const GAPS = { "not listening": "fault", paused: "paused", stopped: "paused", replaying: "replay" };

function element(tag, className = "", words = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (words) made.textContent = words;
  return made;
}

function shape(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#shape-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

export class Strip {
  /** @param {(entry: object) => void} onChoose */
  constructor(onChoose) {
    this.list = document.getElementById("strip");
    this.onChoose = onChoose;
    this.entries = [];
    this.list.addEventListener("keydown", (event) => this.#walk(event));
  }

  /**
   * Takes what is known of an event, and returns the entry that says what it is now.
   *
   * The one rule, as in soundsight.runtime.events.take_surer: name, confidence and what is shown are
   * those of the event's surest moment. What is no longer recognised while it sounds on is an entry
   * of its own, until it is recognised again or turns out to have been the end of a sound.
   * @param {string} key the connection's number and the event's
   * @param {object} facts from, to (positions), at, until (Date), pictured, named, name,
   *   secondGuess, pictogram, confidence, repeats, drawing, pictures (JPEG)
   */
  event(key, facts) {
    let entry = this.entries.find((one) => one.key === key);
    if (!entry) {
      const { from, to, at, until, repeats } = facts;
      entry = { key, kind: "event", from, to, at, until, repeats, ...NOTHING };
      this.#add(entry);
    }
    const rest = this.entries.find((one) => one.restOf === entry);
    if (isKnown(entry) && !isKnown(facts)) {
      if (!rest) {
        const since = { from: entry.to, at: facts.until, until: facts.until, to: facts.to };
        const kind = "event";
        this.#add({ key: `${key}.rest`, kind, restOf: entry, repeats: 1, ...NOTHING, ...since });
        return this.entries[0];
      }
      rest.until = facts.until;
      rest.to = facts.to;
      this.#words(rest);
      return rest;
    }
    if (rest) this.#remove(rest);
    entry.until = facts.until;
    entry.to = facts.to;
    entry.repeats = facts.repeats;
    if (isKnown(facts)) {
      const surer = !isKnown(entry) || facts.confidence > entry.confidence;
      if (surer) {
        const { pictured, named, name, secondGuess, pictogram, confidence } = facts;
        const became = named && pictogram !== entry.pictogram;
        Object.assign(entry, { pictured, named, name, secondGuess, pictogram, confidence });
        if (became) this.#pictogram(entry);
      }
      // Where another number of pictures has been asked for, they are the newest.
      const other = facts.pictures.length !== entry.pictures.length;
      if (entry.pictured && facts.pictured && (surer || other) && facts.drawing !== entry.drawing) {
        entry.drawing = facts.drawing;
        entry.pictures = facts.pictures;
        this.#picture(entry);
      }
    }
    this.#words(entry);
    return entry;
  }

  /** It is quiet: what was unrecognisable just before was no event of its own. */
  quiet(entry) {
    if (!entry?.restOf || entry.until - entry.at >= TAIL_MS) return entry;
    this.#remove(entry);
    return entry.restOf;
  }

  /** Begins a gap, or goes on with the one that is open where it is of the same kind. */
  gap(words, since = new Date()) {
    const open = this.entries.find((one) => one.kind === "gap" && !one.closed);
    if (open?.name === words) {
      open.until = new Date();
      this.#words(open);
      return;
    }
    this.endGap();
    const at = open ? new Date() : since;
    this.#add({ kind: "gap", name: words, at, until: new Date(), closed: false });
  }

  endGap() {
    const open = this.entries.find((one) => one.kind === "gap" && !one.closed);
    if (!open) return;
    open.until = new Date();
    open.closed = true;
    this.#words(open);
  }

  choose(entry) {
    for (const one of this.entries) {
      one.button?.setAttribute("aria-pressed", String(one === entry));
    }
  }

  clear() {
    this.entries = [];
    this.list.replaceChildren();
    this.#showButtons();
  }

  forget() {
    const oldest = Date.now() - KEPT_S * 1000;
    for (const entry of [...this.entries]) {
      const old = entry.until.getTime() < oldest && (entry.kind === "event" || entry.closed);
      if (old || this.entries.indexOf(entry) >= MOST) {
        this.#remove(entry);
      }
    }
    this.#showButtons();
  }

  #remove(entry) {
    // A person who is at it keeps it.
    if (!this.entries.includes(entry) || entry.item.contains(document.activeElement)) return;
    entry.item.remove();
    this.entries.splice(this.entries.indexOf(entry), 1);
  }

  focus() {
    this.list.querySelector("button")?.focus();
  }

  #add(entry) {
    entry.item = element("li");
    const isGap = entry.kind === "gap";
    entry.button = element(isGap ? "div" : "button", `entry${isGap ? " is-gap" : ""}`);
    if (!isGap) {
      entry.button.type = "button";
      entry.button.setAttribute("aria-pressed", "false");
      entry.button.addEventListener("click", () => this.onChoose(entry));
    }
    const blank = element("span", "blank");
    blank.append(shape(isGap ? GAPS[entry.name] : "nothing"));
    if (entry.name === "not listening") entry.button.classList.add("is-lost");
    entry.face = blank;
    entry.title = element("b");
    entry.time = element("small");
    entry.more = element("small");
    entry.button.append(blank, entry.title, entry.time, entry.more);
    entry.item.append(entry.button);
    this.list.prepend(entry.item);
    this.entries.unshift(entry);
    this.#words(entry);
    this.#showButtons();
  }

  async #picture(entry) {
    const { pictures } = entry;
    const bitmaps = await Stage.decode(pictures);
    if (entry.pictures !== pictures) return;
    const canvas = element("canvas");
    canvas.setAttribute("aria-hidden", "true");
    drawGrid(canvas, bitmaps, THUMB);
    entry.face.replaceWith(canvas);
    entry.face = canvas;
  }

  #pictogram(entry) {
    const blank = element("span", "blank is-named");
    blank.append(shape(`alert-${entry.pictogram}`));
    entry.pictures = [];
    entry.drawing = 0;
    entry.face.replaceWith(blank);
    entry.face = blank;
  }

  #words(entry) {
    const spent = (entry.until - entry.at) / 1000;
    if (entry.kind === "gap") {
      set(entry.title, entry.name);
      set(entry.time, clock(entry.at));
      set(entry.more, entry.closed ? `for ${length(spent)}` : "until now");
      return;
    }
    const times = entry.repeats > 1 ? ` ×${entry.repeats}` : "";
    set(entry.title, nameOf(entry) + times);
    set(entry.time, clock(entry.at));
    const sure = isKnown(entry) ? `${howSure(entry.confidence).words}, ` : "";
    set(entry.more, sure + length(spent));
  }

  #walk(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const buttons = [...this.list.querySelectorAll("button")];
    const next = buttons[buttons.indexOf(document.activeElement) + step];
    if (next) {
      event.preventDefault();
      next.focus();
    }
  }

  #showButtons() {
    document.getElementById("empty").hidden = this.entries.length > 0;
    document.getElementById("clear").hidden = this.entries.length === 0;
  }
}

function set(place, words) {
  if (place.textContent !== words) place.textContent = words;
}
