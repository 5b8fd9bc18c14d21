/**
 * The source of the sound: a microphone or a tab, through the worklet, as frames with positions.
 *
 * Browsers treat a microphone as a telephone: they remove as echo or noise what this page listens
 * for. They are asked not to, and their settings are read back.
 */

import { address } from "./place.js";

const MAX_RATE_HZ = 192000; // what the server takes
const ZEROS_MS = 3000; // a microphone that sends zeros for so long hears nothing
const CLOCK_GAP_MS = 500; // frames further apart by so much: the audio clock stood still

const PLAIN = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
const IMPROVEMENTS = {
  echoCancellation: "echo cancellation",
  noiseSuppression: "noise suppression",
  autoGainControl: "automatic gain",
};

/** A fault that a person can mend, in words. */
export class CaptureError extends Error {}

export class Capture {
  /**
   * @param {object} options
   * @param {(frame: {position: number, pcm: ArrayBuffer, level: number, at: number}) => void}
   *   options.onFrame a frame of 20 ms; position of its first sample, performance.now() of its arrival
   * @param {() => void} options.onLost the source has ended
   */
  constructor(options) {
    this.options = options;
    this.position = 0; // counts samples; goes on from start to start
    this.rateHz = 0; // of the browser's audio; 0 before the first start
    this.lastAt = 0;
    this.wall = 0; // the last frame's own time, in ms
    this.note = "";
    this.isMicrophone = false;
    this.zeros = null; // since when all samples are exactly 0: {at, wall}
    this.context = null;
    this.stream = null;
    this.track = null;
    this.node = null;
  }

  /**
   * Starts listening.
   * @param {"microphone" | "tab"} source
   * @throws {CaptureError} in words for people
   */
  async start(source) {
    this.stop();
    if (!globalThis.AudioWorkletNode || !globalThis.WebSocket) {
      if (!globalThis.isSecureContext) throw new CaptureError(INSECURE);
      throw new CaptureError("This browser is too old to listen: use a current one.");
    }
    if (!navigator.mediaDevices) throw new CaptureError(INSECURE);
    // Made while the click is fresh: later a browser may refuse to let it run.
    let context = new AudioContext({ latencyHint: "interactive" });
    if (context.sampleRate > MAX_RATE_HZ) {
      context.close();
      context = new AudioContext({ latencyHint: "interactive", sampleRate: 48000 });
    }
    this.context = context;
    try {
      const stream = source === "tab" ? await tabSound() : await microphone();
      if (this.context !== context) {
        for (const track of stream.getTracks()) track.stop();
        throw new CaptureError("Stopped.");
      }
      this.isMicrophone = source === "microphone";
      this.stream = stream;
      this.zeros = null;
      this.lastAt = performance.now(); // from now on frames are due
      [this.track] = stream.getAudioTracks();
      this.note = source === "tab" ? "" : improved(this.track);
      await context.audioWorklet.addModule(address("/static/worklet.js"));
      // Without a click a browser may never answer; the page says then that it sleeps.
      await Promise.race([context.resume(), new Promise((done) => setTimeout(done, 1000))]);
      if (this.context !== context) throw new CaptureError("Stopped.");
      this.#connect();
    } catch (error) {
      if (this.context === context) this.stop();
      throw error instanceof CaptureError ? error : new CaptureError(inWords(error, source));
    }
  }

