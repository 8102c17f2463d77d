// One image of the queue as this page knows it: its row, its frames, and what was said of it.

import { newId, pictureUrl } from "./api.js";

export const LEVELS = ["blur", "grey", "colour"];

export class Item {
  state = "open"; // sending, decided, or lost: decided elsewhere
  decision = null;
  labels = {};
  note = "";
  level = 0; // what is shown now, without what is held
  most = 0; // the most that was shown
  seconds = 0;
  place = 0; // which of the frames
  frames = null;
  problem = null; // why it cannot be shown
  wasShown = false; // only what was is judged
  lostWhy = ""; // why it was not recorded
  retryTimer = 0;
  #large = new Map();
  #loading = null;
  #attempt = ["", ""];

  constructor(row) {
    this.row = row;
  }

  get number() {
    return this.row.row;
  }

  get hasDraft() {
    return this.state === "open" && (this.note !== "" || Object.keys(this.labels).length > 0);
  }

  // Ask which frames there are. Without an answer of the server it stays unloaded.
  load(api, again = false) {
    if (again) {
      this.frames = this.problem = this.#loading = null;
      this.#large.clear();
      this.place = 0;
    }
    this.#loading ??= this.#load(api, again).catch((problem) => {
      this.#loading = null;
      throw problem;
    });
    return this.#loading;
  }

  async #load(api, again) {
    const { frames, problem } = await api.frames(this.number, again);
    this.frames = frames;
    this.problem = problem ?? (frames.length ? null : "it holds no frame");
    if (!this.problem) this.place = Math.max(0, this.#highestPlace());
  }

  // The frame that the first score over a threshold is of.
  #highestPlace() {
    const rank = { block: 2, review: 1, approve: 0 };
    const scores = [...this.row.scores].sort(
      (one, other) => (rank[other.band] ?? -1) - (rank[one.band] ?? -1) || other.score - one.score,
    );
    for (const { name } of scores) {
      const place = this.row.places.find((each) => each.term === name);
      if (place && place.frame !== null) {
        return this.frames.findIndex((each) => each.frame === place.frame);
      }
    }
    return -1;
  }

  // The picture element of a frame, with a promise of it decoded; null where it cannot be had.
  picture(place) {
    let found = this.#large.get(place);
    if (!found) {
      const image = new Image();
      image.draggable = false;
      image.src = pictureUrl(this.number, place, "large");
      found = { image, ready: image.decode().then(() => image, () => null) };
      found.ready.then((decoded) => decoded || this.#large.delete(place));
      this.#large.set(place, found);
    }
    return found;
  }

  // Decoded pixels are large: those that are far from the current image are let go.
  release() {
    this.#large.clear();
  }

  // The body of a decision. The same judgement has the same id however often it is sent.
  judgement(decision) {
    const said = {
      row: this.number,
      path: this.row.path,
      decision,
      labels: this.labels,
      note: this.note,
    };
    const key = JSON.stringify(said);
    if (this.#attempt[0] !== key) this.#attempt = [key, newId()];
    const seconds = Math.min(this.seconds, 86_400);
    return { ...said, seconds, revealed: LEVELS[this.most], id: this.#attempt[1] };
  }

  // It was taken back: what is said next is another decision.
  reopen() {
    this.state = "open";
    this.decision = null;
    this.#attempt = ["", ""];
  }
}
