/** Whether anything sounds, from the level alone: known at once, long before there is a picture. */

const BAND_DB = 3; // nothing changes within this band around the threshold
const HOLD_MS = 1000; // quieter than the band for so long, or the mark stays
const FRAMES = 3; // averaged: 60 ms

const SENSITIVITY_DB = 24; // as in soundsight.runtime.events

/** Level under which the server calls a window quiet, at another sensitivity than the hello's. */
export function quietLevel(atHelloDbfs, helloSensitivity, sensitivity) {
  return atHelloDbfs + (helloSensitivity - sensitivity) * SENSITIVITY_DB;
}

export class SoundMark {
  /** @param {number} thresholdDbfs */
  constructor(thresholdDbfs) {
    this.thresholdDbfs = thresholdDbfs;
    this.on = false;
    this.reset();
  }

  reset() {
    this.on = false;
    this.recent = [];
    this.loudAt = -Infinity;
  }

  /**
   * Takes the level of the next 20 ms.
   * @param {number} levelDbfs
   * @param {number} atMs any clock that runs evenly
   * @returns {boolean} whether the mark has changed
   */
  push(levelDbfs, atMs) {
    this.recent.push(10 ** (levelDbfs / 10));
    if (this.recent.length > FRAMES) this.recent.shift();
    const power = this.recent.reduce((a, b) => a + b, 0) / FRAMES;
    const mean = 10 * Math.log10(power + 1e-12);
    if (mean >= this.thresholdDbfs - BAND_DB / 2) this.loudAt = atMs;
    const on = this.on
      ? atMs - this.loudAt < HOLD_MS
      : mean >= this.thresholdDbfs + BAND_DB / 2;
    const changed = on !== this.on;
    this.on = on;
    return changed;
  }
}