  #connect() {
    const { context, stream, track } = this;
    const rateHz = Math.round(context.sampleRate);
    this.rateHz = rateHz;
    this.lastAt = performance.now();
    this.wall = 0;
    const node = new AudioWorkletNode(context, "soundsight-frames", {
      numberOfOutputs: 1,
      channelCountMode: "max",
    });
    this.node = node;
    node.port.onmessage = ({ data }) => {
      const at = performance.now();
      this.lastAt = at;
      // While the clock stood still there was sound, too: no window may span that.
      const heldMs = (1000 * data.pcm.byteLength) / 2 / rateHz;
      const lostMs = this.wall ? data.wall - this.wall - heldMs : 0;
      if (lostMs > CLOCK_GAP_MS) this.position += Math.round((lostMs * rateHz) / 1000);
      this.wall = data.wall;
      if (!data.zero) this.zeros = null;
      else this.zeros ??= { at, wall: Date.now() };
      const frame = { position: this.position, pcm: data.pcm, level: data.level, at };
      this.position += data.pcm.byteLength / 2;
      this.options.onFrame(frame);
    };
    context.createMediaStreamSource(stream).connect(node);
    // A node that leads nowhere is not run by every browser; this one gives out silence.
    node.connect(context.destination);
    track.onended = this.options.onLost;
  }

  /** Why no sound comes although it should; empty while it does. */
  fault(now) {
    if (!this.track) return "";
    if (this.track.readyState === "ended") return "ended";
    if (this.track.muted) return "muted";
    if (this.context.state !== "running") return "suspended";
    if (now - this.lastAt > 1000) return "frozen";
    // The pauses of a tab are truly 0; no room is, and no microphone that works.
    const muted = this.isMicrophone && this.zeros && now - this.zeros.at > ZEROS_MS;
    return muted ? "zeros" : "";
  }

  /** Lets a context that the browser has put to sleep go on. */
  wake() {
    const asleep = this.context && !["running", "closed"].includes(this.context.state);
    if (asleep) this.context.resume().catch(() => {});
  }

  stop() {
    if (this.node) {
      this.node.port.onmessage = null;
      this.node.port.postMessage("stop");
      this.node.disconnect();
    }
    if (this.track) this.track.onended = null;
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    this.context?.close().catch(() => {});
    this.context = null;
    this.stream = null;
    this.track = null;
    this.node = null;
  }
}

const INSECURE =
  "The browser gives a page the microphone only over https or on this machine itself. " +
  "On a phone: start the server with --lan and open the https address that it prints.";

async function microphone() {
  const audio = { ...PLAIN, channelCount: { ideal: 1 } };
  return navigator.mediaDevices.getUserMedia({ audio });
}

async function tabSound() {
  if (!navigator.mediaDevices.getDisplayMedia) {
    throw new CaptureError("This browser cannot share the sound of a tab: use the microphone.");
  }
  const audio = { ...PLAIN, suppressLocalAudioPlayback: false };
  // Browsers share sound only beside a picture; the picture is let go at once.
  const stream = await navigator.mediaDevices.getDisplayMedia({ video: true, audio });
  const [track] = stream.getAudioTracks();
  if (!track) {
    for (const other of stream.getTracks()) other.stop();
    throw new CaptureError(
      "No sound was shared: choose a tab and tick “share tab audio”, then start again.",
    );
  }
  for (const other of stream.getVideoTracks()) other.enabled = false;
  return stream;
}

/** What the browser insists on doing to the sound, in words; empty where it does nothing. */
function improved(track) {
  const settings = track.getSettings();
  const kept = Object.keys(IMPROVEMENTS).filter((name) => settings[name] === true);
  if (!kept.length) return "";
  const names = kept.map((name) => IMPROVEMENTS[name]).join(", ");
  return `This browser insists on ${names}, made for speech: other sounds may be missed.`;
}

function inWords(error, source) {
  const what = source === "tab" ? "the sound of a tab" : "the microphone";
  const words = {
    NotAllowedError:
      source === "tab"
        ? "Sharing was not allowed: start again and choose a tab."
        : "The microphone is not allowed: allow it for this page in the browser's address bar, " +
          "then start again.",
    SecurityError: INSECURE,
    NotFoundError: "No microphone was found: plug one in, then start again.",
    NotReadableError:
      "The microphone is in use by another program, or switched off: free it, then start again.",
    OverconstrainedError: "The microphone does not do what is asked of it: try another one.",
    AbortError: `The browser could not open ${what}: start again.`,
  };
  return words[error.name] ?? `The browser could not open ${what}: ${error.message || error.name}.`;
}
