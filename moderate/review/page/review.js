// The page: which image is judged, what keys and buttons do, and what the server answers.

import { Api, Problem } from "./api.js";
import { Breaks } from "./breaks.js";
import { Details } from "./details.js";
import { baseName, by, tell } from "./dom.js";
import { Item, LEVELS } from "./items.js";
import { fillLegend, listen } from "./keys.js";
import { Stage } from "./stage.js";
import { Tiles, stateText } from "./tiles.js";

const GRID = 24;
const AHEAD = 8; // images that are made ready behind the current one
const BEHIND = 30; // decided images that stay in the strip
const MOST = 64; // what the server gives one reviewer at a time
const RENEW_SECONDS = 60; // leases end after five minutes
const RETRY_SECONDS = 3;
const DONE = { approve: "Approved", block: "Blocked", unsure: "Unsure" };
const ANOTHER =
  "The server was started anew: open the link that it printed in this browser, and this page goes on by itself.";
const LEVEL_TEXT = ["blurred", "grey", "colour"];

const api = new Api();
const stage = new Stage();
const breaks = new Breaks();
const strip = new Tiles(by("strip"), (item) => go(item));
const grid = new Tiles(by("grid"), (item) => {
  go(item);
  grid.focus(item);
});

let about = null;
let details = null;
let items = []; // decided ones first, then in the order of the queue
let current = null;
let batch = null; // the items of the grid; null: one image at a time
let gridLevel = 0;
let progress = null;
let sending = false;
let waiting = null; // what is sent again: {wake, drop}
let fetching = null;
let keep = false;
let sharedLevel = 0;
let touched = Date.now();
let heldLevel = 0;
let wasHidden = document.hidden;
let changes = 0; // decisions and undos so far
let fetchTimer = 0;

const isOpen = (item) => item.state === "open" || item.state === "sending";
const openItems = () => items.filter(isOpen);

// ---- the queue ----

// Have enough rows and pictures behind the current one; leases are renewed by asking.
function fetchMore() {
  fetching ??= askForMore().finally(() => (fetching = null));
  return fetching;
}

async function askForMore() {
  const open = openItems();
  const behind = current ? open.length - open.indexOf(current) : open.length;
  const wanted = batch ? GRID * 2 : AHEAD + 1;
  const count = Math.min(MOST, Math.max(open.length, open.length + wanted - behind, wanted));
  const changesBefore = changes;
  let answer;
  clearTimeout(fetchTimer);
  try {
    answer = await api.next(count);
  } catch (problem) {
    if (!waiting) problemBanner(problem, fetchMore);
    fetchTimer = setTimeout(fetchMore, RETRY_SECONDS * 1000);
    return;
  }
  clearProblem("fetch");
  // What was decided meanwhile is not in this answer.
  const isCurrent = changes === changesBefore && !sending;
  if (isCurrent) showProgress(answer.progress);
  const known = new Map(items.map((item) => [item.number, item]));
  let added = 0;
  for (const row of answer.rows) {
    const item = known.get(row.row);
    if (!item) {
      items.push(new Item(row));
      added += 1;
    } else if (!isOpen(item) && isCurrent) {
      item.reopen(); // taken back in another window
      items = [...items.filter((each) => each !== item), item];
      added += 1;
    }
  }
  if (!current && !batch) {
    const first = openItems()[0];
    if (first) go(first);
  }
  if (batch && !batch.some(isOpen)) newBatch();
  if (added || !openItems().length) render();
  loadAhead();
}

// Load the pictures of the current item and of those behind it, in order; let go of the others.
async function loadAhead() {
  const open = openItems();
  const from = Math.max(0, open.indexOf(current));
  const near = batch
    ? [...batch, ...open.filter((item) => !batch.includes(item))].slice(0, GRID * 2)
    : [current, ...open.slice(from, from + AHEAD + 1)].filter(Boolean);
  const done = items.filter((item) => !isOpen(item) && item !== current && !batch?.includes(item));
  const dropped = new Set(done.slice(0, -BEHIND));
  items = items.filter((item) => !dropped.has(item));
  const last = items.indexOf(current);
  items.forEach((item, place) => {
    if (!near.includes(item) && Math.abs(place - last) > AHEAD) item.release();
  });
  for (const item of new Set(near)) loadItem(item);
}

