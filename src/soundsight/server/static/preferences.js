/** What a person has chosen. Kept in this browser; never a sound, a picture or a token. */

const KEY = "soundsight.preferences";

const ALLOWED = {
  source: (v) => v === "microphone" || v === "tab",
  sensitivity: (v) => typeof v === "number" && v >= 0 && v <= 1,
  draws: (v) => [1, 2, 3, 4].includes(v),
  size: (v) => ["small", "medium", "large"].includes(v),
  keys: (v) => typeof v === "boolean",
};

export const preferences = {
  source: "microphone",
  sensitivity: 0.5,
  draws: 1,
  size: "large",
  keys: true,
};

try {
  const stored = JSON.parse(localStorage.getItem(KEY) ?? "{}");
  for (const [name, fits] of Object.entries(ALLOWED)) {
    if (fits(stored[name])) preferences[name] = stored[name];
  }
} catch {
  // Storage that is closed or damaged: the page begins with what it knows.
}

/** Changes a preference and keeps it, where the browser allows it. */
export function prefer(name, value) {
  preferences[name] = value;
  try {
    localStorage.setItem(KEY, JSON.stringify(preferences));
  } catch {
    // Private windows may refuse; the choice then lasts as long as the page.
  }
}
