/** The file page: files are sent, shown event by event, played in time, and saved. */

import { Board, clock } from "./board.js";
import { RequestError, ask } from "./file-request.js";
import { remember } from "./token.js";

const SAVES = [
  ["png", "Sheet (PNG)"],
  ["mp4", "Film (MP4)"],
  ["html", "Page that plays (HTML)"],
  ["json", "Data (JSON)"],
];
const UNPLAYABLE = "This browser cannot play the file; the storyboard works all the same.";
const VIDEO_SUFFIX = /\.(mp4|m4v|mkv|mov|webm)$/i;

const find = (id) => document.getElementById(id);
const jobs = [];
let working = false;

function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

function button(text, action) {
  const made = element("button", "", text);
  made.type = "button";
  made.addEventListener("click", action);
  return made;
}

/** For screen readers: milestones only, not every step of a bar. */
function say(text) {
  find("said").textContent = text;
}

function left(seconds) {
  if (!Number.isFinite(seconds)) return "";
  if (seconds >= 90) return `, about ${Math.round(seconds / 60)} min left`;
  return `, about ${Math.max(1, Math.round(seconds))} s left`;
}

/** One file: its section on the page and what is done with it. */
class Job {
  constructor(file, query) {
    this.file = file;
    this.query = query;
    this.waiting = true;
    this.gone = null; // ends what is under way
    this.board = null;
    this.address = "";
    this.root = element("section", "file-job");
    this.root.setAttribute("aria-label", file.name);
    const top = element("div", "file-top");
    const words = element("div");
    words.append(element("h2", "", file.name));
    this.state = element("p", "file-state", "waits for its turn");
    words.append(this.state);
    this.stop = button("Cancel", () => this.cancel());
    top.append(words, this.stop);
    this.bar = element("progress");
    this.bar.setAttribute("aria-label", `Progress of ${file.name}`);
    this.bar.value = 0;
    this.place = element("div");
    this.saves = element("div", "file-saves");
    this.saves.hidden = true;
    this.root.append(top, this.bar, this.place, this.saves);
    this.#buildSaves();
    find("jobs").prepend(this.root);
  }

  async run() {
    this.waiting = false;
    this.gone = new AbortController();
    this.#setState("sending");
    this.bar.hidden = false;
    let began = 0;
    try {
      await ask(
        this.file,
        { ...this.query, format: "ndjson" },
        {
          signal: this.gone.signal,
          onSent: (share) => {
            this.bar.value = share;
            this.#setState(share < 1 ? `sending: ${Math.floor(share * 100)} %` : "sent, waits");
            if (share === 1) this.bar.removeAttribute("value");
          },
          onLine: (line) => {
            if (line.type === "begin") {
              began = performance.now();
              this.#open(line);
            } else if (line.type === "progress") {
              this.#progress(line, (performance.now() - began) / 1000);
            } else if (line.type === "event") {
              this.board.add(line);
            } else if (line.type === "overview") {
              this.board.setOverview(line);
            } else if (line.type === "done") {
              this.#done(line);
            }
          },
        },
      );
    } catch (error) {
      this.#failed(error);
    } finally {
      this.gone = null;
      this.bar.hidden = true;
      if (this.root.isConnected && !this.waiting) this.stop.textContent = "Remove";
    }
  }

  cancel() {
    if (this.gone) {
      this.gone.abort();
      return;
    }
    this.waiting = false;
    this.board?.close();
    if (this.address) URL.revokeObjectURL(this.address);
    this.root.remove();
    jobs.splice(jobs.indexOf(this), 1);
    say(`${this.file.name} removed`);
    find("files").focus();
  }

  pause() {
    this.board?.player.pause();
  }

