// The part of Preact that the widget uses: the same names, types and behaviour, in a third of the bytes. The build puts
// it in Preact's place; the sources import Preact, whose types check them, and the tests compare the two.
//
// A tree of instances stands beside the document's. A new description (`VNode`) is compared with that of the instance in
// its place, and what differs is changed. The very same description is left alone.

type Props = Record<string, unknown>;
type Render = (props: Props) => unknown;
type ComponentClass = new (props: Props) => Component;
type Ref = { current: unknown } | ((value: unknown) => void) | null | undefined;

/** What is to be shown. A class, so that no value from outside passes for one. */
export class VNode {
  constructor(
    readonly type: string | Render | ComponentClass,
    readonly props: Props,
    readonly key: unknown,
  ) {}
}

/** A place in the tree: an element, a text, a component, or nothing (`null` keeps the places of its siblings). */
export interface Instance {
  shown: VNode | string | null;
  readonly parent: Instance | undefined;
  readonly depth: number;
  kids: Instance[];
  /** The node of an element or a text. */
  node?: Element | Text | undefined;
  component?: Component | undefined;
  listeners?: Record<string, (event: Event) => void>;
  /** State of a function component: one for each call of a hook. */
  hooks: Hook[];
  /** A component whose nodes have their place; those of a new one get it with their siblings. */
  isPlaced?: boolean;
  isGone?: boolean;
}

export interface Hook {
  value?: unknown;
  deps?: readonly unknown[] | undefined;
  cleanup?: (() => void) | void;
}

const SVG = "http://www.w3.org/2000/svg";
/** Properties that an element has, and that are better set as attributes. */
const ATTRIBUTES = new Set(["href", "list", "form", "tabIndex", "download", "role"]);

/** A component with methods. */
export abstract class Component {
  props: Props;
  state: Props = {};
  instance!: Instance;

  constructor(props: Props) {
    this.props = props;
  }

  setState(change: Props): void {
    this.state = { ...this.state, ...change };
    update(this.instance);
  }

  abstract render(props: Props, state: Props): unknown;
  shouldComponentUpdate?(next: Props): boolean;
  componentDidMount?(): void;
  componentDidUpdate?(): void;
  componentWillUnmount?(): void;
}

export const Fragment: Render = ({ children }) => children;

export function h(type: VNode["type"], given: Props | null, ...children: unknown[]): VNode {
  const { key, ...props } = given ?? {};
  return new VNode(type, children.length ? { ...props, children } : props, key);
}

export const createRef = () => ({ current: null });

/** A value for all components below its provider. */
export function createContext(value: unknown) {
  return { value, Provider: (({ children }) => children) as Render };
}

const roots = new WeakMap<Node, Instance>();
/** The function component that is being drawn, and how many hooks it has called. */
export const drawing = { instance: undefined as unknown as Instance, hooks: 0 };
/** Work for when the document is as it should be: what components do after a change. */
const settled: (() => void)[] = [];
/** Effects that may wait until the browser has painted. */
const effects: (() => void)[] = [];
const waiting = new Set<Instance>();

export const afterChange = (work: () => void): void => void settled.push(work);

export function afterPaint(work: () => void): void {
  if (!effects.length) setTimeout(runEffects);
  effects.push(work);
}

function runEffects(): void {
  for (let effect; (effect = effects.shift()); ) effect();
}

/** Shows a tree in an element, in the place of the one shown there before. */
export function render(vnode: VNode | null, into: Element): void {
  runEffects();
  const root = roots.get(into) ?? { shown: null, parent: undefined, depth: 0, kids: [], node: into, hooks: [] };
  roots.set(into, root);
  reconcile(root, [vnode], into);
  settle();
}

/** Draws a component again, with all others that have changed by then. */
export function update(instance: Instance): void {
  if (!waiting.size) queueMicrotask(redraw);
  waiting.add(instance);
}

function redraw(): void {
  runEffects();
  // The outer ones first: they may draw or remove the inner ones.
  const all = [...waiting].sort((a, b) => a.depth - b.depth);
  try {
    for (const instance of all) if (waiting.has(instance) && !instance.isGone) draw(instance);
  } finally {
    // Those that were removed, or that one with a fault has kept from being drawn: they wait for their next change.
    for (const instance of all) waiting.delete(instance);
  }
  settle();
}

function settle(): void {
  for (let work; (work = settled.shift()); ) work();
}

/** Draws a component and what is below it. */
function draw(instance: Instance): void {
  waiting.delete(instance);
  const { type, props } = instance.shown as VNode;
  const { component } = instance;
  Object.assign(drawing, { instance, hooks: 0 });
  const drawn = component ? component.render(props, component.state) : (type as Render)(props);
  let host = instance;
  while (!host.node) host = host.parent!;
  reconcile(instance, Array.isArray(drawn) ? drawn : [drawn], host.node as Element);
  if (component) {
    const isNew = !instance.isPlaced;
    component.instance = instance;
    afterChange(() => (isNew ? component.componentDidMount?.() : component.componentDidUpdate?.()));
  }
  instance.isPlaced = true;
}

