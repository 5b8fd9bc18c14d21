/**
 * A polyphase windowed-sinc resampler that keeps its state from block to block.
 *
 * Output sample n stands for the time n / toHz exactly: there is no drift and no seam. Runs in the
 * worklet; needs nothing of the browser.
 */

const ZERO_CROSSINGS = 24; // of the sinc on each side, at the lower of the two rates
const BETA = 8.5; // Kaiser: about -85 dB outside the transition
const CUTOFF = 0.93; // of half the lower rate

function gcd(a, b) {
  return b ? gcd(b, a % b) : a;
}

/** Modified Bessel function of order 0, as the Kaiser window needs it. */
function bessel0(x) {
  let sum = 1;
  let term = 1;
  for (let k = 1; term > sum * 1e-12; k += 1) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}

export class Resampler {
  /**
   * @param {number} fromHz rate of what comes in; whole
   * @param {number} toHz rate of what goes out; whole
   */
  constructor(fromHz, toHz) {
    this.same = fromHz === toHz;
    if (this.same) return;
    const common = gcd(fromHz, toHz);
    this.up = toHz / common;
    this.down = fromHz / common;
    const lower = Math.min(1, toHz / fromHz);
    this.half = Math.ceil(ZERO_CROSSINGS / lower);
    this.taps = 2 * this.half;
    this.table = this.#filters(lower * CUTOFF);
    // Zeros stand for the time before the first sample.
    this.held = new Float32Array(this.taps + 8192);
    this.length = this.half - 1;
    // The next output lies at held[half - 1 + first] + phase / up.
    this.first = 0;
    this.phase = 0;
  }

  /** One filter of `taps` numbers for each of `up` phases. */
  #filters(cutoff) {
    const table = new Float32Array(this.up * this.taps);
    const norm = bessel0(BETA);
    for (let phase = 0; phase < this.up; phase += 1) {
      let sum = 0;
      for (let tap = 0; tap < this.taps; tap += 1) {
        const t = tap - (this.half - 1) - phase / this.up;
        const edge = t / this.half;
        const window = Math.abs(edge) >= 1 ? 0 : bessel0(BETA * Math.sqrt(1 - edge * edge)) / norm;
        const x = Math.PI * t * cutoff;
        const value = window * cutoff * (Math.abs(x) < 1e-9 ? 1 : Math.sin(x) / x);
        table[phase * this.taps + tap] = value;
        sum += value;
      }
      // Every phase passes a constant unchanged, or the phases would hum.
      for (let tap = 0; tap < this.taps; tap += 1) table[phase * this.taps + tap] /= sum;
    }
    return table;
  }

  /**
   * Takes the next samples and returns those that are complete; of any length, 0 included.
   * @param {Float32Array} block
   * @returns {Float32Array}
   */
  push(block) {
    if (this.same) return block;
    if (this.length + block.length > this.held.length) {
      const larger = new Float32Array(2 * (this.length + block.length));
      larger.set(this.held.subarray(0, this.length));
      this.held = larger;
    }
    this.held.set(block, this.length);
    this.length += block.length;
    const { held, table, taps, up, down } = this;
    const out = new Float32Array(Math.ceil(((block.length + 1) * up) / down) + 1);
    let count = 0;
    while (this.first + taps <= this.length) {
      const filter = this.phase * taps;
      let sum = 0;
      for (let tap = 0; tap < taps; tap += 1) sum += held[this.first + tap] * table[filter + tap];
      out[count] = sum;
      count += 1;
      this.phase += down;
      this.first += Math.floor(this.phase / up);
      this.phase %= up;
    }
    // Where the rate falls, the next output may begin beyond what is held.
    const gone = Math.min(this.first, this.length);
    held.copyWithin(0, gone, this.length);
    this.length -= gone;
    this.first -= gone;
    return out.subarray(0, count);
  }
}
