// Small pictures: of the neighbours, which stay blurred, and of the grid.

import { pictureUrl } from "./api.js";
import { baseName, make } from "./dom.js";

const SIGNS = { approve: "✓", block: "✕", unsure: "?" };
const DONE = { approve: "approved", block: "blocked", unsure: "unsure" };

// What is known of an item, in words.
export function stateText(item) {
  if (item.state === "decided") return DONE[item.decision];
  if (item.state === "lost") return "not recorded";
  if (item.problem) return "cannot be shown";
  return item.row.second ? "second look" : "open";
}

export class Tiles {
  #list;
  #tiles = new Map(); // by item
  #choose;

  // choose(item) is called for the tile that is clicked.
  constructor(list, choose) {
    this.#list = list;
    this.#choose = choose;
  }

  // Show these items, `current` as the one that is judged. Pictures are loaded once for each.
  show(items, current, levelOf = () => 0) {
    const wanted = new Set(items);
    for (const [item, tile] of this.#tiles) {
      if (!wanted.has(item)) {
        tile.entry.remove();
        this.#tiles.delete(item);
      }
    }
    items.forEach((item, place) => {
      const tile = this.#tiles.get(item) ?? this.#make(item);
      if (this.#list.children[place] !== tile.entry) {
        this.#list.insertBefore(tile.entry, this.#list.children[place] ?? null);
      }
      const { button, image } = tile;
      const isCurrent = item === current;
      button.tabIndex = isCurrent ? 0 : -1;
      if (isCurrent) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
      button.dataset.state = item.state === "decided" ? item.decision : item.state;
      button.dataset.level = levelOf(item);
      const problem = item.problem !== null;
      if (problem) image.hidden = true;
      else if (item.frames && !tile.asked) {
        tile.asked = true;
        image.onload = () => ((tile.loaded = true), (image.hidden = false), tile.onLoad?.());
        image.src = pictureUrl(item.number, item.place, "small");
      }
      tile.sign.textContent =
        item.state === "decided" ? SIGNS[item.decision] : item.state === "lost" ? "!" : problem ? "⚠" : "";
      const strongest = item.row.scores.reduce((one, other) => (other.score > one.score ? other : one));
      const score = strongest.score === null ? "no scores" : `${strongest.name} ${strongest.score.toFixed(2)}`;
      tile.score.textContent = score;
      button.setAttribute("aria-label", `${baseName(item.row.path)}, ${score}, ${stateText(item)}`);
    });
  }

  isLoaded(item) {
    return this.#tiles.get(item)?.loaded ?? false;
  }

  onLoad(item, then) {
    const tile = this.#tiles.get(item);
    if (tile) tile.onLoad = then;
  }

  focus(item) {
    const button = this.#tiles.get(item)?.button;
    button?.focus({ preventScroll: true });
    button?.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  // How many tiles are in one row.
  get columns() {
    const entries = [...this.#list.children];
    const first = entries[0]?.offsetTop;
    const count = entries.findIndex((entry) => entry.offsetTop !== first);
    return count < 0 ? Math.max(entries.length, 1) : count;
  }

  #make(item) {
    const image = make("img", { alt: "", hidden: true, draggable: false });
    const sign = make("span", { class: "sign", "aria-hidden": "true" });
    const score = make("span", { class: "score", "aria-hidden": "true" });
    const picture = make("span", { class: "thumb" }, image);
    const button = make("button", { type: "button" }, picture, sign, score);
    button.addEventListener("click", () => this.#choose(item));
    button.addEventListener("keyup", (event) => event.key === " " && event.preventDefault());
    const tile = { entry: make("li", {}, button), button, image, sign, score, asked: false };
    this.#tiles.set(item, tile);
    return tile;
  }
}
