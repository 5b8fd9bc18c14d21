/**
 * The live page: capture -> connection -> what is shown. There is one state at any moment, decided
 * in one place (`#decide`) from the sound, the connection and the last answer.
 */

import { Capture } from "./capture.js";
import { quietLevel, SoundMark } from "./level.js";
import { Link } from "./link.js";
import { SoundMemory } from "./memory.js";
import { prefer, preferences } from "./preferences.js";
import { Protocol } from "./protocol.js";
import { find, Stage } from "./stage.js";
import { Strip } from "./strip.js";
import { remember, token } from "./token.js";
import { clock, FAULTS, DETAILS, HEADLINES, howSure, isKnown, length, nameOf } from "./words.js";

const TICK_MS = 200;
const ANSWER_MS = 1500; // no answer for so long: the page is not listening
const FIRST_ANSWER_MS = 2800; // the first window has to fill
const STALE_S = 1.5; // an older answer is not the present
const LATE_MS = 4000; // only old answers for so long: begin anew
const SLEPT_MS = 2500; // no frame for so long: the page or the machine has slept
const STALLED_MS = 800; // a tick so late says nothing of the others
const LOOK_MS = 15000; // a look at the past ends by itself: the present must not be missed
const PAST_MS = 5000; // a picture stays so long after its sound
const YOUNG_MS = 2500; // after so long it is for the server to say whether something sounds
const CHANGE_MS = 1000; // within an event the picture changes this often at most
const OPENING_MS = 2000; // so long a line may take before it is a fault
const MEMORY_S = 300;
const SPOKEN = {
  nothing: "a sound, nothing recognisable",
  quiet: "quiet",
  paused: "paused",
  replay: "seen again",
};
const REPLAY_AROUND_S = 0.4;
const REPLAY_MOST_S = 20;

function notify(kind, facts) {
  const detail = { kind, at: performance.now(), ...facts };
  window.dispatchEvent(new CustomEvent("soundsight", { detail }));
}

class Live {
  constructor(protocol) {
    this.protocol = protocol;
    this.stage = new Stage();
    this.strip = new Strip((entry) => this.replay(entry));
    this.memory = null; // made when the rate is known
    this.mark = new SoundMark(-60);
    this.capture = new Capture({
      onFrame: (frame) => this.#frame(frame),
      onLost: () => this.#decide(),
    });
    this.link = new Link(protocol, {
      hello: () => this.#hello(),
      onReady: (ready) => this.#ready(ready),
      onWindow: (facts, pictures) => this.#window(facts, pictures),
      onNotice: (notice) => this.#notice(notice),
      onChange: () => this.#decide(),
      onDropped: () => {
        // No window spans what was left out: the next one has to fill.
        if (this.answerAt > this.fillsFrom) this.fillsFrom = performance.now();
        this.#notice({ code: "slow" });
      },
    });
    this.running = false; // Start has been pressed
    this.paused = false;
    this.replaying = null;
    this.player = null;
    this.problem = ""; // why it could not start
    this.ticket = 0; // counts starts and stops: one that has been overtaken changes nothing
    this.startedAt = 0;
    this.connection = 0;
    this.arrived = []; // [position after the frame, performance.now()] of the last seconds
    this.answerAt = 0; // of the last answer that was not old
    this.freshAt = 0;
    this.freshWall = 0; // ... by the clock on the wall, which goes on in a machine that sleeps
    this.lateAt = -Infinity;
    this.fillsFrom = 0; // since when the first window fills again
    this.frameWall = 0;
    this.tickAt = performance.now();
    this.stalled = false;
    this.screen = null; // keeps the screen on
    this.present = null; // {state, entry of the strip, heardAt} of the last settled window
    this.shown = { key: "", pictures: null, at: 0 };
    this.markAt = -Infinity;
    this.lineDownAt = 0;
    this.noteUntil = 0;
    this.state = "";
    this.saidKey = "";
    setInterval(() => this.#tick(), TICK_MS);
    this.#decide();
  }

  // --- start, stop, pause ---------------------------------------------------------------------

  async start() {
    this.ticket += 1;
    const { ticket } = this;
    this.problem = "";
    this.running = true;
    this.paused = false;
    this.startedAt = performance.now();
    this.mark.reset();
    this.link.stop();
    this.#fills();
    this.#decide();
    try {
      await this.capture.start(preferences.source);
    } catch (error) {
      if (ticket !== this.ticket) return;
      this.running = false;
      this.link.stop();
      this.problem = error.message;
      this.#decide();
      return;
    }
    if (ticket !== this.ticket) return;
    this.startedAt = performance.now();
    // Sound of another rate does not fit: positions go on, and what was before is not kept.
    const { rateHz } = this.capture;
    if (this.memory?.rateHz !== rateHz) this.memory = new SoundMemory(MEMORY_S, rateHz);
    this.#fills();
    this.keepScreen();
    this.stage.note(this.capture.note);
    this.noteUntil = Infinity;
    this.link.start(rateHz);
    this.#decide();
  }

  stop() {
    this.ticket += 1;
    this.running = false;
    this.screen?.release().catch(() => {});
    this.problem = "";
    this.capture.stop();
    this.link.stop();
    this.strip.endGap();
    this.stage.note("");
    this.stage.level(-Infinity);
    this.present = null;
    this.#decide();
  }

  pause() {
    if (!this.running) return;
    this.paused = !this.paused;
    this.stage.level(-Infinity);
    if (this.paused) this.link.stop();
    else this.#goOn();
    this.#decide();
  }

  #goOn() {
    this.startedAt = performance.now();
    this.mark.reset();
    this.#fills();
    this.link.start(this.capture.rateHz);
  }

