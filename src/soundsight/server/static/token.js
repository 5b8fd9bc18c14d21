/** The server's token: it comes behind `#token=` in the address and is taken from there at once. */

const KEY = "soundsight.token";
let held = "";

const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given !== null) {
  remember(given);
  history.replaceState(null, "", location.pathname + location.search);
} else {
  try {
    held = sessionStorage.getItem(KEY) ?? "";
  } catch {
    held = "";
  }
}

/** Keeps a token until the tab is closed. */
export function remember(token) {
  held = token.trim();
  try {
    sessionStorage.setItem(KEY, held);
  } catch {
    // It is held as long as the page then.
  }
}

/** @returns {string} empty where none is known */
export function token() {
  return held;
}
