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
