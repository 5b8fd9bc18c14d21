/**
 * The storyboard: the present picture, a time line, the events; in time with the sound.
 *
 * The file page of the server and the saved page share it. Whatever comes from a file is set as
 * text, never as markup.
 */

const SPANS_PX = 24;
const CLOCK_PX = 22;
const GAP_PX = 2;
const WAVE_SHARE = 0.42;
const LABEL_PX = 84;
const STEPS_S = [
  0.25, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400,
];
const SURENESS = ["perhaps", "probably", "quite sure"]; // dots say the same as the words
const NOTHING = "nothing recognisable";

/** Writes a time as people read it; cut off, not rounded. */
export function clock(seconds, tenths = true) {
  const count = Math.floor(Math.max(0, seconds) * 10 + 1e-6);
  const whole = Math.floor(count / 10);
  const pad = (value) => String(value).padStart(2, "0");
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor(whole / 60) % 60;
  const head = hours ? `${hours}:${pad(minutes)}` : `${minutes}`;
  return `${head}:${pad(whole % 60)}${tenths ? `.${count % 10}` : ""}`;
}

/** The time, kept by a media element that can play, or by nothing but itself. */
class Player {
  constructor(media, changed) {
    this.media = media;
    this.changed = changed;
    this.durationS = 0;
    this.at = 0; // where the silent clock stood at `since`
    this.since = 0;
    this.running = false;
    this.wished = null; // where to begin once the media knows its length
    if (!media) return;
    for (const name of ["play", "pause", "seeked", "ended", "timeupdate", "loadedmetadata"]) {
      media.addEventListener(name, () => {
        if (name === "loadedmetadata" && this.wished !== null) {
          media.currentTime = this.wished;
          this.wished = null;
        }
        this.changed();
      });
    }
  }

  /** Goes on without sound. */
  silence() {
    const now = this.now;
    const playing = this.playing;
    this.media = null;
    this.seek(now);
    if (playing) this.play();
    this.changed();
  }

  get playing() {
    return this.media ? !this.media.paused && !this.media.ended : this.running;
  }

  get now() {
    if (this.media) return this.wished ?? this.media.currentTime;
    if (!this.running) return this.at;
    const now = this.at + (performance.now() - this.since) / 1000;
    if (now < this.durationS) return now;
    this.running = false;
    this.at = this.durationS;
    return this.at;
  }

  play() {
    if (this.durationS && this.now >= this.durationS - 0.05) this.seek(0);
    if (this.media) {
      this.media.play().catch(() => this.changed());
    } else {
      this.since = performance.now();
      this.running = true;
    }
    this.changed();
  }

  pause() {
    if (this.media) {
      this.media.pause();
    } else {
      this.at = this.now;
      this.running = false;
    }
    this.changed();
  }

  seek(seconds) {
    const to = Math.min(Math.max(0, seconds), this.durationS || seconds);
    if (this.media) {
      if (this.media.readyState >= 1) this.media.currentTime = to;
      else this.wished = to;
    } else {
      this.at = to;
      this.since = performance.now();
    }
    this.changed();
  }
}

function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

/** What stands for an event: its picture, or the pictogram of an alert; null for neither. */
function faceOf(event) {
  return event.picture ?? event.pictogram ?? null;
}