  /** Sound goes to the server again: nothing is known until its first window is full. */
  #fills() {
    this.answerAt = 0;
    this.fillsFrom = performance.now();
    this.freshWall = Date.now();
    this.present = null;
  }

  /** A screen that goes dark takes the page with it. */
  async keepScreen() {
    if (!this.running || this.screen || document.hidden) return;
    try {
      const lock = await navigator.wakeLock?.request("screen");
      if (!lock) return;
      this.screen = lock;
      lock.addEventListener("release", () => {
        this.screen = null;
      });
    } catch {
      // A battery that is nearly empty: the screen keeps its own time.
    }
  }

  /** The source has come back, or another has been plugged in. */
  again() {
    const lost = this.running && this.capture.fault(performance.now()) === "ended";
    const absent = !this.running && this.problem.startsWith("No microphone");
    if ((lost || absent) && preferences.source === "microphone") this.start();
  }

  // --- sound ----------------------------------------------------------------------------------

  #frame(frame) {
    const end = frame.position + frame.pcm.byteLength / 2;
    this.arrived.push([end, frame.at]);
    if (this.arrived.length > 250) this.arrived.splice(0, 50);
    const wall = Date.now();
    if (wall - this.frameWall > SLEPT_MS && this.frameWall > this.freshWall && !this.paused) {
      // What is on the page is from before the sleep.
      this.strip.gap("not listening", new Date(this.frameWall));
      this.#fills();
    }
    this.frameWall = wall;
    if (this.paused || this.replaying?.sounding) return;
    this.memory?.push(frame.position, frame.pcm);
    this.stage.level(frame.level);
    if (this.mark.push(frame.level, (1000 * frame.position) / this.capture.rateHz)) {
      this.stage.mark(this.mark.on);
      if (this.mark.on) this.markAt = frame.at;
      notify("sound", { on: this.mark.on, received: frame.at });
      this.#decide();
    }
    this.link.push(frame.position, frame.pcm);
    if (this.state === "not_listening") this.#decide(); // the first sound that comes ends it
  }

  /** performance.now() at which the sample before a position had come. */
  #when(position) {
    const frame = this.arrived.find(([end]) => end >= position);
    return frame ? frame[1] : performance.now();
  }

  #hello() {
    const { draws, sensitivity } = preferences;
    this.helloSensitivity = sensitivity;
    const fields = { draws, sensitivity, client: "page" };
    return token() ? { ...fields, token: token() } : fields;
  }

  #ready(ready) {
    this.noteUntil = 0; // what was said of the line before is over
    this.connection += 1;
    this.quietDbfs = ready.model.quiet_dbfs;
    this.present = null;
    this.answerAt = 0;
    this.freshAt = performance.now();
    this.lineDownAt = 0;
    find("token-form").hidden = true;
    this.#threshold();
    notify("ready", {});
  }

  #threshold() {
    if (this.quietDbfs === undefined) return;
    const { sensitivity } = preferences;
    this.mark.thresholdDbfs = quietLevel(this.quietDbfs, this.helloSensitivity, sensitivity);
  }

  // --- answers --------------------------------------------------------------------------------

  #window(facts, pictures) {
    const now = performance.now();
    const { rateHz } = this.capture;
    const end = Math.round(facts.end_s * rateHz);
    if ((this.capture.position - end) / rateHz > STALE_S) {
      this.lateAt = now;
      if (now - this.freshAt > LATE_MS) this.link.renew(FAULTS.late);
      return;
    }
    this.answerAt = now;
    this.freshAt = now;
    this.freshWall = Date.now();
    if (!facts.settled || this.paused || this.replaying?.sounding) {
      this.#decide();
      return;
    }
    const pictured = facts.state === "picture" && pictures.length > 0;
    const named = facts.state === "named";
    const state = facts.state === "quiet" ? "quiet" : pictured || named ? "known" : "nothing";
    if (facts.event) {
      const key = `${this.connection}.${facts.event.number}`;
      const entry = this.strip.event(key, {
        from: Math.round(facts.event.began_s * rateHz),
        to: end,
        at: this.#date(Math.round(facts.event.began_s * rateHz)),
        until: this.#date(end),
        repeats: facts.event.repeats,
        pictured,
        named,
        name: facts.name,
        secondGuess: facts.second_guess,
        pictogram: facts.pictogram,
        confidence: facts.confidence ?? 0,
        drawing: facts.drawing,
        pictures,
      });
      // What the program no longer stands by does not come back as the past.
      this.present = { state, entry, heardAt: state === "known" ? now : -Infinity };
      if (entry.pictured && state === "known") this.#show(entry, end, now);
    } else if (state === "quiet") {
      const { entry, heardAt } = this.present ?? {};
      this.present = { state: "quiet", entry: this.strip.quiet(entry), heardAt: heardAt ?? -Infinity };
    }
    this.#decide();
  }

  async #show(entry, end, now) {
    const { key, pictures } = entry;
    const isNew = key !== this.shown.key;
    if (!isNew && (pictures === this.shown.pictures || now - this.shown.at < CHANGE_MS)) return;
    this.shown = { key, pictures, at: now };
    if (this.replaying) return;
    if (await this.stage.show(pictures)) {
      notify("picture", {
        event: key,
        isNew,
        position: end,
        received: this.#when(end),
        answered: now,
        painted: performance.now(),
      });
    }
  }

  /** The clock time of a position, by the newest frame's. */
  #date(position) {
    const [end, at] = this.arrived[this.arrived.length - 1] ?? [position, performance.now()];
    const ago = performance.now() - at + (1000 * (end - position)) / this.capture.rateHz;
    return new Date(Date.now() - ago);
  }

  #notice({ code, message }) {
    const words = {
      slow: "The network is slow: some sound was left out.",
      load: "The server has much to do: some moments are left out.",
      gap: "",
      going_away: "The server stops.",
    };
    const said = words[code] ?? message;
    if (!said) return;
    this.stage.note(said);
    this.noteUntil = performance.now() + 6000;
  }

  // --- the present state ----------------------------------------------------------------------

  #tick() {
    this.strip.forget();
    if (performance.now() > this.noteUntil) {
      this.noteUntil = Infinity;
      this.stage.note(this.running ? this.capture.note : "");
    }
    const now = performance.now();
    // A page that was busy has frames and answers waiting, which come after this tick.
    this.stalled = now - this.tickAt > STALLED_MS && !this.stalled && !document.hidden;
    this.tickAt = now;
    if (this.stalled) return;
    if (this.#callsBack(now)) this.live();
    else this.#decide();
  }

  /** Whether a look at the past has to end. */
  #callsBack(now) {
    const { replaying } = this;
    if (!replaying || replaying.sounding || !this.running || this.paused) return false;
    if (now - replaying.endedAt > LOOK_MS) return true;
    return !replaying.lost && this.#whyNotListening(now) !== "";
  }

  /** Why the page does not listen, in words; empty while it does. */
  #whyNotListening(now) {
    const lost = this.capture.fault(now);
    if (lost === "ended" && preferences.source === "tab") return FAULTS.tab;
    if (lost) return FAULTS[lost];
    const { link } = this;
    if (link.state !== "ready") {
      const { close } = this.protocol;
      if (link.fault?.code === close.unauthorised) return FAULTS.token;
      if (link.fault?.code === close.version) return FAULTS.version;
      if (!this.lineDownAt) this.lineDownAt = now;
      // A line that is only being opened for the first time is no fault yet.
      const first = !link.fault && now - this.startedAt < OPENING_MS;
      if (first) return "";
      const wait = link.retryAt ? Math.max(0, Math.ceil((link.retryAt - now) / 1000)) : 0;
      let why = FAULTS.gone;
      if (link.fault?.code === close.try_later) why = FAULTS.full;
      else if (link.fault?.code === close.malformed) why = FAULTS.malformed;
      else if (link.fault?.message && link.fault.code !== close.going_away) why = said(link.fault);
      return `${why} ${wait ? `Trying again in ${wait} s.` : "Trying again now."}`;
    }
    this.lineDownAt = 0;
    const patience = this.answerAt ? ANSWER_MS : FIRST_ANSWER_MS;
    if (now - Math.max(this.answerAt, link.readyAt, this.fillsFrom) <= patience) return "";
    return now - this.lateAt < ANSWER_MS ? FAULTS.late : FAULTS.silent;
  }

  #decide() {
    const now = performance.now();
    const facts = this.#facts(now);
    const { state } = facts;
    const heard = ["quiet", "sound", "picture", "named", "past", "nothing"].includes(state);
    // A gap ends when something is heard again, not when one begins to try.
    if (heard) this.strip.endGap();
    if (state === "start" && this.strip.entries.length) this.strip.gap("stopped");
    if (state === "not_listening") {
      const { zeros } = this.capture;
      const muted = this.running && this.capture.fault(now) === "zeros";
      const since = muted ? zeros.wall : this.running ? this.freshWall : Date.now();
      this.strip.gap("not listening", new Date(since));
    }
    if (state === "paused" && this.running) this.strip.gap("paused");
    const bare = ["not_listening", "quiet", "nothing", "named", "start", "starting"].includes(state);
    if (bare && state !== this.state) {
      this.stage.clear();
      this.shown = { key: "", pictures: null, at: 0 };
    }
    const looking = state === "replay" && this.running && !this.paused && !this.replaying.sounding;
    this.stage.mark((heard || looking) && this.mark.on);
    this.stage.say(state, facts);
    this.#buttons();
    this.#announce(state, facts);
    if (state !== this.state) {
      const was = this.state;
      this.state = state;
      notify("state", { state, was });
      if ((state === "not_listening") !== (was === "not_listening")) {
        notify("listening", { listening: state !== "not_listening", reason: facts.detail });
      }
    }
  }

  #facts(now) {
    if (this.replaying) {
      const { entry, sounding, kept } = this.replaying;
      const sound = kept ? "" : " Its sound is no longer kept.";
      const detail = sounding
        ? "Its sound is played; the page does not listen meanwhile."
        : `This is the past.${sound} Now: ${this.#briefly(now)}.`;
      const when = `${clock(entry.at)}, ${length((entry.until - entry.at) / 1000)}`;
      return { state: "replay", entry, detail, when };
    }
    if (!this.running) {
      if (this.problem) return { state: "not_listening", detail: this.problem };
      return { state: "start" };
    }
    if (this.paused) return { state: "paused" };
    if (!this.capture.track) return { state: "starting" };
    const lost = this.#whyNotListening(now);
    if (lost) return { state: "not_listening", detail: lost };
    const young = this.mark.on && now - this.markAt < YOUNG_MS;
    if (this.link.state !== "ready") return { state: "starting" };
    if (!this.present && !young && !this.answerAt) {
      return { state: "starting", detail: DETAILS.filling };
    }
    const { state, entry, heardAt } = this.present ?? { state: "quiet" };
    if (state === "known") {
      // What is shown is of the event's surest moment, which may have been named.
      const shown = entry.named ? "named" : "picture";
      return { state: shown, entry, detail: "", when: `since ${clock(entry.at)}${times(entry)}` };
    }
    if (state === "nothing") return { state, when: `since ${clock(entry.at)}` };
    const ago = (now - (heardAt ?? -Infinity)) / 1000;
    if (entry && isKnown(entry) && 1000 * ago < PAST_MS) {
      const when = `heard ${Math.max(1, Math.round(ago))} s ago${times(entry)}`;
      return { state: "past", entry, detail: young ? DETAILS.sound : "", when };
    }
    return young ? { state: "sound" } : { state: "quiet" };
  }

  /** The present in a few words, shown beside an entry of the past. */
  #briefly(now) {
    if (!this.running) return this.problem ? HEADLINES.not_listening : "stopped";
    if (this.paused) return SPOKEN.paused;
    if (!this.capture.track || this.#whyNotListening(now)) return HEADLINES.not_listening;
    if (!this.present) return this.mark.on ? "something sounds" : "listening";
    const { state, entry } = this.present;
    return state === "known" ? nameOf(entry) : SPOKEN[state];
  }

  #announce(state, facts) {
    const { entry } = facts;
    // Passing states are seen, not said: a person who listens to a reader cannot skip them.
    if (["sound", "past", "starting", "start"].includes(state)) return;
    // A count of seconds is no news.
    const event = entry ? `${entry.key} ${nameOf(entry)}` : "";
    const about = state === "not_listening" ? facts.detail.replace(/\d+/g, "") : event;
    const key = `${state} ${about}`;
    if (key === this.saidKey) return;
    this.saidKey = key;
    const at = clock(new Date());
    if (state === "not_listening") {
      this.stage.announce(`${at}: not listening. ${facts.detail}`, true);
    } else if (state === "picture") {
      const { words } = howSure(entry.confidence);
      this.stage.announce(`${clock(entry.at)}: ${words} ${nameOf(entry)}, imagined`);
    } else if (state === "named") {
      const { words } = howSure(entry.confidence);
      this.stage.announce(`${clock(entry.at)}: ${words} ${nameOf(entry)}`);
    } else {
      this.stage.announce(`${at}: ${SPOKEN[state]}`);
    }
  }

  #buttons() {
    const start = find("start");
    start.textContent = this.running ? "Stop" : "Start";
    start.classList.toggle("primary", !this.running);
    const pause = find("pause");
    pause.hidden = !this.running;
    pause.textContent = this.paused ? "Go on" : "Pause";
    find("back").hidden = !this.replaying;
    const { unauthorised } = this.protocol.close;
    const form = find("token-form");
    const wanted = this.running && this.link.fault?.code === unauthorised;
    if (wanted && form.hidden) find("token").focus();
    form.hidden = !wanted;
  }

  // --- the past -------------------------------------------------------------------------------

  async replay(entry) {
    this.#silence();
    const lost = this.state === "not_listening" || Boolean(this.replaying?.lost);
    const { memory } = this;
    const { rateHz } = memory;
    const around = Math.round(REPLAY_AROUND_S * rateHz);
    const from = Math.max(memory.start, entry.from - around);
    const to = Math.min(memory.end, from + REPLAY_MOST_S * rateHz, entry.to + around);
    const kept = entry.from >= memory.start && memory.has(from, to) && to > from;
    const playing = this.replaying?.sounding ? this.replaying.began : null;
    if (!kept) this.#unheard();
    const began = this.running && kept ? (playing ?? new Date()) : null;
    this.replaying = { entry, kept, lost, began, sounding: kept, endedAt: performance.now() };
    this.strip.choose(entry);
    if (entry.pictured) this.stage.show(entry.pictures);
    else this.stage.clear();
    if (kept) {
      const context = new AudioContext();
      const buffer = context.createBuffer(1, to - from, rateHz);
      buffer.copyToChannel(memory.cut(from, to), 0);
      const player = context.createBufferSource();
      player.buffer = buffer;
      player.connect(context.destination);
      player.onended = () => this.#played();
      this.player = { context, player };
      player.start();
    }
    this.#decide();
  }

  #played() {
    this.#silence();
    this.#unheard();
    if (this.replaying) {
      this.replaying.sounding = false;
      this.replaying.endedAt = performance.now();
    }
    this.#fills();
    this.#decide();
  }

  #silence() {
    if (!this.player) return;
    this.player.player.onended = null;
    try {
      this.player.player.stop();
    } catch {
      // It has ended by itself.
    }
    this.player.context.close().catch(() => {});
    this.player = null;
  }

  /** While a sound is played the page does not listen. The gap is added when the sound is over:
   * nothing may move under a pointer that has just chosen. */
  #unheard() {
    const { began, sounding } = this.replaying ?? {};
    if (!began || !sounding) return;
    this.strip.gap("replaying", began);
    this.strip.endGap();
  }

  live() {
    if (!this.replaying) return;
    this.#silence();
    this.#unheard();
    if (this.replaying.sounding) this.#fills();
    this.replaying = null;
    this.shown = { key: "", pictures: null, at: 0 };
    this.strip.choose(null);
    this.stage.clear();
    this.#decide();
  }

  clear() {
    this.live();
    this.strip.clear();
    this.memory?.clear();
    this.present = null;
    this.#decide();
  }

  // --- settings -------------------------------------------------------------------------------

  prefer(name, value) {
    prefer(name, value);
    if (name === "sensitivity" || name === "draws") {
      this.link.settings({ [name]: value });
      this.#threshold();
    }
    if (name === "source" && this.running) this.start();
    showPreferences();
  }
}

