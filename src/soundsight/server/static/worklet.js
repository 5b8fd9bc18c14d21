/**
 * The microphone's end, on the browser's audio thread: all channels -> mono -> frames of 20 ms at
 * the browser's own rate, 16-bit, each with its level. The server resamples. Nothing is kept here.
 */

const FRAME = Math.round(sampleRate / 50); // 20 ms

class Frames extends AudioWorkletProcessor {
  constructor() {
    super();
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
    for (let i = 0; i < length; i += 1) {
      let sample = 0;
      for (const channel of channels) sample += channel[i] / channels.length;
      this.take(sample);
    }
    return true;
  }

  take(sample) {
    const clipped = sample > 1 ? 1 : sample < -1 ? -1 : sample || 0; // NaN is silence
    this.power += clipped * clipped;
    this.frame[this.filled] = Math.min(32767, Math.round(clipped * 32768));
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
