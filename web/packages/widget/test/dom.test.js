// What stands in Preact's place shows what Preact shows: random trees, one after the other, drawn by both.

import assert from "node:assert/strict";
import test from "node:test";

import fc from "fast-check";
import * as preact from "preact";
import * as preactHooks from "preact/hooks";

import * as hooks from "../dist/dom/hooks.js";
import * as tree from "../dist/dom/tree.js";
import { document } from "./document.js";

Object.assign(globalThis, { document });

const LIBRARIES = [{ ...preact, ...preactHooks }, { ...tree, ...hooks }];
const tick = () => new Promise((resolve) => setTimeout(resolve, 0));

/** Draws a plan of a tree with a library. Components note what happens to them. */
function draw(library, log) {
  const { h, Component, useState, useEffect, useLayoutEffect, useMemo, useRef } = library;
  function Counter({ name, children }) {
    const [count, set] = useState(0);
    const renders = useRef(0);
    renders.current++;
    const doubled = useMemo(() => count * 2, [count]);
    useLayoutEffect(() => {
      log.push(`layout ${name}`);
      return () => log.push(`layout end ${name}`);
    }, [name]);
    useEffect(() => {
      log.push(`effect ${name}`);
      return () => log.push(`effect end ${name}`);
    }, [name]);
    return h("button", { onClick: () => set((value) => value + 1), title: name }, `${count} ${doubled}`, children);
  }
  class Keeper extends Component {
    state = { ticks: 0 };
    componentDidMount() {
      log.push(`mount ${this.props.name}`);
    }
    componentDidUpdate() {
      log.push(`update ${this.props.name}`);
    }
    componentWillUnmount() {
      log.push(`unmount ${this.props.name}`);
    }
    shouldComponentUpdate(next, state) {
      return !this.props.isLazy || next.name !== this.props.name || (state ?? this.state) !== this.state;
    }
    render({ name, children }, { ticks }) {
      return [`${name}:${ticks}`, children];
    }
  }
  const TYPES = { Counter, Keeper, Empty: () => null, List: ({ children }) => children };
  const build = (plan) => {
    if (Array.isArray(plan)) return plan.map(build);
    if (plan === null || typeof plan !== "object") return plan;
    const { type, props, children } = plan;
    return h(TYPES[type] ?? type, { ...props }, ...children.map(build));
  };
  return build;
}

const key = fc.constantFrom("a", "b", "c", "d", 0, 1);
const text = fc.constantFrom(null, undefined, false, true, "", "text", "more", 7);
/** No two of one key beside each other. */
const unique = (nodes) => [...new Map(nodes.map((node) => [String(node.props.key), node])).values()];
const { node } = fc.letrec((tie) => ({
  node: fc.record(
    {
      type: fc.constantFrom("div", "p", "svg", "Counter", "Keeper", "Empty", "List"),
      props: fc.record(
        {
          key,
          name: fc.constantFrom("x", "y"),
          isLazy: fc.boolean(),
          "aria-busy": fc.constantFrom(true, false, undefined, "mixed"),
          "data-n": fc.constantFrom(1, undefined),
        },
        { requiredKeys: ["key", "name"] },
      ),
      // As JSX has it: each place has always the same kind of child. Preact looks for one without a key elsewhere, too.
      children: fc.oneof(
        { maxDepth: 3 },
        fc.constant([]),
        fc.tuple(text, fc.array(tie("node"), { maxLength: 5 }).map(unique), fc.option(tie("node")), text),
      ),
    },
  ),
}));

function* clickable(element) {
  if (element.listeners?.has("click")) yield element;
  for (const child of element.childNodes ?? []) yield* clickable(child);
}

test("random trees are shown as Preact shows them, with the state of their components", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.tuple(node, fc.nat()), { minLength: 1, maxLength: 6 }), async (plans) => {
      const shown = [];
      for (const library of LIBRARIES) {
        const log = [];
        const build = draw(library, log);
        const root = document.createElement("main");
        const pages = [];
        for (const [plan, click] of plans) {
          library.render(build(plan), root);
          pages.push(String(root));
          const buttons = [...clickable(root)];
          buttons[click % buttons.length]?.dispatch("click");
          await tick();
          pages.push(String(root));
        }
        library.render(null, root);
        await tick();
        await tick();
        assert.equal(String(root), "<main></main>");
        shown.push({ pages, log: log.filter((line) => !line.startsWith("effect")).sort() });
      }
      assert.deepEqual(shown[1], shown[0]);
    }),
    { numRuns: 100 },
  );
});

test("children that share a key by mistake are all shown, and all go", () => {
  const { h, render } = tree;
  const root = document.createElement("main");
  const list = (...keys) => h("ul", null, keys.map((key) => h("li", { key }, key)));
  for (const keys of [["a", "a", "b"], ["b", "a"], ["a", "a", "a"], ["b"]]) {
    render(list(...keys), root);
    assert.equal(String(root), `<main><ul>${keys.map((key) => `<li>${key}</li>`).join("")}</ul></main>`);
  }
});

test("a component that fails keeps no other from being drawn later", async (t) => {
  const { h, render } = tree;
  const root = document.createElement("main");
  const set = {};
  const Fragile = ({ name }) => {
    const [value, change] = hooks.useState("well");
    set[name] = change;
    if (value === "broken") throw new Error("broken");
    return h("p", null, value);
  };
  render(h("div", null, h(Fragile, { name: "one" }), h(Fragile, { name: "two" })), root);
  const { queueMicrotask } = globalThis;
  const errors = [];
  globalThis.queueMicrotask = (work) =>
    queueMicrotask(() => {
      try {
        work();
      } catch (error) {
        errors.push(error.message);
      }
    });
  t.after(() => Object.assign(globalThis, { queueMicrotask }));
  set.one("broken");
  await tick();
  assert.deepEqual(errors, ["broken"]);
  set.two("better");
  await tick();
  assert.match(String(root), /<p>better<\/p>/);
});

test("what passes for an element must be one", () => {
  const root = document.createElement("main");
  const given = JSON.parse('{"type":"script","props":{"src":"https://evil.example"},"key":null}');
  tree.render(tree.h("p", null, given, "text"), root);
  assert.equal(String(root), "<main><p>text</p></main>");
});

test("nodes that stay are not moved: a moved one would lose the focus", () => {
  const { h, render } = tree;
  const root = document.createElement("main");
  const Late = ({ isThere }) => isThere && h("i", null);
  const page = (isThere, rows) =>
    h("div", null, h("a", null), h(Late, { isThere }), isThere && h("b", null), rows.map((key) => h("p", { key })), h("u", null));
  for (const [isThere, rows] of [[false, ["x"]], [true, ["w", "x", "y"]], [false, ["x", "y"]], [true, ["y", "z"]]]) {
    render(page(isThere, rows), root);
    assert.equal(root.firstChild.moves, 0);
  }
});
