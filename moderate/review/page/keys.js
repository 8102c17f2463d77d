// The keys, what they do, and the legend. Keys are as KeyboardEvent.key names them.

import { make } from "./dom.js";

// [keys as pressed, what the legend shows, what it does]
export const KEYS = [
  [["a"], "A", "approve", "Approve"],
  [["b"], "B", "block", "Block"],
  [["u"], "U", "unsure", "Unsure"],
  [["1", "2", "3", "4", "5", "6", "7", "8", "9"], "1 to 9", "label", "Label of a category: yes, no, none"],
  [["n"], "N", "note", "Write a note; Esc ends it"],
  [["z", "Backspace"], "Z or ⌫", "undo", "Undo your last decision"],
  [["ArrowRight", "j"], "→ or J", "next", "Next image, without a decision"],
  [["ArrowLeft", "k"], "← or K", "previous", "Previous image"],
  [[" "], "hold Space", "hold", "Show it in grey as long as held; with Shift in colour"],
  [["r"], "R", "reveal", "Reveal by steps: blurred, grey, colour"],
  [["f"], "F", "zoom", "Zoom; Shift and arrows move the image"],
  [[","], ",", "frameBack", "Frame before, in animations"],
  [["."], ".", "frameOn", "Next frame"],
  [["o"], "O", "boxes", "Boxes: where a score is highest"],
  [["g"], "G", "grid", "Grid of 24, or one image"],
  [["A"], "Shift+A", "rest", "In the grid: approve the rest"],
  [["ArrowUp"], "↑", "up", "In the grid: one row up"],
  [["ArrowDown"], "↓", "down", "In the grid: one row down"],
  [["Enter"], "Enter", "open", "In the grid: open the image"],
  [["?"], "?", "legend", "These keys"],
];

const ACTIONS = new Map(KEYS.flatMap(([keys, , action]) => keys.map((key) => [key, action])));
const ONCE = new Set(["approve", "block", "unsure", "label", "undo", "rest", "grid", "hold", "reveal"]);
const NATIVE = "button, a, summary, select, [role=radio]";

export function fillLegend(list) {
  for (const [, shown, , meaning] of KEYS) {
    list.append(make("dt", {}, make("kbd", { textContent: shown })));
    list.append(make("dd", { textContent: meaning }));
  }
}

// Calls act(action, event) for keys; letGo() when the key that is held comes up.
export function listen(act, letGo, singleKeys) {
  document.addEventListener("keydown", (event) => {
    const target = event.target;
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (document.querySelector("dialog[open]")) return;
    if (target.matches("textarea, input:not([type=checkbox]):not([type=radio]), select")) {
      if (event.key === "Escape") act("leave", event);
      return;
    }
    const isTile = target.closest(".tiles") !== null;
    if (target.matches("input") && (event.key === " " || event.key.startsWith("Arrow"))) return;
    if (target.matches(NATIVE) && !isTile && (event.key === " " || event.key === "Enter")) return;
    let key = event.key;
    if (key.length === 1 && key !== "A" && !event.getModifierState("AltGraph")) {
      key = key.toLowerCase(); // Caps Lock
    }
    if (key === "A" && !event.shiftKey) key = "a";
    if (key.length === 1 && key !== " " && key !== "?" && !singleKeys()) return;
    if (event.shiftKey && key.startsWith("Arrow")) {
      act("pan", event);
      return;
    }
    const action = ACTIONS.get(key);
    if (!action) return;
    if (event.repeat && ONCE.has(action)) {
      event.preventDefault(); // a key that is kept down decides once
      return;
    }
    act(action, event);
  });
  document.addEventListener("keyup", (event) => {
    if (event.key === " " || event.key === "Shift") letGo(event.key);
  });
  window.addEventListener("blur", () => letGo(" "));
  document.addEventListener("visibilitychange", () => document.hidden && letGo(" "));
}
