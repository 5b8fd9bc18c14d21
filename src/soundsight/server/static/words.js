/** What is said, in one place: the page's words for states, certainty and time. */

const SURE = [
  [0.92, "quite sure", 3],
  [0.7, "probably", 2],
  [0, "perhaps", 1],
];

/**
 * @param {number | null} confidence
 * @returns {{words: string, marks: number}} how sure the program is; marks of three
 */
export function howSure(confidence) {
  const given = confidence ?? 0;
  const [, words, marks] = SURE.find(([least]) => given >= least);
  return { words, marks };
}

/** A clock time, with seconds. */
export function clock(date) {
  return date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
}

/** A length, as people say it. */
export function length(seconds) {
  const whole = Math.max(1, Math.round(seconds));
  return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

/** Whether it is known what an entry is: by a picture, or by its name alone. */
export function isKnown({ pictured, named }) {
  return Boolean(pictured || named);
}

/** What sounds, in words; the picture says it better. */
export function nameOf(entry) {
  if (!isKnown(entry)) return "nothing recognisable";
  const first = entry.name || "a familiar sound";
  return entry.secondGuess ? `${first}, or: ${entry.secondGuess}` : first;
}

export const HEADLINES = {
  start: "Not started",
  starting: "Starting",
  not_listening: "NOT LISTENING",
  paused: "Paused",
  sound: "Something sounds",
  nothing: "Nothing recognisable",
  quiet: "Quiet",
  replay: "Seen again",
};

export const DETAILS = {
  start:
    "Press Start and allow the microphone. The sound goes to this server and nowhere else; " +
    "it is not stored.",
  starting: "Opening the sound and the line to the server.",
  filling: "Listening to the first second.",
  paused: "The page does not listen until you go on.",
  sound: "It is too short yet to say what it is.",
  nothing: "There is a sound, but of no kind that the program knows.",
  quiet: "Listening. Nothing loud enough sounds.",
};

export const FAULTS = {
  ended: "The microphone has gone. Plug it in, or choose another, and start again.",
  tab: "The shared tab no longer gives sound. Start again to share it anew.",
  muted: "The microphone is muted, by a switch or by the system. Unmute it.",
  suspended: "The browser has put the sound to sleep. Press any key or touch the page.",
  zeros: "The microphone sends nothing: is it muted or covered?",
  frozen: "No more sound comes from the browser. If this stays, stop and start again.",
  late: "The server is too slow: its answers are old by the time they come.",
  silent: "The server does not answer.",
  gone: "The server is gone.",
  full: "The server is full.",
  malformed: "The server and this page do not understand each other: load the page anew.",
  version: "This page and the server are of different versions: load the page anew.",
  token: "This server wants a token, or another one.",
};