/** What the server said when it closed the line. */
function said({ code, message }) {
  return code === 0 ? message : `The server has closed the line: ${message}.`;
}

function times(entry) {
  return entry.repeats > 1 ? `, ${entry.repeats} times` : "";
}

function sensitivityWords(value) {
  if (value < 0.25) return "low: only what is loud and sure";
  if (value < 0.45) return "lower";
  if (value <= 0.55) return "middle";
  return value <= 0.75 ? "higher" : "high: shows more, errs more";
}

function showPreferences() {
  find("source").value = preferences.source;
  find("sensitivity").value = String(preferences.sensitivity);
  find("sensitivity-words").textContent = sensitivityWords(preferences.sensitivity);
  find("draws").value = String(preferences.draws);
  find("size").value = preferences.size;
  find("keys-on").checked = preferences.keys;
  document.documentElement.dataset.size = preferences.size;
}

function fullScreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else find("stage").requestFullscreen?.().catch(() => {});
}

function wire(live) {
  const toggle = () => (live.running ? live.stop() : live.start());
  find("start").addEventListener("click", toggle);
  find("pause").addEventListener("click", () => live.pause());
  find("back").addEventListener("click", () => live.live());
  find("clear").addEventListener("click", () => live.clear());
  find("full").addEventListener("click", fullScreen);
  find("leave").addEventListener("click", fullScreen);
  find("help").addEventListener("click", () => find("keys").showModal());
  find("source").addEventListener("change", ({ target }) => live.prefer("source", target.value));
  find("draws").addEventListener("change", ({ target }) => {
    live.prefer("draws", Number(target.value));
  });
  find("size").addEventListener("change", ({ target }) => live.prefer("size", target.value));
  find("sensitivity").addEventListener("input", ({ target }) => {
    live.prefer("sensitivity", Number(target.value));
  });
  find("keys-on").addEventListener("change", ({ target }) => live.prefer("keys", target.checked));
  find("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    remember(find("token").value);
    find("token").value = "";
    live.link.stop();
    live.link.start(live.capture.rateHz);
  });
  const sizes = ["small", "medium", "large"];
  const step = (by) => {
    const tenths = Math.round(10 * (preferences.sensitivity + by));
    return Math.min(10, Math.max(0, tenths)) / 10;
  };
  const keys = {
    s: toggle,
    " ": () => live.pause(),
    "+": () => live.prefer("sensitivity", step(0.1)),
    "-": () => live.prefer("sensitivity", step(-0.1)),
    p: () => live.prefer("size", sizes[(sizes.indexOf(preferences.size) + 1) % sizes.length]),
    f: fullScreen,
    h: () => live.strip.focus(),
    "?": () => find("keys").showModal(),
  };
  for (const draws of [1, 2, 3, 4]) keys[String(draws)] = () => live.prefer("draws", draws);
  document.addEventListener("keydown", (event) => {
    live.capture.wake();
    if (event.ctrlKey || event.altKey || event.metaKey || find("keys").open) return;
    // A key that is held down must not start and stop ten times.
    if (event.repeat && !"+-".includes(event.key)) return;
    if (event.key === "Escape") {
      live.live();
      return;
    }
    // The help that has just been closed keeps the focus until the page is drawn anew.
    const gone = find("keys").contains(event.target);
    const busy = !gone && event.target.closest("input, select, textarea");
    const pressed = !gone && event.target.closest("button, a") && event.key === " ";
    const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!preferences.keys || busy || pressed || !action) return;
    event.preventDefault();
    action();
  });
  document.addEventListener("pointerdown", () => live.capture.wake());
  document.addEventListener("visibilitychange", () => {
    live.capture.wake();
    live.keepScreen();
  });
  document.addEventListener("resume", () => live.capture.wake());
  navigator.mediaDevices?.addEventListener?.("devicechange", () => live.again());
  window.addEventListener("pagehide", () => live.link.stop());
  window.addEventListener("pageshow", ({ persisted }) => {
    if (persisted && live.running && !live.paused) live.start();
  });
  find("start").disabled = false;
}

showPreferences();
try {
  wire(new Live(await Protocol.load()));
} catch (error) {
  document.documentElement.dataset.state = "not_listening";
  find("headline").textContent = "NOT LISTENING";
  find("detail").textContent = `The page could not be loaded whole: load it again. (${error.message})`;
}
