/**
 * The microphone's end, on the browser's audio thread: all channels -> mono -> 44,100 Hz -> frames
 * of 20 ms, 16-bit, each with its level. Nothing is kept here.
 */

import { Resampler } from "./resampler.js";

const RATE_HZ = 44100;
const FRAME = 882; // 20 ms

class Frames extends AudioWorkletProcessor {
  constructor() {
    super();
    this.resampler = new Resampler(Math.round(sampleRate), RATE_HZ);
    this.mono = new Float32Array(128);
    this.frame = new Int16Array(FRAME);
    this.filled = 0;
    this.power = 0;
    this.stopped = false;
    this.port.onmessage = () => {
      this.stopped = true;
    };
  }

  process(inputs) {
    if (this.stopped) return false;
    const channels = inputs[0];
    // Without a connected source there are no channels: that is silence, and time goes on.
    const length = channels.length ? channels[0].length : 128;
    if (this.mono.length !== length) this.mono = new Float32Array(length);
    this.mono.fill(0);
    for (const channel of channels) {
      for (let i = 0; i < length; i += 1) this.mono[i] += channel[i] / channels.length;
    }
    for (const sample of this.resampler.push(this.mono)) this.take(sample);
    return true;
  }

  take(sample) {
    const clipped = sample > 1 ? 1 : sample < -1 ? -1 : sample || 0; // NaN is silence
    this.power += clipped * clipped;
    this.frame[this.filled] = Math.max(-32768, Math.min(32767, Math.round(clipped * 32768)));
    this.filled += 1;
    if (this.filled < FRAME) return;
    const pcm = this.frame.buffer;
    const level = 10 * Math.log10(this.power / FRAME + 1e-12);
    const zero = this.power === 0;
    this.port.postMessage({ pcm, level, zero, wall: Date.now() }, [pcm]);
    this.frame = new Int16Array(FRAME);
    this.filled = 0;
    this.power = 0;
  }
}

registerProcessor("soundsight-frames", Frames);
