/**
 * The binary frames of the stream, see docs/protocol.md. The numbers come from protocol.json, which
 * the server makes from its own code.
 */

import { address } from "./place.js";

/** The version that this page has been written for. */
export const VERSION = 1;

export class Protocol {
  /** @param {object} facts the content of protocol.json */
  constructor(facts) {
    Object.assign(this, facts, { close: {} });
    for (const [name, { code }] of Object.entries(facts.close)) this.close[name] = code;
  }

  static async load() {
    const answer = await fetch(address("/static/protocol.json"), { cache: "no-cache" });
    if (!answer.ok) throw new Error(`protocol.json: ${answer.status}`);
    return new Protocol(await answer.json());
  }

  /**
   * Writes a frame of sound.
   * @param {number} sequence counts the frames
   * @param {number} position the stream's sample that it begins with
   * @param {ArrayBuffer} pcm 16-bit little-endian samples
   * @returns {ArrayBuffer}
   */
  packSound(sequence, position, pcm) {
    const head = this.sound.head_bytes;
    const frame = new ArrayBuffer(head + pcm.byteLength);
    const view = new DataView(frame);
    view.setUint8(0, this.sound.kind);
    view.setUint8(1, this.version);
    view.setUint32(4, sequence % 2 ** 32, true);
    view.setBigUint64(8, BigInt(position), true);
    new Uint8Array(frame, head).set(new Uint8Array(pcm));
    return frame;
  }

  /**
   * Reads a window.
   * @param {ArrayBuffer} data
   * @returns {{facts: object, pictures: Uint8Array[]}} the pictures are JPEG
   */
  readWindow(data) {
    const head = this.window.head_bytes;
    const view = new DataView(data);
    if (view.getUint8(0) !== this.window.kind || view.getUint8(1) !== this.version) {
      throw new RangeError("the head of a binary frame is not that of a window");
    }
    const count = view.getUint16(2, true);
    let at = head + view.getUint32(4, true);
    const facts = JSON.parse(new TextDecoder().decode(new Uint8Array(data, head, at - head)));
    const pictures = [];
    for (let i = 0; i < count; i += 1) {
      const size = view.getUint32(at, true);
      pictures.push(new Uint8Array(data, at + 4, size));
      at += 4 + size;
    }
    if (at !== data.byteLength) throw new RangeError("a window is cut short or too long");
    return { facts, pictures };
  }
}