export class Board {
  /**
   * @param {HTMLElement} root is filled
   * @param {object} options
   * @param {HTMLMediaElement | null} options.media plays the sound; null for a board without sound
   */
  constructor(root, { media = null } = {}) {
    this.root = root;
    this.events = [];
    this.spans = []; // {began, ended, event}, in order
    this.cards = new Map();
    this.overview = null;
    this.mel = null;
    this.doneS = 0;
    this.shown = undefined; // the event that is shown; null is quiet
    this.ticking = 0;
    this.gone = new AbortController();
    this.player = new Player(media, () => this.#tick());
    this.#build();
    const signal = this.gone.signal;
    this.sized = new ResizeObserver(() => this.#redraw());
    this.sized.observe(this.canvas);
    for (const query of ["(prefers-color-scheme: light)"]) {
      matchMedia(query).addEventListener("change", () => this.#redraw(), { signal });
    }
    this.#tick();
  }

  /** Sets the length, as far as it is known. */
  begin(durationS) {
    this.player.durationS = durationS ?? 0;
    this.#redraw();
  }

  /** How many seconds are told; until the overview comes the time line shows that. */
  progress(doneS, totalS) {
    this.doneS = doneS;
    if (!this.overview) this.player.durationS = Math.max(totalS ?? 0, doneS);
    this.#redraw();
  }

  /** Takes an event, as the server tells it. */
  add(event) {
    this.events.push(event);
    for (const [began, ended] of event.spans) this.spans.push({ began, ended, event });
    const item = element("li");
    item.append(this.#card(event));
    this.list.append(item);
    this.shown = undefined;
    this.#redraw();
  }

  /** Takes the look of the whole sound, as the server tells it. */
  async setOverview(overview) {
    this.overview = overview;
    this.player.durationS = overview.duration_s;
    this.#redraw();
    const mel = new Image();
    mel.src = overview.mel;
    try {
      await mel.decode();
      this.mel = mel;
    } catch {
      this.mel = null; // the waveform and the events are there all the same
    }
    this.#redraw();
  }

  /** Goes on without sound, and says why. */
  silence(why) {
    this.note.textContent = why;
    this.note.hidden = false;
    this.player.silence();
  }

  /** Lets go of everything. */
  close() {
    cancelAnimationFrame(this.ticking);
    this.gone.abort();
    this.sized.disconnect();
    this.player.media?.pause();
    this.root.replaceChildren();
  }

  // --- what is said of a time ---------------------------------------------------------------

  /** What sounds at a time in seconds; null while it is quiet. */
  at(seconds) {
    let low = 0;
    let high = this.spans.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.spans[middle].began <= seconds) low = middle + 1;
      else high = middle;
    }
    const span = this.spans[low - 1];
    return span && seconds < span.ended ? span.event : null;
  }

  #times(event) {
    const tenths = this.player.durationS < 600;
    const short = Math.floor(event.began_s) === Math.floor(event.ended_s);
    return `${clock(event.began_s, tenths || short)} – ${clock(event.ended_s, tenths || short)}`;
  }

  // --- the page's parts ---------------------------------------------------------------------

  #build() {
    this.root.classList.add("board");
    const now = element("div", "board-now");
    this.figure = element("figure", "board-picture");
    this.image = element("img");
    this.caption = element("figcaption", "", "imagined");
    this.calm = element("p", "board-calm");
    this.calm.setAttribute("aria-hidden", "true");
    this.figure.append(this.image, this.caption, this.calm);
    const words = element("div", "board-words");
    this.time = element("p", "board-clock");
    this.title = element("p", "board-title");
    this.sure = element("p", "board-sure");
    this.when = element("p", "board-when");
    this.note = element("p", "board-note");
    this.note.hidden = true;
    words.append(this.time, this.title, this.sure, this.when, this.note);
    now.append(this.figure, words);

    const controls = element("div", "board-controls");
    const button = (text, action, className = "") => {
      const made = element("button", className, text);
      made.type = "button";
      made.addEventListener("click", action);
      controls.append(made);
      return made;
    };
    this.play = button("Play", () => this.toggle(), "board-play");
    button("Previous", () => this.step(-1)).setAttribute("aria-label", "Previous event");
    button("Next", () => this.step(1)).setAttribute("aria-label", "Next event");

    const line = element("div", "board-line");
    this.canvas = element("canvas");
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "slider");
    this.canvas.setAttribute("aria-label", "Position in the sound");
    this.canvas.setAttribute("aria-valuemin", "0");
    this.canvas.addEventListener("keydown", (event) => this.#key(event));
    this.canvas.addEventListener("pointerdown", (event) => this.#drag(event));
    this.canvas.addEventListener("pointermove", (event) => {
      if (this.canvas.hasPointerCapture(event.pointerId)) this.#drag(event);
    });
    line.append(this.canvas);
    this.list = element("ol", "board-events");
    this.list.setAttribute("aria-label", "Events");
    this.told = element("p", "board-hidden");
    this.told.setAttribute("role", "status");
    this.root.replaceChildren(now, controls, line, this.list, this.told);
  }

  #card(event) {
    const card = element("button", "board-card");
    card.type = "button";
    if (faceOf(event)) {
      const image = element("img");
      image.src = faceOf(event);
      image.alt = "";
      image.loading = "lazy";
      card.append(image);
    } else {
      card.append(element("span", "board-none", NOTHING));
    }
    if (event.mel) {
      const heard = element("img", "board-heard");
      heard.src = event.mel;
      heard.alt = "";
      heard.loading = "lazy";
      card.append(heard);
    }
    card.append(element("strong", "", `${event.number} ${event.title}`));
    if (event.sure) card.append(element("span", "board-time", event.sure));
    card.append(element("span", "board-time", this.#times(event)));
    if (event.repeats > 1) card.append(element("span", "board-time", `${event.repeats} times`));
    card.addEventListener("click", () => this.player.seek(event.began_s));
    this.cards.set(event, card);
    return card;
  }

  toggle() {
    if (this.player.playing) this.player.pause();
    else this.player.play();
  }

  /** Goes to the next (1) or the previous (-1) event. */
  step(direction) {
    const now = this.player.now;
    const starts = this.events.map((event) => event.began_s);
    const to =
      direction > 0
        ? starts.find((start) => start > now + 0.01)
        : // The beginning of the present event first, as players do.
          starts.findLast((start) => start < now - 0.5);
    if (to !== undefined) this.player.seek(to);
    else if (direction < 0) this.player.seek(0);
  }

  #key(event) {
    const { now, durationS } = this.player;
    const by = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (by) this.player.seek(now + by * (event.shiftKey ? 10 : 1));
    else if (event.key === "PageUp") this.player.seek(now + durationS / 10);
    else if (event.key === "PageDown") this.player.seek(now - durationS / 10);
    else if (event.key === "Home") this.player.seek(0);
    else if (event.key === "End") this.player.seek(durationS);
    else if (event.key === " ") this.toggle();
    else if (event.key === "n") this.step(1);
    else if (event.key === "p") this.step(-1);
    else return;
    event.preventDefault();
  }

  #drag(event) {
    if (event.button > 0) return;
    if (event.type === "pointerdown") this.canvas.setPointerCapture(event.pointerId);
    const box = this.canvas.getBoundingClientRect();
    this.player.seek(((event.clientX - box.left) / box.width) * this.player.durationS);
  }

