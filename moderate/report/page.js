// Shows the rows of a report page by page. All text is set as text: nothing of it is ever parsed.
"use strict";
(() => {
  const by = (id) => document.getElementById(id);
  const data = JSON.parse(by("data").textContent);
  const thumbs = by("thumbnails") ? JSON.parse(by("thumbnails").textContent) : null;
  const { categories, columns, listed } = data;
  const BANDS = ["approve", "review", "block", "not scored"];
  const TONES = { approve: "good", review: "warning", block: "bad" };
  const SVG = "http://www.w3.org/2000/svg";
  const controls = ["text", "decision", "category", "error", "sort", "size"];
  let rows = [];  // places of the rows that are shown, in the order they are shown in
  let page = 0;
  let focused = 0;  // which row of the page takes the focus
  let haystacks = null;

  // A column is a list, or a list of its values with the place of each row's value in it.
  const cell = (name, row) => {
    const column = columns[name];
    return Array.isArray(column) ? column[row] : column.of[column.at[row]];
  };
  const make = (tag, className, ...children) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    element.append(...children);
    return element;
  };
  const draw = (tag, attributes) => {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const number = (value) => value.toLocaleString("en-US");
  const score = (category, row) => data.scores[category.name][row];
  const band = (category, row) => BANDS[data.bands[category.name][row]];

  // Rows ------------------------------------------------------------------------------------------

  const limits = (category) => {
    const { review, block } = category;
    if (review === null) return "no thresholds";
    return `review from ${review}, block from ${block}`;
  };
  const bar = (category, row) => {
    const value = score(category, row) / 10000;
    const is = band(category, row);
    const label = `${category.label} ${value.toFixed(3)} (${is}); ${limits(category)}`;
    const svg = draw("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "img",
      "aria-label": label });
    const title = draw("title", {});
    title.textContent = label;
    svg.append(title, draw("rect", { class: "track", y: 2, width: 100, height: 6 }));
    svg.append(draw("rect", { class: TONES[is], y: 2, width: 100 * value, height: 6 }));
    for (const limit of [category.review, category.block]) {
      if (limit === null) continue;
      const at = 100 * Math.min(Math.max(limit, 0.01), 0.99);
      svg.append(draw("path", { class: "limit", d: `M${at} 0V10`,
        "vector-effect": "non-scaling-stroke" }));
    }
    return svg;
  };
  const scored = (category, row) => {
    if (score(category, row) === null) return ["–"];
    return [(score(category, row) / 10000).toFixed(3), bar(category, row)];
  };
  const named = (path) => {
    const at = path.lastIndexOf("/") + 1;
    const name = make("bdi", "", make("span", "folder", path.slice(0, at)), path.slice(at));
    return name;
  };
  const thumbnail = (row, place) => {
    const source = thumbs[row];
    if (source === undefined) return make("span", "why", "none");
    const image = make("img");
    image.src = `data:image/jpeg;base64,${source}`;
    image.alt = "";
    const button = make("button", "thumb", image);
    button.type = "button";
    button.tabIndex = -1;
    const show = (shown) => {
      button.setAttribute("aria-pressed", shown);
      button.title = shown ? "Blur (v)" : "Reveal (v)";
      button.setAttribute("aria-label", `Thumbnail of row ${place + 1}, reveal`);
    };
    show(false);
    button.addEventListener("click", () => show(button.getAttribute("aria-pressed") !== "true"));
    return button;
  };
  const details = (row) => {
    const list = make("dl");
    const add = (label, ...values) => {
      if (values.some((value) => value !== null && value !== ""))
        list.append(make("dt", "", label), make("dd", "", ...values));
    };
    add("image", make("bdi", "", cell("path", row)));
    add("row", number(columns.number[row]));
    for (const each of [["why", "reasons"], ["where", "highest_at"], ["warnings", "warnings"],
      ["also holds", "embedded"]]) add(each[0], cell(each[1], row));
    const code = cell("error_code", row);
    if (code !== null) add("error", `${code}: ${cell("error_message", row) ?? ""}`);
    for (const category of categories) {
      if (score(category, row) === null) continue;
      const text = `${(score(category, row) / 10000).toFixed(4)} (${band(category, row)}; `;
      add(category.label, `${text}${limits(category)})`, bar(category, row));
    }
    const [width, height, frames, bytes] = ["width", "height", "frames", "bytes"]
      .map((name) => cell(name, row));
    const facts = [cell("format", row), width === null ? null : `${width} × ${height} pixels`,
      frames > 1 ? `${number(frames)} frames` : null, bytes === null ? null :
      `${number(bytes)} bytes`];
    add("file", facts.filter((fact) => fact !== null).join(", "));
    add("sha256", cell("sha256", row));
    add("same bytes as", cell("duplicate_of", row));
    return list;
  };
  const toggle = (line, button, row) => {
    const open = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", !open);
    if (open) return line.nextSibling.remove();
    const more = make("td", "", details(row));
    more.colSpan = by("heads").children.length;
    line.after(make("tr", "more", more));
  };
  const line = (row, place) => {
    const is = cell("decision", row);
    const cells = [make("td", "decision", make("span", `tag ${TONES[is] ?? ""}`, is))];
    if (thumbs) cells.push(make("td", "picture", thumbnail(row, page * size() + place)));
    const button = make("button", "name", named(cell("path", row)));
    button.type = "button";
    button.setAttribute("aria-expanded", false);
    const why = cell("error_code", row) === null ? cell("reasons", row) :
      `${cell("error_code", row)}: ${cell("error_message", row) ?? ""}`;
    cells.push(make("td", "image", button, make("div", "why", why ?? "")));
    for (const category of categories) {
      const td = make("td", "score", ...scored(category, row));
      td.dataset.name = category.label;
      cells.push(td);
    }
    const tr = make("tr", "", ...cells);
    button.addEventListener("click", () => toggle(tr, button, row));
    tr.addEventListener("focusin", () => mark(place));
    return tr;
  };

  // Which rows ------------------------------------------------------------------------------------

  const haystack = (row) => ["path", "reasons", "warnings", "error_code", "error_message", "format",
    "sha256", "duplicate_of", "embedded"].map((name) => cell(name, row) ?? "").join("\n")
    .toLowerCase();
  const chosen = () => {
    const words = by("text").value.toLowerCase().split(/\s+/).filter(Boolean);
    const decision = by("decision").value;
    const category = categories.find((each) => each.name === by("category").value);
    const error = by("error").value;
    if (words.length && !haystacks) haystacks = Array.from({ length: listed }, (_, n) => haystack(n));
    const found = [];
    for (let row = 0; row < listed; row++) {
      if (decision && cell("decision", row) !== decision) continue;
      if (category && !"12".includes(data.bands[category.name][row])) continue;
      if (error) {
        const code = cell("error_code", row);
        const fits = error === "none" ? code === null : error === "any" ? code !== null :
          code === error.slice(1);
        if (!fits) continue;
      }
      if (words.every((word) => haystacks[row].includes(word))) found.push(row);
    }
    return found;
  };
  const sorted = (found) => {
    const order = by("sort").value;
    if (order === "severity") return found;  // as the rows are
    const values = order === "number" ? columns.number : order === "path" ?
      Array.from({ length: listed }, (_, row) => cell("path", row)) :
      data.scores[order].map((value) => (value === null ? 1 : -value));
    return found.sort((a, b) => (values[a] < values[b] ? -1 : values[a] > values[b] ? 1 : a - b));
  };

  // The page --------------------------------------------------------------------------------------

  const size = () => Number(by("size").value);
  const pages = () => Math.max(1, Math.ceil(rows.length / size()));
  const buttons = () => Array.from(by("body").querySelectorAll("button.name"));
  const mark = (place) => {
    focused = place;
    buttons().forEach((button, index) => {
      button.tabIndex = index === place ? 0 : -1;
      const tr = button.closest("tr");
      tr.classList.toggle("current", index === place && tr.contains(document.activeElement));
    });
  };
  const show = (to) => {
    page = Math.min(Math.max(to, 0), pages() - 1);
    const first = page * size();
    const shown = rows.slice(first, first + size());
    by("body").replaceChildren(...shown.map(line));
    mark(0);
    const of = rows.length === listed ? number(listed) :
      `${number(rows.length)} (${number(listed)} without filters)`;
    by("count").textContent = rows.length ?
      `Rows ${number(first + 1)} to ${number(first + shown.length)} of ${of}` :
      `No row fits the filters (${number(listed)} without filters)`;
    by("page").textContent = `page ${number(page + 1)} of ${number(pages())}`;
    by("first").disabled = by("previous").disabled = page === 0;
    by("next").disabled = by("last").disabled = page === pages() - 1;
  };
  const update = () => {
    rows = sorted(chosen());
    const sort = by("sort").value;
    for (const head of by("heads").children) {
      const key = head.dataset.sort;
      if (key !== sort) head.removeAttribute("aria-sort");
      else head.setAttribute("aria-sort", key === "path" ? "ascending" : "descending");
    }
    show(0);
  };
  const focus = (place) => {
    const all = buttons();
    if (all.length) all[Math.min(Math.max(place, 0), all.length - 1)].focus();
  };
  const turn = (to) => {
    const within = by("body").contains(document.activeElement);
    show(to);
    if (within) focus(0);
  };
  const step = (count) => {
    const within = by("body").contains(document.activeElement);
    const to = within ? focused + count : focused;
    if (to >= buttons().length && page < pages() - 1) {
      show(page + 1);
      focus(0);
    } else if (to < 0 && page > 0) {
      show(page - 1);
      focus(buttons().length - 1);
    } else focus(to);
  };

  const fill = (id, options) => {
    for (const [value, text] of options) {
      const option = make("option", "", text);
      option.value = value;
      by(id).append(option);
    }
  };
  const counts = (name) => {
    const found = new Map();
    for (let row = 0; row < listed; row++) {
      const value = cell(name, row);
      found.set(value, (found.get(value) ?? 0) + 1);
    }
    return found;
  };
  const decisions = counts("decision");
  const errors = counts("error_code");
  const failed = listed - (errors.get(null) ?? 0);
  errors.delete(null);
  fill("decision", ["block", "review", "approve"].map((name) =>
    [name, `${name} (${number(decisions.get(name) ?? 0)})`]));
  fill("category", categories.map(({ name, label }) => [name, `${label}: review or block`]));
  fill("error", [["none", `none (${number(listed - failed)})`], ["any", `any (${number(failed)})`],
    ...Array.from(errors, ([code, count]) => [`=${code}`, `${code} (${number(count)})`])]);
  fill("sort", categories.map(({ name, label }) => [name, `${label}, highest first`]));

  let waiting = 0;
  by("text").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(update, listed > 5000 ? 200 : 50);
  });
  for (const id of controls.slice(1)) by(id).addEventListener("change", update);
  by("filters").addEventListener("submit", (event) => event.preventDefault());
  by("filters").addEventListener("reset", () => setTimeout(update));
  for (const head of by("heads").children) {
    const key = head.dataset.sort;
    if (key) head.firstChild.addEventListener("click", () => {
      by("sort").value = by("sort").value === key ? "severity" : key;
      update();
    });
  }
  by("first").addEventListener("click", () => turn(0));
  by("previous").addEventListener("click", () => turn(page - 1));
  by("next").addEventListener("click", () => turn(page + 1));
  by("last").addEventListener("click", () => turn(pages() - 1));

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
    const typing = event.target instanceof HTMLInputElement;
    const choosing = event.target instanceof HTMLSelectElement;
    const within = by("body").contains(event.target);
    const key = event.key;
    if (typing && (key === "ArrowDown" || key === "Enter")) {
      clearTimeout(waiting);
      update();
      focus(0);
    } else if (typing && key === "Escape") {
      if (event.target.value) { event.target.value = ""; update(); } else event.target.blur();
    } else if (typing || choosing) return;
    else if (key === "/") { by("text").focus(); by("text").select(); }
    else if (key === "j" || (key === "ArrowDown" && within)) step(1);
    else if (key === "k" || (key === "ArrowUp" && within)) step(-1);
    else if (key === "n" || (key === "ArrowRight" && within)) turn(page + 1);
    else if (key === "p" || (key === "ArrowLeft" && within)) turn(page - 1);
    else if (key === "Home" && within) focus(0);
    else if (key === "End" && within) focus(buttons().length - 1);
    else if (key === "v" && within) {
      const thumb = buttons()[focused].closest("tr").querySelector("button.thumb");
      if (thumb) thumb.click();
    } else return;
    event.preventDefault();
  });

  by("images").hidden = false;
  update();
})();
