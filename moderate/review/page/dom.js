// Elements by their id, and new ones. Text is only ever put in as text.

export const by = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") element.className = value;
    else if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

export function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

let turn = 0;

// Read out by screen readers. Two equal texts in a row are both read.
export function tell(text) {
  turn = 1 - turn;
  by("live").textContent = text + (turn ? "\u00a0" : "");
}

export const baseName = (path) => path.slice(path.lastIndexOf("/") + 1) || path;

export const words = (name) => name.replaceAll("_", " ");