/** Lists of children stand for themselves, so that a longer one does not move its siblings' places. */
function described(child: unknown): Instance["shown"] {
  if (Array.isArray(child)) return new VNode(Fragment, { children: child }, undefined);
  if (child instanceof VNode) return child;
  return typeof child === "string" || typeof child === "number" ? String(child) : null;
}

const typeOf = (shown: Instance["shown"]): unknown => (shown instanceof VNode ? shown.type : typeof shown);

/** Makes children what they should be. */
function reconcile(parent: Instance, children: readonly unknown[], host: Element): void {
  const nameOf = (shown: Instance["shown"], index: number) =>
    shown instanceof VNode && shown.key != null ? `key ${shown.key}` : index;
  const old = new Map(parent.kids.map((kid, index) => [nameOf(kid.shown, index), kid]));
  // Apart from the names, which two children may share by mistake.
  const left = new Set(parent.kids);
  const kids: Instance[] = [];
  for (const [index, child] of children.entries()) {
    const shown = described(child);
    const name = nameOf(shown, index);
    let kid = old.get(name);
    if (kid && typeOf(kid.shown) === typeOf(shown)) {
      old.delete(name);
      left.delete(kid);
    } else kid = { shown: null, parent, depth: parent.depth + 1, kids: [], hooks: [] };
    kids.push(kid);
    show(kid, shown, host);
  }
  for (const kid of left) remove(kid, true);
  parent.kids = kids;
  if (!parent.node && !parent.isPlaced) return;
  let next = following(parent);
  for (const kid of kids.toReversed()) {
    for (const node of nodesOf(kid).toReversed()) {
      if (node.nextSibling !== next || node.parentNode !== host) host.insertBefore(node, next);
      next = node;
    }
  }
}

/** Changes an instance from what it shows to what it should. */
function show(instance: Instance, shown: Instance["shown"], host: Element): void {
  const before = instance.shown;
  if (before === shown) return;
  instance.shown = shown;
  if (typeof shown === "string") {
    if (instance.node) (instance.node as Text).data = shown;
    else instance.node = document.createTextNode(shown);
  } else if (shown) {
    const { type, props } = shown;
    const old = (before as VNode | null)?.props ?? {};
    if (typeof type === "string") {
      const isSvg = type === "svg" || host.namespaceURI === SVG;
      const element = (instance.node ??= isSvg ? document.createElementNS(SVG, type) : document.createElement(type)) as Element;
      const children = props["children"] ?? [];
      reconcile(instance, Array.isArray(children) ? children : [children], element);
      for (const name in { ...old, ...props }) if (old[name] !== props[name]) set(instance, element, name, props[name], old[name]);
    } else {
      let { component } = instance;
      if (!before && type.prototype instanceof Component) component = instance.component = new (type as ComponentClass)(props);
      const isSame = before && component?.shouldComponentUpdate?.(props) === false;
      if (component) component.props = props;
      if (!isSame) draw(instance);
    }
  }
}

function set(instance: Instance, element: Element, name: string, value: any, old: unknown): void {
  const target = element as unknown as Record<string, unknown>;
  if (name === "children") return;
  if (name === "ref") {
    assign(old as Ref, null);
    assign(value, element);
  } else if (name.startsWith("on")) {
    const type = name.slice(2).toLowerCase();
    instance.listeners ??= {};
    if (!Object.hasOwn(instance.listeners, type)) {
      element.addEventListener(type, (event) => instance.listeners![type]?.(event));
    }
    instance.listeners[type] = value;
  } else if (name === "style") Object.assign((element as HTMLElement).style, value);
  else if (name === "value") {
    // Setting it would move the caret.
    if (target[name] !== value) target[name] = value;
  } else if (name in target && !ATTRIBUTES.has(name) && element.namespaceURI !== SVG) target[name] = value ?? "";
  else if (value == null || (value === false && name[4] !== "-")) element.removeAttribute(name);
  else element.setAttribute(name, value);
}

function assign(ref: Ref, value: unknown): void {
  if (typeof ref === "function") ref(value);
  else if (ref) ref.current = value;
}

/** Ends an instance and what is below it, then takes its nodes out of the document. */
function remove(instance: Instance, isTop: boolean): void {
  instance.isGone = true;
  for (const { cleanup } of instance.hooks) cleanup?.();
  instance.component?.componentWillUnmount?.();
  const { shown } = instance;
  if (shown instanceof VNode && instance.node) assign(shown.props["ref"] as Ref, null);
  const nodes = isTop ? nodesOf(instance) : [];
  for (const kid of instance.kids) remove(kid, false);
  for (const node of nodes) node.remove();
}

function nodesOf(instance: Instance): (Element | Text)[] {
  return instance.node ? [instance.node] : instance.kids.flatMap(nodesOf);
}

/** The node before which a component's own nodes stand. */
function following(instance: Instance): Node | null {
  for (let at = instance; !at.node; at = at.parent!) {
    const { kids } = at.parent!;
    for (const kid of kids.slice(kids.indexOf(at) + 1 || kids.length)) {
      const [first] = nodesOf(kid);
      if (first) return first;
    }
  }
  return null;
}