async function loadItem(item, again = false) {
  try {
    await item.load(api, again);
  } catch (problem) {
    clearTimeout(item.retryTimer);
    item.retryTimer = setTimeout(() => items.includes(item) && loadItem(item), RETRY_SECONDS * 1000);
    if (item === current && !waiting) problemBanner(problem, () => loadItem(item));
    return;
  }
  if (!batch && !item.problem && isNear(item)) item.picture(item.place); // decoded ahead
  if (item === current) {
    if (!batch) stage.show(item);
    renderState();
    if (item.problem) tell(`This image cannot be shown: ${item.problem}`);
  }
  renderTiles();
}

function isNear(item) {
  const distance = items.indexOf(item) - items.indexOf(current);
  return distance >= -2 && distance <= AHEAD;
}

function go(item) {
  if (!item) return;
  countTime();
  heldLevel = 0;
  current = item;
  clearProblem("hint");
  if (!batch && isOpen(item)) item.level = keep ? sharedLevel : 0;
  announce(item);
  render();
  loadAhead();
}

function announce(item, before = "") {
  const strongest = item.row.scores
    .filter(({ score }) => score !== null)
    .sort((one, other) => other.score - one.score)[0];
  const score = strongest ? `${strongest.name} ${strongest.score.toFixed(2)}` : "no scores";
  const place = item.state === "open" ? "" : `, ${stateText(item)}`;
  const problem = item.problem ? `, cannot be shown: ${item.problem}` : "";
  tell(`${before}${baseName(item.row.path)}, ${score}${place}${problem}`);
}

function move(step) {
  const list = batch ?? items;
  const place = list.indexOf(current) + step;
  if (place < 0) return tell("This is the first image.");
  if (place >= list.length) {
    if (!batch && openItems().length >= MOST) {
      return showAlert("You have put 64 images aside: decide on some of them first.", "hint");
    }
    fetchMore();
    return tell("This is the last image for now.");
  }
  go(list[place]);
  if (batch) grid.focus(current);
}

// After a decision: the next open image, else the first one that was skipped.
function nextOpen(list) {
  const place = list.indexOf(current);
  return list.slice(place + 1).find(isOpen) ?? list.find((item) => isOpen(item) && item !== current);
}

// ---- decisions ----

async function decide(decision) {
  const item = current;
  if (!item || sending) return;
  if (waiting) return tell("The decision before is not recorded yet.");
  if (item.state === "decided") {
    return tell(`You have decided on this image: ${stateText(item)}. Z takes your last decision back.`);
  }
  if (item.state === "lost") return tell(`Not recorded: ${item.lostWhy}.`);
  if (decision !== "unsure") {
    if (item.problem) {
      return showAlert("An image that cannot be shown is not judged: skip it with →, or say unsure.", "hint");
    }
    if (!item.wasShown) return tell("The image is still loading.");
  }
  countTime();
  const recorded = await send(item, decision);
  if (recorded) advance(item, decision);
}

// Whether a decision is on the server's disk. It is sent until it is, or somebody drops it.
async function send(item, decision) {
  sending = true;
  item.state = "sending";
  item.note = item === current ? by("note").value : item.note;
  const body = item.judgement(decision);
  render();
  try {
    for (;;) {
      try {
        const answer = await api.decide(body);
        item.state = "decided";
        item.decision = decision;
        changes += 1;
        clearProblem();
        showProgress(answer.progress);
        return true;
      } catch (problem) {
        if (!(problem instanceof Problem)) throw problem;
        if (problem.status === 409 && problem.code === "not_yours") {
          item.state = "lost";
          item.lostWhy = problem.message;
          showAlert(`${baseName(item.row.path)} was not recorded: ${problem.message}.`, "info");
          return false;
        }
        if ([400, 404, 409, 413].includes(problem.status)) {
          item.state = "open";
          if (problem.code === "not_shown") loadItem(item, true);
          showAlert(`Not recorded: ${problem.message}.`, "info");
          return false;
        }
        if (!(await pause(problem, item, decision))) {
          item.state = "open";
          const name = baseName(item.row.path);
          showAlert(`${DONE[decision]} was given up for ${name}; what reached the server stays.`, "info");
          return false;
        }
        if (problem.status === 401 || problem.status === 403) await comeBack();
      }
    }
  } finally {
    sending = false;
    waiting = null;
    render();
  }
}

