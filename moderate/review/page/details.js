// What is known of an image: scores with thresholds and labels, reasons, places, facts.

import { by, draw, make, words } from "./dom.js";

const LABELS = [undefined, true, false];
const LABEL_TEXT = new Map([[undefined, "no label"], [true, "yes"], [false, "no"]]);

export class Details {
  #limits;
  #rows = new Map(); // by category
  #setLabel;

  // categories are those of /api/session; setLabel(name, true | false | undefined).
  constructor(categories, setLabel) {
    this.#limits = new Map(categories.map((each) => [each.name, each]));
    this.#setLabel = setLabel;
    categories.forEach(({ name }, place) => this.#makeRow(name, place + 1));
  }

  get names() {
    return [...this.#rows.keys()];
  }

  // The label that comes after the one that an item has.
  nextLabel(item, name) {
    return LABELS[(LABELS.indexOf(item.labels[name]) + 1) % LABELS.length];
  }

  show(item) {
    const row = item?.row;
    for (const score of row?.scores ?? []) this.#score(score);
    this.labels(item);
    by("machine").textContent = row ? `Decision: ${row.decision}` : "";
    fill("reasons", row?.reasons ?? []);
    fill("warnings", (row?.warnings ?? []).map((text) => `Warning: ${words(text)}`));
    const unseen = row?.unseen ?? 0;
    by("unseen").textContent =
      unseen > 0
        ? `${Math.round(unseen * 100)} % of the image is in no part that the model was shown.`
        : "No part of the image is known to be left out.";
    fill("places", (row?.places ?? []).map(({ term, text }) => `${words(term)} is highest at ${text}`));
    pairs("carried", row?.carried ?? []);
    by("carried-section").hidden = !row?.carried.length;
    const copies = row?.copies;
    by("copies-section").hidden = !copies;
    fill("copies", copies?.paths ?? []);
    const more = (copies?.count ?? 0) - (copies?.paths.length ?? 0);
    by("copies-text").textContent = copies
      ? `Your decision is also that of ${copies.count === 1 ? "one more file" : `${copies.count} more files`} ` +
        `with the same bytes${more > 0 ? `, of which these are ${copies.paths.length}` : ""}:`
      : "";
    pairs("facts", (row?.facts ?? []).map(([name, text]) => [words(name), text]));
  }

  labels(item) {
    for (const [name, { yes, no }] of this.#rows) {
      yes.setAttribute("aria-pressed", String(item?.labels[name] === true));
      no.setAttribute("aria-pressed", String(item?.labels[name] === false));
    }
  }

  labelText(name, value) {
    return `${words(name)}: ${LABEL_TEXT.get(value)}`;
  }

  #score({ name, score, band }) {
    const { number, fill: filled, row } = this.#rows.get(name);
    row.dataset.band = band ?? "none";
    number.textContent = score === null ? "not scored" : `${score.toFixed(3)} ${band === "approve" ? "" : band}`;
    filled.setAttribute("width", (score ?? 0) * 100);
  }

  #makeRow(name, key) {
    const { review, block } = this.#limits.get(name);
    const filled = draw("rect", { class: "fill", height: 10, width: 0 });
    const bar = draw(
      "svg",
      { class: "bar", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
      draw("rect", { class: "track", width: 100, height: 10 }),
      filled,
    );
    const line = (kind, at) => draw("line", { class: `limit ${kind}`, x1: at * 100, x2: at * 100, y1: 0, y2: 10 });
    if (review !== null) {
      bar.append(line("halo", review), line("halo", block), line("review", review), line("block", block));
    }
    const number = make("span", { class: "number" });
    const label = (value) => {
      const button = make("button", { type: "button", "aria-pressed": "false" });
      button.textContent = value ? "Yes" : "No";
      button.addEventListener("click", () =>
        this.#setLabel(name, button.getAttribute("aria-pressed") === "true" ? undefined : value),
      );
      return button;
    };
    const yes = label(true);
    const no = label(false);
    const title = make("span", { class: "name", textContent: words(name) });
    if (key <= 9) title.prepend(make("kbd", { textContent: String(key) }), " ");
    const limits = make("span", {
      class: "unseen",
      textContent: review === null ? ", without thresholds" : `, review from ${review}, block from ${block}`,
    });
    const group = make("div", { class: "labels", role: "group", "aria-label": `Label ${words(name)}` }, yes, no);
    const row = make("li", {}, make("div", { class: "head" }, title, number, limits), bar, group);
    by("scores").append(row);
    this.#rows.set(name, { number, fill: filled, row, yes, no });
  }
}

function fill(id, texts) {
  by(id).replaceChildren(...texts.map((textContent) => make("li", { textContent })));
  by(id).hidden = texts.length === 0;
}

function pairs(id, entries) {
  by(id).replaceChildren(
    ...entries.flatMap(([name, text]) => [
      make("dt", { textContent: name }),
      text === null
        ? make("dd", { class: "none", textContent: "nothing" })
        : make("dd", { textContent: text }),
    ]),
  );
}
