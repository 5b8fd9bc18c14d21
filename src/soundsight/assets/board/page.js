
// --- the saved page ----------------------------------------------------------------------------

const read = (id) => JSON.parse(document.getElementById(id).textContent);
const found = read("events");
const sound = read("sound");
let media = null;
if (sound.content) {
  const bytes = Uint8Array.from(atob(sound.content), (letter) => letter.charCodeAt(0));
  media = new Audio(URL.createObjectURL(new Blob([bytes], { type: sound.type })));
}
const board = new Board(document.getElementById("board"), { media });
const unplayable = "This browser cannot play the sound; the storyboard works all the same.";
media?.addEventListener("error", () => board.silence(unplayable));
board.begin(found.duration_s);
for (const event of found.events) board.add(event);
board.setOverview(found.overview);
if (!media) board.silence(sound.why);
