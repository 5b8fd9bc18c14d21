/**
 * Requests to `/v1/storyboard`: a file goes up, lines or a file come back, with progress of both.
 *
 * XMLHttpRequest, since `fetch` tells nothing of how far an upload is.
 */

import { address } from "./place.js";
import { token } from "./token.js";

const READ_MS = 200; // between two looks at what has come

/** Something went wrong; the message is one line for people. */
export class RequestError extends Error {
  /** @param {string} code a word for programs: `token`, `gone`, `cut`, or the server's own */
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

function megabytes(bytes) {
  return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
}

/** Says in one line why a request has failed that got no answer. */
async function withoutAnswer(sent, file) {
  let alive = false;
  try {
    alive = (await fetch(address("/healthz"), { cache: "no-store" })).ok;
  } catch {
    alive = false;
  }
  if (!alive) return new RequestError("gone", "The server does not answer. Is it still running?");
  if (!sent) {
    // A server that refuses a body may close the line before the browser has read why.
    return new RequestError(
      "cut",
      `The file did not get through: it may be too big for this server (${megabytes(file.size)}).`,
    );
  }
  return new RequestError("cut", "The connection broke off. Try the file again.");
}

async function withAnswer(request, file) {
  let text = "";
  try {
    const body = request.response;
    text = body instanceof Blob ? await body.text() : String(body ?? "");
  } catch {
    text = "";
  }
  let error = {};
  try {
    error = JSON.parse(text).error ?? {};
  } catch {
    error = {};
  }
  if (request.status === 401) {
    const why = token() ? "The token is wrong." : "This server wants a token.";
    return new RequestError("token", why);
  }
  const message = error.message ?? `The server answered ${request.status}`;
  return new RequestError(error.code ?? "http", sentence(message, file));
}

function sentence(text, { name }) {
  const named = text.startsWith(name); // a file keeps its name
  const clean = named ? text : text.charAt(0).toUpperCase() + text.slice(1);
  return /[.?!]$/.test(clean) ? clean : `${clean}.`;
}

/**
 * Sends a file.
 *
 * @param {File} file
 * @param {Record<string, string>} query
 * @param {object} options
 * @param {AbortSignal} options.signal ends it
 * @param {(share: number) => void} options.onSent 0 to 1
 * @param {(line: object) => void} [options.onLine] takes the answer's lines; without it the answer
 *   is a file
 * @returns {Promise<Blob | null>}
 */
export function ask(file, query, { signal, onSent, onLine }) {
  const request = new XMLHttpRequest();
  const asked = new URLSearchParams({ name: file.name, ...query });
  request.open("POST", `${address("/v1/storyboard")}?${asked}`);
  if (token()) request.setRequestHeader("Authorization", `Bearer ${token()}`);
  request.setRequestHeader("Content-Type", "application/octet-stream");
  request.responseType = onLine ? "text" : "blob";

  return new Promise((resolve, reject) => {
    let sent = false;
    let read = 0;
    let readAt = 0;
    let failure = null; // the error in a line
    let ended = false;
    const cancelled = () => reject(new DOMException("cancelled", "AbortError"));

    const takeLines = () => {
      const text = request.responseText;
      for (let end; (end = text.indexOf("\n", read)) >= 0; read = end + 1) {
        const line = JSON.parse(text.slice(read, end));
        if (line.type === "error") failure = new RequestError("sound", sentence(line.message, file));
        if (line.type === "done") ended = true;
        onLine(line);
      }
    };

    request.upload.addEventListener("progress", (event) => {
      onSent(event.total ? event.loaded / event.total : 1);
    });
    request.upload.addEventListener("load", () => {
      sent = true;
      onSent(1);
    });
    request.addEventListener("progress", () => {
      const now = performance.now();
      if (!onLine || request.status !== 200 || now - readAt < READ_MS) return;
      readAt = now;
      takeLines();
    });
    request.addEventListener("load", async () => {
      if (request.status !== 200) return reject(await withAnswer(request, file));
      if (!onLine) return resolve(request.response);
      takeLines();
      if (failure) return reject(failure);
      if (!ended) return reject(new RequestError("cut", "The server broke off. Try it again."));
      return resolve(null);
    });
    request.addEventListener("error", async () => reject(await withoutAnswer(sent, file)));
    request.addEventListener("abort", cancelled);
    signal.addEventListener("abort", () => request.abort(), { once: true });
    if (signal.aborted) cancelled();
    else request.send(file);
  });
}
