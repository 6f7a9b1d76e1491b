// As much of a document as Preact and `src/dom` need.

const HTML = "http://www.w3.org/1999/xhtml";

class Node {
  parentNode = null;

  get nextSibling() {
    const siblings = this.parentNode?.childNodes ?? [];
    return siblings[siblings.indexOf(this) + 1] ?? null;
  }

  remove() {
    this.parentNode?.removeChild(this);
  }
}

export class Text extends Node {
  nodeType = 3;

  constructor(data) {
    super();
    this.data = data;
  }

  toString() {
    return String(this.data).replaceAll("<", "&lt;");
  }
}

export class Element extends Node {
  nodeType = 1;
  childNodes = [];
  attributes = new Map();
  listeners = new Map();
  style = {};
  /** How often a node that was here already was put elsewhere. */
  moves = 0;

  constructor(namespaceURI, localName) {
    super();
    Object.assign(this, { namespaceURI, localName });
  }

  get firstChild() {
    return this.childNodes[0] ?? null;
  }

  insertBefore(node, before) {
    if (before && before.parentNode !== this) throw new Error("the node before which to insert is not here");
    if (node.parentNode === this) this.moves++;
    node.remove();
    this.childNodes.splice(before ? this.childNodes.indexOf(before) : this.childNodes.length, 0, node);
    node.parentNode = this;
    return node;
  }

  removeChild(node) {
    const at = this.childNodes.indexOf(node);
    if (at < 0) throw new Error("the node is not here");
    this.childNodes.splice(at, 1);
    node.parentNode = null;
  }

  setAttribute(name, value) {
    this.attributes.set(name, String(value));
  }

  removeAttribute(name) {
    this.attributes.delete(name);
  }

  addEventListener(type, listener) {
    this.listeners.set(type, listener);
  }

  dispatch(type) {
    this.listeners.get(type)?.call(this, { type });
  }

  toString() {
    const attributes = [...this.attributes].sort().map(([name, value]) => ` ${name}=${JSON.stringify(value)}`);
    return `<${this.localName}${attributes.join("")}>${this.childNodes.join("")}</${this.localName}>`;
  }
}

export const document = {
  createElement: (name) => new Element(HTML, name),
  createElementNS: (namespace, name) => new Element(namespace, name),
  createTextNode: (data) => new Text(data),
};