// Say what is wrong, and wait for a while or for a click; false: the decision is dropped.
function pause(problem, item, decision) {
  const what = `${DONE[decision]}, ${baseName(item.row.path)}: not recorded yet.`;
  const more =
    problem.status === 401 ? ` ${ANOTHER}` : ` Trying again, since ${problem.message}.`;
  if (waiting === null || by("alert-text").textContent !== what + more) showAlert(what + more, "error", "Drop it");
  return new Promise((done) => {
    const timer = setTimeout(() => done(true), RETRY_SECONDS * 1000);
    waiting = {
      wake: () => (clearTimeout(timer), done(true)),
      drop: () => (clearTimeout(timer), done(false)),
    };
  }).then((again) => {
    if (!again) waiting = null;
    return again;
  });
}

// The server was started anew: take its token for changes, if its cookie is here by now.
async function comeBack() {
  try {
    const again = await api.about();
    if (again.title !== about.title || again.reviewer !== about.reviewer) location.reload();
  } catch {
    // it is said when the decision is sent again
  }
}

function advance(item, decision) {
  const before = `${DONE[decision]}. `;
  if (keep && !batch) sharedLevel = item.level;
  const next = nextOpen(batch ?? items);
  if (next) {
    go(next);
    announce(next, before);
    if (batch) grid.focus(next);
  } else if (batch) {
    tell(`${before}The grid is done.`);
    newBatch();
  } else {
    current = null;
    tell(before);
    render();
  }
  fetchMore();
  remindOfBreak();
}

async function undo() {
  if (sending) return;
  let answer;
  sending = true;
  try {
    answer = await api.undo();
  } catch (problem) {
    showAlert(`It is not certain that your decision was taken back: ${problem.message}.`, "info");
    if (problem.status === 401 || problem.status === 403) await comeBack();
    sending = false;
    fetchMore();
    return;
  }
  sending = false;
  changes += 1;
  showProgress(answer.progress);
  if (!answer.row) return tell("There is no decision of yours to take back.");
  let item = items.find((each) => each.number === answer.row.row);
  if (item) item.reopen();
  else {
    item = new Item(answer.row);
    items.unshift(item);
  }
  if (batch && !batch.includes(item)) batch = [item, ...batch];
  go(item);
  announce(item, "Taken back. ");
  if (batch) grid.focus(item);
}

// ---- the grid ----

async function toggleGrid(on = batch === null) {
  if (sending) return;
  hold(0);
  if (on) {
    await fetching;
    batch = []; // so many are asked for as a grid takes; it is filled when they are there
    await fetchMore();
    if (batch?.length === 0) newBatch();
  } else {
    batch = null;
    if (!current || !isOpen(current)) current = openItems()[0] ?? null;
    render();
    if (current) go(current);
    by("stage").focus({ preventScroll: true });
  }
}

function newBatch() {
  const open = openItems();
  const from = current && isOpen(current) ? open.indexOf(current) : 0;
  const chosen = open.slice(from, from + GRID);
  batch = [...open.slice(Math.max(0, from - (GRID - chosen.length)), from), ...chosen];
  for (const item of batch) item.level = 0;
  gridLevel = 0;
  current = null;
  render();
  if (batch.length) {
    go(batch.find((item) => item === open[from]) ?? batch[0]);
    grid.focus(current);
  }
}

function restOfBatch() {
  return (batch ?? []).filter((item) => item.state === "open" && item.wasShown && !item.problem);
}

function askForRest() {
  if (!batch) return tell("This is for the grid.");
  const rest = restOfBatch();
  if (!rest.length) return tell("There is nothing left to approve in the grid.");
  const blurred = rest.filter((item) => item.most === 0).length;
  by("confirm-text").textContent =
    `${rest.length} ${rest.length === 1 ? "image is" : "images are"} approved, each with a line of its own.` +
    (blurred ? ` You have seen ${blurred} of them blurred only.` : "");
  by("confirm").showModal();
}