  // --- as time goes on ----------------------------------------------------------------------

  #tick() {
    cancelAnimationFrame(this.ticking);
    this.ticking = requestAnimationFrame(() => {
      this.#show();
      if (this.player.playing) this.#tick();
    });
  }

  #redraw() {
    this.still = null;
    this.#tick();
  }

  #show() {
    const { now, playing, durationS } = this.player;
    const length = durationS ? ` of ${clock(durationS)}` : "";
    this.time.replaceChildren(clock(now), element("span", "", length));
    const play = playing ? "Pause" : this.player.media ? "Play" : "Play without sound";
    if (this.play.textContent !== play) this.play.textContent = play;
    const event = this.at(now);
    if (event !== this.shown) this.#change(event);
    this.canvas.setAttribute("aria-valuemax", durationS.toFixed(1));
    this.canvas.setAttribute("aria-valuenow", Math.min(now, durationS).toFixed(1));
    const says = event ? [event.title, event.sure].filter(Boolean).join(", ") : "quiet";
    this.canvas.setAttribute("aria-valuetext", `${clock(now)}, ${says}`);
    this.#draw(now);
  }

  #change(event) {
    this.cards.get(this.shown)?.removeAttribute("aria-current");
    this.shown = event;
    const face = event ? faceOf(event) : null;
    const known = Boolean(face);
    this.image.hidden = !known;
    this.caption.hidden = !known;
    this.calm.hidden = known;
    if (known) {
      const what = event.picture ? "Imagined picture" : "Pictogram";
      this.image.src = face;
      this.image.alt = `${what}: ${[event.title, event.sure].filter(Boolean).join(", ")}`;
      this.caption.textContent = event.picture ? "imagined" : "named, not imagined";
    } else {
      this.image.removeAttribute("src");
      this.image.alt = "";
      // Signs, as on the live page: the words stand beside them.
      this.calm.textContent = event ? "?" : "–";
    }
    // What is not told yet is not quiet.
    const untold = !event && !this.overview && this.player.now >= this.doneS;
    this.title.textContent = event ? event.title : untold ? "" : "quiet";
    this.title.classList.toggle("is-calm", !known);
    this.sure.replaceChildren();
    const dots = SURENESS.indexOf(event?.sure ?? "") + 1;
    if (dots) {
      const marks = element("span", "board-dots", "●".repeat(dots) + "○".repeat(3 - dots));
      marks.setAttribute("aria-hidden", "true");
      this.sure.append(marks, event.sure);
    }
    const times = event && event.repeats > 1 ? `, ${event.repeats} times` : "";
    this.when.textContent = event ? `${this.#times(event)}${times}` : "";
    if (this.player.playing) {
      const says = event ? [event.title, event.sure].filter(Boolean).join(", ") : "quiet";
      this.told.textContent = `${clock(this.player.now, false)}: ${says}`;
    }
    const card = this.cards.get(event);
    if (!card) return;
    card.setAttribute("aria-current", "true");
    // Only the strip moves, never the page.
    const left = card.offsetLeft - this.list.offsetLeft;
    if (left < this.list.scrollLeft) this.list.scrollLeft = left - 8;
    const right = left + card.offsetWidth;
    const edge = this.list.scrollLeft + this.list.clientWidth;
    if (right > edge) this.list.scrollLeft = right - this.list.clientWidth + 8;
  }

  // --- the time line ------------------------------------------------------------------------

  #draw(now) {
    const ratio = globalThis.devicePixelRatio || 1;
    const width = this.canvas.clientWidth;
    const height = this.canvas.clientHeight;
    if (!width || !height) return;
    if (!this.still) {
      this.canvas.width = Math.round(width * ratio);
      this.canvas.height = Math.round(height * ratio);
      this.still = document.createElement("canvas");
      this.still.width = this.canvas.width;
      this.still.height = this.canvas.height;
      const ink = this.still.getContext("2d");
      ink.scale(ratio, ratio);
      this.#drawStill(ink, width, height);
    }
    const ink = this.canvas.getContext("2d");
    ink.setTransform(1, 0, 0, 1, 0, 0);
    ink.clearRect(0, 0, this.canvas.width, this.canvas.height);
    ink.drawImage(this.still, 0, 0);
    ink.scale(ratio, ratio);
    const x = this.player.durationS ? Math.min(1, now / this.player.durationS) * width : 0;
    // A rim, since the log-mel is dark in any theme.
    ink.fillStyle = this.#color("ground");
    ink.fillRect(x - 2, 6, 4, height - CLOCK_PX - 6);
    ink.fillStyle = this.#color("accent");
    ink.fillRect(x - 1, 6, 2, height - CLOCK_PX - 6);
    ink.beginPath();
    ink.moveTo(x - 6, 0);
    ink.lineTo(x + 6, 0);
    ink.lineTo(x, 9);
    ink.fill();
  }

  #color(name) {
    return getComputedStyle(this.root).getPropertyValue(`--board-${name}`).trim();
  }

  #drawStill(ink, width, height) {
    const durationS = this.player.durationS;
    const body = height - SPANS_PX - CLOCK_PX - 2 * GAP_PX;
    const waveTop = SPANS_PX + GAP_PX;
    const waveHeight = Math.round(body * WAVE_SHARE);
    const melTop = waveTop + waveHeight + GAP_PX;
    const melHeight = body - waveHeight;
    ink.fillStyle = this.#color("well");
    ink.fillRect(0, waveTop, width, waveHeight);
    ink.fillRect(0, melTop, width, melHeight);
    if (!durationS) return;
    this.#drawSpans(ink, width);
    if (this.overview) {
      this.#drawWave(ink, width, waveTop, waveHeight);
      if (this.mel) {
        const { step_s: step, duration_s: length } = this.overview;
        const shown = Math.max(1, Math.min(this.mel.width, length / step));
        ink.drawImage(this.mel, 0, 0, shown, this.mel.height, 0, melTop, width, melHeight);
      }
    } else {
      // What has been heard so far.
      ink.globalAlpha = 0.35;
      ink.fillStyle = this.#color("wave");
      ink.fillRect(0, waveTop, (this.doneS / durationS) * width, height - CLOCK_PX - waveTop);
      ink.globalAlpha = 1;
    }
    const step =
      STEPS_S.find((s) => (s / durationS) * width >= LABEL_PX) ?? STEPS_S[STEPS_S.length - 1];
    ink.fillStyle = this.#color("dim");
    ink.font = "13px system-ui, sans-serif";
    for (let at = 0; at * step <= durationS; at++) {
      const x = ((at * step) / durationS) * width;
      if (x > width - 36) break;
      ink.fillRect(x, height - CLOCK_PX, 1, 5);
      ink.fillText(clock(at * step, step < 1), x + 4, height - 5);
    }
  }

  #drawSpans(ink, width) {
    const scale = width / this.player.durationS;
    ink.font = "14px system-ui, sans-serif";
    let free = 0;
    const marked = new Set();
    for (const { began, ended, event } of this.spans) {
      const left = began * scale;
      const size = Math.max(2, (ended - began) * scale - 1);
      ink.beginPath();
      ink.roundRect(left, 0, size, SPANS_PX - 3, 4);
      if (faceOf(event)) {
        ink.fillStyle = this.#color("span");
        ink.fill();
      } else {
        // Told apart by shape: what is not recognised is hollow.
        ink.strokeStyle = this.#color("edge");
        ink.lineWidth = 2;
        ink.stroke();
      }
      const label = String(event.number);
      const room = ink.measureText(label).width + 8;
      if (!marked.has(event) && left >= free && size >= room) {
        ink.fillStyle = this.#color("span-text");
        ink.fillText(label, left + 4, SPANS_PX - 9);
        free = left + room;
      }
      marked.add(event);
    }
  }

  #drawWave(ink, width, top, height) {
    const { waveform, step_s: step, duration_s: length } = this.overview;
    const count = Math.max(1, Math.min(waveform.length, Math.round(length / step)));
    let peak = 1e-3;
    for (const [low, high] of waveform) peak = Math.max(peak, -low, high);
    const middle = top + height / 2;
    const reach = (0.94 * height) / 2 / peak;
    ink.fillStyle = this.#color("wave");
    for (let x = 0; x < width; x++) {
      const first = Math.floor((x * count) / width);
      const last = Math.max(first + 1, Math.ceil(((x + 1) * count) / width));
      let low = Infinity;
      let high = -Infinity;
      for (let i = first; i < Math.min(last, count); i++) {
        low = Math.min(low, waveform[i][0]);
        high = Math.max(high, waveform[i][1]);
      }
      const upper = middle - high * reach - 0.5;
      ink.fillRect(x, upper, 1, middle - low * reach + 0.5 - upper);
    }
  }
}
