/** The sound of the last minutes, for replay: in this page's memory and nowhere else. */

export class SoundMemory {
  /**
   * @param {number} seconds how much is kept; what is older is overwritten
   * @param {number} rateHz
   */
  constructor(seconds, rateHz) {
    this.rateHz = rateHz;
    this.samples = new Int16Array(seconds * rateHz);
    this.start = 0; // the position of the first sample that was kept
    this.end = 0; // the position after the newest sample
  }

  /** @param {number} position of the first sample; @param {ArrayBuffer} pcm */
  push(position, pcm) {
    const piece = new Int16Array(pcm);
    if (!this.end) {
      this.start = position;
      this.end = position;
    }
    const { samples } = this;
    // What was missed between is silence, not what was there five minutes ago.
    for (let at = this.end; at < position && at - this.end < samples.length; at += 1) {
      samples[at % samples.length] = 0;
    }
    const at = position % samples.length;
    const head = Math.min(piece.length, samples.length - at);
    samples.set(piece.subarray(0, head), at);
    samples.set(piece.subarray(head), 0);
    this.end = position + piece.length;
  }

  /** Whether all of a stretch is still there. */
  has(from, to) {
    return from >= Math.max(this.start, this.end - this.samples.length) && to <= this.end;
  }

  /** @returns {Float32Array} of full scale 1 */
  cut(from, to) {
    const out = new Float32Array(Math.max(0, to - from));
    for (let i = 0; i < out.length; i += 1) {
      out[i] = this.samples[(from + i) % this.samples.length] / 32768;
    }
    return out;
  }

  clear() {
    this.samples.fill(0);
    this.end = 0;
  }
}