async function approveRest() {
  by("confirm").close();
  countTime();
  const rest = restOfBatch();
  const shared = current ? current.seconds / Math.max(rest.length, 1) : 0;
  for (const item of rest) {
    if (item.seconds === 0) item.seconds = shared;
    if (!(await send(item, "approve"))) return;
  }
  tell(`${rest.length} approved.`);
  if (!batch.some(isOpen)) newBatch();
  else go(batch.find(isOpen));
  fetchMore();
  remindOfBreak();
}

// ---- what is shown ----

function render() {
  const nothing = !current && !openItems().length && progress !== null;
  by("finished").hidden = !nothing;
  by("single").hidden = batch !== null || nothing;
  by("grid-view").hidden = batch === null || nothing;
  by("panel").hidden = nothing;
  by("mode").textContent = batch ? "One image" : "Grid";
  by("mode").setAttribute("aria-pressed", String(batch !== null));
  if (nothing) {
    const others = progress.total - progress.decided;
    by("finished-text").textContent = others
      ? `${others} of ${progress.total} images are with other reviewers, or wait for a second person.`
      : `All ${progress.total} images are decided.`;
  }
  stage.show(batch ? null : current);
  stage.apply();
  by("path").textContent = current?.row.path ?? "";
  details?.show(current);
  if (document.activeElement !== by("note")) by("note").value = current?.note ?? "";
  renderState();
  renderTiles();
}

function renderState() {
  const item = current;
  by("state").textContent = !item
    ? ""
    : item.state === "decided"
      ? `Your decision: ${stateText(item)}.`
      : item.state === "lost"
        ? `Not recorded: ${item.lostWhy}.`
        : item.row.second
          ? "Second look: somebody else has judged this image, too."
          : "";
  by("state").dataset.state = item?.state ?? "";
  for (const button of document.querySelectorAll("#decide button")) {
    const judged = button.dataset.decision !== "unsure";
    const refused = !item || !isOpen(item) || (judged && item.problem !== null);
    button.setAttribute("aria-disabled", String(refused));
    button.dataset.chosen = String(item?.state === "decided" && item.decision === button.dataset.decision);
  }
}

function renderTiles() {
  if (batch) {
    grid.show(batch, current, (item) => Math.max(item.level, item === current ? heldLevel : 0));
    for (const item of batch) {
      const seen = () => {
        item.wasShown = true;
        item.most = Math.max(item.most, item.level, item === current ? heldLevel : 0);
      };
      if (grid.isLoaded(item)) seen();
      else grid.onLoad(item, seen);
    }
    by("grid-level").textContent = `All: ${LEVEL_TEXT[gridLevel]}`;
    by("grid-left").textContent = `${batch.filter(isOpen).length} of ${batch.length} left here`;
    return;
  }
  const place = Math.max(0, items.indexOf(current));
  strip.show(items.slice(Math.max(0, place - 4), place + 8), current);
}

function hold(level) {
  heldLevel = level;
  if (batch) renderTiles();
  else stage.hold(level);
}

function reveal(level) {
  if (batch) {
    gridLevel = level;
    for (const item of batch) item.level = level;
    renderTiles();
    return tell(`All images ${LEVEL_TEXT[level]}`);
  }
  if (!current) return;
  current.level = level;
  sharedLevel = level;
  if (!current.problem && current.frames && !by("frame").querySelector("img")) stage.show(current);
  stage.apply();
  tell(`Shown ${LEVEL_TEXT[level]}`);
}

function showProgress(now) {
  progress = now;
  by("bar").max = Math.max(now.total, 1);
  by("bar").value = now.decided;
  by("counts").textContent =
    `${now.decided} of ${now.total} decided · ${now.mine} by you (${about.reviewer}) · ${now.severe} severe seen`;
  breaks.severe(now.severe);
  by("agreement").textContent = agreementText(now.agreement);
  by("agreement").hidden = !now.agreement;
}

