// Building and updating the page. Text goes in as text nodes only: nothing here parses HTML, and the page's
// Content-Security-Policy (Trusted Types) would refuse it.

/** Makes an element. Attributes: `class`, `text`, `data` (an object), `onX` (a listener), else set as they are. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "text") node.textContent = value;
    else if (name === "data") Object.assign(node.dataset, value);
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** Makes an icon out of the page's symbols. */
export function icon(name) {
  const make = (tag) => document.createElementNS("http://www.w3.org/2000/svg", tag);
  const svg = make("svg");
  const use = make("use");
  use.setAttribute("href", `#i-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

/** Changes a text only if it differs, so that a selection in it survives. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * Makes `parent`'s children those of `items`, in their order. A node is kept as long as its key is there, so that
 * focus, open details and half-edited fields survive every update.
 */
export function keyed(parent, items, key, create, update) {
  const old = new Map([...parent.children].map((node) => [node.__key, node]));
  let at = parent.firstElementChild;
  for (const item of items) {
    const id = key(item);
    let node = old.get(id);
    if (node) old.delete(id);
    else {
      node = create(item);
      node.__key = id;
    }
    if (node === at) at = at.nextElementSibling;
    else parent.insertBefore(node, at);
    update?.(node, item);
  }
  for (const node of old.values()) node.remove();
}

/** Says a time of day, with the date unless it is today. */
export function clock(time) {
  const date = new Date(time);
  const today = date.toDateString() === new Date().toDateString();
  /** @type {Intl.DateTimeFormatOptions} */
  const hours = { hour: "2-digit", minute: "2-digit" };
  return date.toLocaleString([], today ? hours : { ...hours, month: "short", day: "numeric" });
}

/** Says how long it is until a time: `59:12`. */
export function left(until) {
  const seconds = Math.max(0, Math.round((new Date(until).getTime() - Date.now()) / 1000));
  const pad = (number) => String(number).padStart(2, "0");
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  return (hours ? `${hours}:${pad(minutes)}` : `${minutes}`) + `:${pad(seconds % 60)}`;
}
