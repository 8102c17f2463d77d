// The large image: revealed no further than asked for, its frames as stills, boxes, zoom.

import { by, make, words } from "./dom.js";

const SHOWN = ["blurred", "in grey", "in colour"];

export class Stage {
  #item = null;
  #held = 0;
  #boxes = true;
  #zoomed = false;
  #shown = null; // the picture element that is in the page
  #key = []; // what it was drawn from

  get level() {
    return Math.max(this.#item?.level ?? 0, this.#held);
  }

  // Show an item, or nothing (null).
  show(item) {
    if (this.#item !== item) {
      this.#held = 0;
      this.zoom(false);
    }
    this.#item = item;
    const key = [item, item?.place, item?.frames, item?.problem];
    if (key.some((value, place) => value !== this.#key[place])) this.refresh();
  }

  // Show what the item has by now.
  refresh() {
    this.#key = [this.#item, this.#item?.place, this.#item?.frames, this.#item?.problem];
    const item = this.#item;
    const frame = by("frame");
    const problem = item?.problem ?? null;
    by("problem").hidden = problem === null;
    by("problem-text").textContent = problem
      ? `This image cannot be shown: ${problem}. It is not judged: skip it with →, or say unsure.`
      : "";
    by("frames").hidden = !item?.frames || item.frames.length < 2;
    this.#shown = null;
    frame.replaceChildren();
    if (!item || problem) return;
    if (!item.frames) {
      frame.append(make("p", { class: "loading", textContent: "Loading…" }));
      return;
    }
    this.#frameText();
    const place = item.place;
    const picture = item.picture(place);
    frame.append(make("p", { class: "loading", textContent: "Loading…" }));
    picture.ready.then((image) => {
      if (this.#item !== item || item.place !== place || item.problem) return;
      if (!image) {
        this.#key = [];
        frame.replaceChildren(
          make("p", { class: "loading", textContent: "It did not load. R tries again." }),
        );
        return;
      }
      this.#shown = image;
      frame.replaceChildren(image, ...this.#marks());
      frame.style.setProperty("--ratio", image.naturalWidth / image.naturalHeight);
      frame.style.setProperty("--natural", `${image.naturalWidth}px`);
      this.apply();
    });
  }

  // Show as much as is asked for now, and note how much that was.
  apply() {
    const level = this.level;
    by("frame").dataset.level = level;
    const radios = document.querySelectorAll("#levels input");
    for (const radio of radios) radio.checked = Number(radio.value) === (this.#item?.level ?? 0);
    if (!this.#shown || !this.#item) return;
    this.#item.wasShown = true;
    this.#item.most = Math.max(this.#item.most, level);
    this.#shown.alt = `${this.#item.row.path}, shown ${SHOWN[level]}`;
  }

  hold(level) {
    this.#held = level;
    this.apply();
  }

  get isHeld() {
    return this.#held > 0;
  }

  zoom(on = !this.#zoomed) {
    this.#zoomed = on;
    by("canvas").classList.toggle("zoomed", on);
    by("zoom").setAttribute("aria-pressed", String(on));
  }

  pan(key) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key];
    if (!step) return;
    const canvas = by("canvas");
    canvas.scrollBy(step[0] * canvas.clientWidth * 0.3, step[1] * canvas.clientHeight * 0.3);
  }

  boxes() {
    this.#boxes = !this.#boxes;
    by("boxes").setAttribute("aria-pressed", String(this.#boxes));
    by("frame").classList.toggle("unboxed", !this.#boxes);
    return this.#boxes;
  }

  // Go to another frame; what to say of it.
  step(by_) {
    const item = this.#item;
    if (!item?.frames || item.frames.length < 2) return "This image has one frame.";
    const place = item.place + by_;
    if (place < 0 || place >= item.frames.length) return "There is no frame further on.";
    item.place = place;
    this.refresh();
    if (place + by_ >= 0 && place + by_ < item.frames.length) item.picture(place + by_);
    return this.#frameText();
  }

  #frameText() {
    const item = this.#item;
    const { frame, milliseconds } = item.frames[item.place];
    const time = milliseconds === null ? "" : `, ${(milliseconds / 1000).toFixed(1)} s`;
    const text = `Frame ${frame + 1}${time} (${item.place + 1} of ${item.frames.length} shown)`;
    by("frame-text").textContent = text;
    return text;
  }

  #marks() {
    const item = this.#item;
    const frame = item.frames[item.place].frame;
    return item.row.places
      .filter((place) => place.box && (place.frame ?? 0) === frame)
      .map((place) => {
        const [left, top, right, bottom] = place.box;
        const box = make("div", { class: "box", "aria-hidden": "true" });
        box.append(make("span", { textContent: words(place.term) }));
        Object.assign(box.style, {
          left: `${left}%`,
          top: `${top}%`,
          width: `${right - left}%`,
          height: `${bottom - top}%`,
        });
        return box;
      });
  }
}