// How far two reviewers agree on the images that both have judged.
function agreementText(agreement) {
  if (!agreement) return "";
  const { count, alike, kappa, low, high } = agreement;
  const bounds = low === null ? "" : ` (${low.toFixed(2)} to ${high.toFixed(2)})`;
  const beyond = kappa === null ? "not defined: all answers are the same" : `${kappa.toFixed(2)}${bounds}`;
  const looks = count === 1 ? "1 second look" : `${count} second looks`;
  return `${looks}: ${Math.round(alike * 100)} % decided alike · Cohen's kappa ${beyond}`;
}

// ---- problems and breaks ----

let alertKind = "";

function showAlert(text, kind, close = "Dismiss") {
  alertKind = kind;
  by("alert-text").textContent = text;
  by("alert").dataset.kind = kind;
  by("alert").hidden = false;
  by("alert-retry").hidden = kind === "info" || kind === "hint";
  by("alert-close").textContent = close;
  by("alert-close").hidden = kind === "fetch";
}

function problemBanner(problem, retry) {
  const why = problem.status === 401 ? ANOTHER : `${problem.message}.`;
  retryFetch = retry;
  showAlert(`The queue cannot be read: ${why}`, "fetch");
  if (problem.status === 401 || problem.status === 403) comeBack();
}

let retryFetch = fetchMore;

function clearProblem(kind = "") {
  if (!kind) waiting = null;
  if (!by("alert").hidden && (kind ? alertKind === kind : alertKind === "error")) by("alert").hidden = true;
}

// Add the time since the last call to the current image, unless the page was hidden.
function countTime() {
  const now = Date.now();
  const gap = (now - touched) / 1000;
  touched = now;
  if (current && isOpen(current) && !wasHidden) current.seconds += Math.min(gap, 300);
  wasHidden = document.hidden;
}

function remindOfBreak() {
  const why = breaks.due();
  if (!why) return;
  hold(0);
  by("break-text").textContent = why;
  by("break").showModal();
}

// ---- keys and buttons ----

function focusImage() {
  if (batch) grid.focus(current);
  else by("stage").focus({ preventScroll: true });
}

const ACTIONS = {
  approve: () => decide("approve"),
  block: () => decide("block"),
  unsure: () => decide("unsure"),
  label: (event) => {
    const name = details.names[Number(event.key) - 1];
    if (current && name) setLabel(name, details.nextLabel(current, name));
  },
  note: () => by("note").focus(),
  leave: () => focusImage(),
  undo: () => undo(),
  next: () => move(1),
  previous: () => move(-1),
  up: () => batch && move(-grid.columns),
  down: () => batch && move(grid.columns),
  hold: (event) => hold(event.shiftKey ? 2 : 1),
  reveal: () => reveal(((batch ? gridLevel : (current?.level ?? 0)) + 1) % LEVELS.length),
  zoom: () => stage.zoom(),
  pan: (event) => stage.pan(event.key),
  frameBack: () => tell(stage.step(-1)),
  frameOn: () => tell(stage.step(1)),
  boxes: () => tell(stage.boxes() ? "Boxes shown" : "Boxes hidden"),
  grid: () => toggleGrid(),
  rest: () => askForRest(),
  open: () => batch && current && toggleGrid(false),
  legend: () => by("legend").showModal(),
};
const LEFT_TO_THE_BROWSER = new Set(["up", "down", "open"]); // where there is no grid

function act(action, event) {
  breaks.active();
  if (!(LEFT_TO_THE_BROWSER.has(action) && !batch)) event.preventDefault();
  ACTIONS[action](event);
}

function letGo(key) {
  if (heldLevel && key === " ") hold(0);
  else if (heldLevel === 2 && key === "Shift") hold(1);
}

function setLabel(name, value) {
  if (!current || current.state !== "open") return;
  if (value === undefined) delete current.labels[name];
  else current.labels[name] = value;
  details.labels(current);
  tell(details.labelText(name, value));
}

// A click leaves the focus on the image, so that Space and Enter do not repeat the button.
function onClick(id, then) {
  by(id).addEventListener("click", (event) => {
    breaks.active();
    then(event);
    if (event.detail > 0 && !document.querySelector("dialog[open]")) focusImage();
  });
}

