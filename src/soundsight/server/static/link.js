/**
 * The connection to the server: one WebSocket, which is opened again whenever it breaks.
 *
 * It never lags behind: sound that the network does not take is dropped, oldest first, while the
 * position goes on counting, so that the server sees that sound is missing.
 */

import { address } from "./place.js";
import { VERSION } from "./protocol.js";

const FIRST_WAIT_S = 1;
const LONGEST_WAIT_S = 30;
const OPENING_S = 5; // for the connection and its `ready`
const QUEUE_S = 0.5; // sound that waits here at most
const BUFFERED_S = 0.5; // sound that the browser may hold before ours waits
const WAITING_S = 1; // sound that is kept for a server that is not there yet: one window

export class Link {
  /**
   * @param {import("./protocol.js").Protocol} protocol
   * @param {object} options
   * @param {() => object} options.hello fields of the hello, beside those that the link knows
   * @param {(ready: object) => void} options.onReady
   * @param {(facts: object, pictures: Uint8Array[]) => void} options.onWindow
   * @param {(notice: object) => void} options.onNotice
   * @param {() => void} options.onChange the line's state has changed
   * @param {(samples: number) => void} options.onDropped sound was left out
   */
  constructor(protocol, options) {
    this.protocol = protocol;
    this.options = options;
    this.rateHz = 0;
    this.wanted = false;
    this.state = "closed"; // closed, opening, ready
    this.readyAt = 0;
    this.fault = null; // {code, message} of the last close that nobody wanted
    this.retryAt = 0; // performance.now() of the next try; 0 while none is due
    this.tries = 0;
    this.queue = [];
    this.queued = 0;
    this.sequence = 0;
    this.socket = null;
    this.timer = 0;
    addEventListener("online", () => {
      if (this.wanted && this.state === "closed" && this.retryAt) this.#open();
    });
  }

  /**
   * Opens the line and keeps it open.
   * @param {number} rateHz of the sound
   */
  start(rateHz) {
    this.rateHz = rateHz;
    this.wanted = true;
    this.tries = 0;
    this.fault = null;
    this.#leave(1000);
    this.#open();
  }

  /** Closes the line for good. */
  stop() {
    this.wanted = false;
    this.fault = null;
    this.retryAt = 0;
    clearTimeout(this.timer);
    this.#leave(1000);
    this.#become("closed");
  }

  /** Breaks the line off and opens it anew: what is under way has become too old. */
  renew(message) {
    if (this.state !== "ready") return;
    this.#broken({ code: 0, message });
  }

  /** @param {object} values draws, sensitivity */
  settings(values) {
    if (this.state !== "ready" || this.socket.readyState !== WebSocket.OPEN) return;
    this.socket.send(JSON.stringify({ type: "settings", ...values }));
  }

  /**
   * Takes a frame of sound.
   * @param {number} position the stream's sample that it begins with
   * @param {ArrayBuffer} pcm
   */
  push(position, pcm) {
    if (!this.wanted) return;
    this.queue.push({ position, pcm });
    this.queued += pcm.byteLength;
    this.#drain();
    const most = (this.state === "ready" ? QUEUE_S : WAITING_S) * 2 * this.rateHz;
    let dropped = 0;
    while (this.queued > most) {
      const { pcm: oldest } = this.queue.shift();
      this.queued -= oldest.byteLength;
      dropped += oldest.byteLength / 2;
    }
    if (dropped && this.state === "ready") this.options.onDropped(dropped);
  }

  #drain() {
    // A line that is being closed stays "ready" until the browser reports its end.
    if (this.state !== "ready" || this.socket.readyState !== WebSocket.OPEN) return;
    while (this.queue.length && this.socket.bufferedAmount < BUFFERED_S * 2 * this.rateHz) {
      const { position, pcm } = this.queue.shift();
      this.queued -= pcm.byteLength;
      this.socket.send(this.protocol.packSound(this.sequence, position, pcm));
      this.sequence += 1;
    }
  }

  #open() {
    clearTimeout(this.timer);
    this.retryAt = 0;
    this.sequence = 0;
    let socket;
    try {
      const to = address(this.protocol.path);
      to.protocol = to.protocol === "https:" ? "wss:" : "ws:";
      socket = new WebSocket(to, this.protocol.subprotocol);
    } catch (error) {
      this.#broken({ code: 0, message: String(error.message ?? error) });
      return;
    }
    this.socket = socket;
    socket.binaryType = "arraybuffer";
    let said = ""; // the server's message, which comes before its close
    socket.onopen = () => {
      const hello = { type: "hello", version: VERSION, format: "s16le" };
      socket.send(
        JSON.stringify({ ...hello, rate_hz: this.rateHz, ...this.options.hello() }),
      );
    };
    socket.onmessage = ({ data }) => {
      if (this.socket !== socket) return;
      try {
        if (typeof data === "string") said = this.#text(JSON.parse(data)) ?? said;
        else this.#window(data);
      } catch (error) {
        if (!(error instanceof RangeError || error instanceof SyntaxError)) throw error;
        this.#broken({ code: this.protocol.close.malformed, message: error.message });
      }
    };
    socket.onclose = ({ code, reason }) => {
      if (this.socket === socket) this.#broken({ code, message: said || reason });
    };
    this.timer = setTimeout(() => {
      if (this.socket === socket && this.state !== "ready") {
        this.#broken({ code: 0, message: "" });
      }
    }, OPENING_S * 1000);
    this.#become("opening");
  }

  #text(message) {
    if (message.type === "ready") {
      clearTimeout(this.timer);
      this.readyAt = performance.now();
      this.#become("ready");
      this.options.onReady(message);
      this.#drain();
    } else if (message.type === "notice") {
      this.options.onNotice(message);
    } else if (message.type === "error") {
      return message.message;
    }
    return undefined;
  }

  #window(data) {
    const { facts, pictures } = this.protocol.readWindow(data);
    // Only an answer shows that the server does its work: a mere connection does not.
    this.tries = 0;
    this.fault = null;
    this.options.onWindow(facts, pictures);
  }

  #broken(fault) {
    this.#leave(1000);
    clearTimeout(this.timer);
    this.fault = fault;
    const { close } = this.protocol;
    const hopeless = fault.code === close.unauthorised || fault.code === close.version;
    if (this.wanted && !hopeless) {
      const wait = Math.min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** this.tries);
      // Jitter: clients that have lost one server must not come back all at once.
      const waitMs = 1000 * wait * (0.75 + 0.5 * Math.random());
      this.tries += 1;
      this.retryAt = performance.now() + waitMs;
      this.timer = setTimeout(() => this.#open(), waitMs);
    }
    this.#become("closed");
  }

  #leave(code) {
    const { socket } = this;
    this.socket = null;
    if (socket && socket.readyState <= WebSocket.OPEN) socket.close(code);
  }

  #become(state) {
    if (state !== "ready") this.readyAt = 0;
    if (state !== this.state && state !== "ready") {
      this.queue = [];
      this.queued = 0;
    }
    this.state = state;
    this.options.onChange();
  }
}