  #setState(text, isFault = false) {
    this.state.textContent = text;
    this.state.classList.toggle("is-fault", isFault);
  }

  #open(begin) {
    const isVideo = this.file.type.startsWith("video/") || VIDEO_SUFFIX.test(this.file.name);
    const media = document.createElement(isVideo ? "video" : "audio");
    media.preload = "metadata";
    media.playsInline = true;
    this.address = URL.createObjectURL(this.file);
    media.src = this.address;
    this.board?.close();
    this.board = new Board(this.place, { media });
    this.board.begin(begin.duration_s);
    const video = element("figure", "file-video");
    if (isVideo) {
      video.append(media, element("figcaption", "", "the video itself"));
      this.place.querySelector(".board-words").append(video);
    }
    media.addEventListener("error", () => {
      video.remove();
      this.board?.silence(UNPLAYABLE);
    });
    media.addEventListener("play", () => {
      for (const other of jobs) if (other !== this) other.pause();
    });
    this.#setState("listening");
    say(`${this.file.name}: listening`);
  }

  #progress({ done_s: done, total_s: total }, spentS) {
    this.board.progress(done, total);
    if (total) {
      this.bar.value = done / total;
      const rest = spentS > 1 && done > 0 ? ((total - done) / done) * spentS : NaN;
      this.#setState(`listening: ${clock(done, false)} of ${clock(total, false)}${left(rest)}`);
    } else {
      this.bar.removeAttribute("value");
      this.#setState(`listening: ${clock(done, false)}`);
    }
  }

  #done({ words, warnings }) {
    this.#setState([`${clock(this.board.player.durationS)}, ${words}`, ...warnings].join(". "));
    say(`${this.file.name} is done: ${words}`);
    this.saves.hidden = false;
  }

  #failed(error) {
    if (error.name === "AbortError") {
      this.#setState("cancelled");
      say(`${this.file.name}: cancelled`);
      return;
    }
    if (error instanceof RequestError && error.code === "token") {
      this.waiting = true;
      this.#setState("waits for the token");
      say(error.message);
      find("token-words").textContent = error.message;
      find("token-form").hidden = false;
      find("token").focus();
      return;
    }
    const message = error instanceof RequestError ? error.message : `The page has failed: ${error}`;
    this.#setState(message, true);
    say(`${this.file.name}: ${message}`);
  }

  // --- files to keep ------------------------------------------------------------------------

  #buildSaves() {
    this.buttons = SAVES.map(([format, words]) => button(words, () => this.#save(format)));
    this.saving = element("p", "", "To keep. The file is sent once more.");
    this.saves.append(this.saving, ...this.buttons);
  }

  async #save(format) {
    this.gone = new AbortController();
    for (const each of this.buttons) each.disabled = true;
    this.stop.textContent = "Cancel";
    this.bar.hidden = false;
    this.bar.value = 0;
    const began = performance.now();
    let sent = false;
    const wait = setInterval(() => {
      const spent = Math.round((performance.now() - began) / 1000);
      if (sent) this.saving.textContent = `making the ${format.toUpperCase()}: ${spent} s so far`;
    }, 1000);
    try {
      const made = await ask(
        this.file,
        { ...this.query, format },
        {
          signal: this.gone.signal,
          onSent: (share) => {
            sent = share === 1;
            this.bar.value = share;
            if (sent) this.bar.removeAttribute("value");
            const percent = `${Math.floor(share * 100)} %`;
            this.saving.textContent = sent ? `making the ${format.toUpperCase()}` : `sending: ${percent}`;
          },
        },
      );
      const link = element("a");
      link.href = URL.createObjectURL(made);
      link.download = `${this.file.name.replace(/\.[^.]*$/, "")}-storyboard.${format}`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
      this.saving.textContent = `${link.download} is saved.`;
    } catch (error) {
      const cancelled = error.name === "AbortError";
      this.saving.textContent = cancelled ? "cancelled" : error.message;
    } finally {
      clearInterval(wait);
      this.gone = null;
      this.bar.hidden = true;
      this.stop.textContent = "Remove";
      for (const each of this.buttons) each.disabled = false;
      say(this.saving.textContent);
    }
  }
}

/** Works on the files one after the other. */
async function work() {
  if (working) return;
  working = true;
  try {
    for (let job; (job = jobs.find((each) => each.waiting)); ) {
      await job.run();
      if (job.waiting) break; // until the token is there
    }
  } finally {
    working = false;
  }
}

function take(files) {
  const query = { sensitivity: find("sensitivity").value, seed: find("seed").value || "0" };
  for (const file of files) jobs.push(new Job(file, query));
  if (files.length) work();
}

const input = find("files");
input.addEventListener("change", () => {
  take([...input.files]);
  input.value = ""; // the same file may be chosen again
});

const drop = find("drop");
// A file that misses the field would replace the page.
addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("is-over");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) drop.classList.remove("is-over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("is-over");
  take([...(event.dataTransfer?.files ?? [])]);
});

find("sensitivity").addEventListener("input", (event) => {
  const value = Number(event.target.value);
  const words = value === 0.5 ? "middle" : value < 0.5 ? "less is shown" : "more is shown";
  find("sensitivity-words").textContent = words;
});

find("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  remember(find("token").value);
  find("token").value = "";
  find("token-form").hidden = true;
  work();
});