function holdWhilePressed(element) {
  element.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    hold(event.shiftKey ? 2 : 1);
  });
  for (const name of ["pointerup", "pointercancel", "pointerleave"]) {
    element.addEventListener(name, () => heldLevel && hold(0));
  }
  element.addEventListener("contextmenu", (event) => event.preventDefault());
}

function wire() {
  for (const button of document.querySelectorAll("#decide button")) {
    button.id ||= `decide-${button.dataset.decision}`;
    onClick(button.id, () => decide(button.dataset.decision));
  }
  onClick("previous", () => move(-1));
  onClick("next", () => move(1));
  onClick("undo", undo);
  onClick("zoom", () => stage.zoom());
  onClick("boxes", () => stage.boxes());
  onClick("frame-back", () => tell(stage.step(-1)));
  onClick("frame-on", () => tell(stage.step(1)));
  onClick("mode", () => toggleGrid());
  onClick("grid-level", () => reveal((gridLevel + 1) % LEVELS.length));
  onClick("rest", askForRest);
  onClick("look-again", fetchMore);
  onClick("again", () => current && loadItem(current, true));
  onClick("alert-retry", () => (waiting ? waiting.wake() : retryFetch()));
  onClick("alert-close", () => {
    waiting?.drop();
    by("alert").hidden = true;
  });
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    focusImage();
  });
  onClick("open-legend", () => by("legend").showModal());
  onClick("open-invite", () => by("invite").showModal());
  onClick("confirm-yes", approveRest);
  for (const button of document.querySelectorAll("dialog .close")) {
    button.addEventListener("click", () => button.closest("dialog").close());
  }
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("close", focusImage);
  }
  by("break").addEventListener("close", () => breaks.rested());
  by("hold").addEventListener("keydown", (event) => {
    if (event.key === " " || event.key === "Enter") hold(event.shiftKey ? 2 : 1);
  });
  by("hold").addEventListener("keyup", () => hold(0));
  by("hold").addEventListener("blur", () => heldLevel && hold(0));
  holdWhilePressed(by("hold"));
  holdWhilePressed(by("frame"));
  for (const radio of document.querySelectorAll("#levels input")) {
    radio.addEventListener("change", () => reveal(Number(radio.value)));
  }
  by("keep").addEventListener("change", () => {
    keep = by("keep").checked;
    sharedLevel = current?.level ?? 0;
  });
  by("note").addEventListener("input", () => {
    if (current && current.state === "open") current.note = by("note").value;
  });
  const minutes = by("break-after");
  minutes.value = localStorage.getItem("break-after") ?? minutes.value;
  if (!minutes.value) minutes.value = "30";
  breaks.minutes = Number(minutes.value);
  minutes.addEventListener("change", () => {
    breaks.minutes = Number(minutes.value);
    localStorage.setItem("break-after", minutes.value);
  });
  by("invite-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      by("invite-link").value = (await api.invite(by("invite-name").value)).link;
    } catch (problem) {
      by("invite-link").value = `No link was made: ${problem.message}.`;
    }
  });
  by("invite").addEventListener("close", () => (by("invite-link").value = ""));
  document.addEventListener("visibilitychange", countTime);
  window.addEventListener("beforeunload", (event) => {
    if (sending || waiting || items.some((item) => item.hasDraft)) event.preventDefault();
  });
  listen(act, letGo, () => by("single-keys").checked);
  setInterval(() => {
    if (!sending) fetchMore();
  }, RENEW_SECONDS * 1000);
  setInterval(() => {
    if (!sending && !current && !batch?.length) fetchMore();
  }, RETRY_SECONDS * 5000);
}

async function start() {
  try {
    about = await api.about();
  } catch (problem) {
    showAlert(`The review cannot begin: ${problem.message}.`, "fetch");
    by("alert-retry").addEventListener("click", start, { once: true });
    return;
  }
  by("alert").hidden = true;
  document.title = `${about.title} · review`;
  by("title").textContent = about.title;
  by("note").maxLength = about.most_note;
  showProgress(about.progress);
  details = new Details(about.categories, setLabel);
  fillLegend(by("keys"));
  wire();
  await fetchMore();
  focusImage();
}

start();
