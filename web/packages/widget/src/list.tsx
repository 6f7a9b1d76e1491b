// The list of rows: only those near the viewport are in the document. It stays at its end while the reader is there;
// elsewhere it holds still what the reader looks at, whatever changes above.

import { Component, createRef, type VNode } from "preact";

import { offsetsOf, rangeOf, rowAt, stretchesOf } from "./window.js";

interface Props {
  keys: readonly string[];
  render: (index: number) => VNode;
  label: string;
  /** Where the list puts itself; Preact gives `ref` to elements only. */
  handle: { current: List | null };
  /** Called when the first rows come into view. */
  onTop: () => void;
  /** Called when the reader comes to the end or leaves it. */
  onEnd: (isAtEnd: boolean) => void;
}

/** Rows beyond the viewport that are drawn, in pixels. */
const MARGIN = 600;
/** Height of a row that was never drawn, in pixels. */
const GUESS = 90;
/** So close to the end is at the end, in pixels. */
const CLOSE = 48;

export class List extends Component<Props, { tick: number }> {
  readonly #box = createRef<HTMLDivElement>();
  readonly #heights = new Map<string, number>();
  readonly #rows = new Map<string, HTMLElement>();
  readonly #refs = new Map<string, (element: HTMLElement | null) => void>();
  #observer: ResizeObserver | undefined;
  #isAtEnd = true;
  /** The row at the upper edge, and how much of it is above. */
  #anchor: { key: string; above: number } | null = null;
  #top = 0;
  #viewport = 800;
  #pinned: string | null = null;
  #frame = 0;

  override state = { tick: 0 };

  override componentDidMount(): void {
    this.props.handle.current = this;
    // Before the first frame is painted, and then whenever a row or the list changes its size.
    this.#observer = new ResizeObserver(() => this.#settle());
    this.#observer.observe(this.#box.current!);
    for (const element of this.#rows.values()) this.#observer.observe(element);
    this.#settle();
  }

  override componentDidUpdate(): void {
    this.#settle();
  }

  override componentWillUnmount(): void {
    if (this.props.handle.current === this) this.props.handle.current = null;
    this.#observer?.disconnect();
    cancelAnimationFrame(this.#frame);
  }

  toEnd(): void {
    this.#setAtEnd(true);
    this.#anchor = null;
    this.setState({ tick: this.state.tick + 1 });
  }

  /** Measures what is drawn, and puts the scroll position where it belongs. */
  #settle(): void {
    const box = this.#box.current;
    if (!box || !box.clientHeight) return;
    let isChanged = Math.abs(box.clientHeight - this.#viewport) > 1;
    this.#viewport = box.clientHeight;
    for (const [key, element] of this.#rows) {
      const height = element.offsetHeight;
      if (this.#heights.get(key) === height) continue;
      this.#heights.set(key, height);
      isChanged = true;
    }
    const wanted = this.#isAtEnd ? box.scrollHeight - box.clientHeight : this.#anchored();
    if (wanted !== null && Math.abs(box.scrollTop - wanted) >= 1) box.scrollTop = wanted;
    this.#top = box.scrollTop;
    if (isChanged && this.#range().join() !== this.#drawn) this.setState({ tick: this.state.tick + 1 });
    if (this.#range()[0] < 3 && !this.#isHeld()) this.props.onTop();
  }

  /** At the end, the first rows matter only if everything fits into the viewport. */
  #isHeld(): boolean {
    return this.#isAtEnd && this.#offsets().at(-1)! > this.#viewport;
  }

  #anchored(): number | null {
    const element = this.#anchor && this.#rows.get(this.#anchor.key);
    return element ? element.offsetTop + this.#anchor!.above : null;
  }

  #offsets(): Float64Array {
    return offsetsOf(this.props.keys, (key) => this.#heights.get(key) ?? GUESS);
  }

  #range(offsets = this.#offsets()): readonly [number, number] {
    const whole = offsets.at(-1)!;
    let top = this.#top;
    if (this.#isAtEnd) top = Math.max(0, whole - this.#viewport);
    else if (this.#anchor) {
      const at = this.props.keys.indexOf(this.#anchor.key);
      if (at >= 0) top = offsets[at]! + this.#anchor.above;
    }
    return rangeOf(offsets, top, top + this.#viewport, MARGIN);
  }

  #drawn = "";

  readonly #onScroll = (): void => {
    const box = this.#box.current!;
    const distance = box.scrollHeight - box.clientHeight - box.scrollTop;
    const isUp = box.scrollTop < this.#top - 1;
    this.#top = box.scrollTop;
    // What grew since the last frame does not take a reader away from the end; only scrolling up does.
    if (distance <= CLOSE) this.#setAtEnd(true);
    else if (isUp) this.#setAtEnd(false);
    this.#anchor = null;
    if (!this.#isAtEnd) {
      const drawn = [...this.#rows].sort(([, a], [, b]) => a.offsetTop - b.offsetTop);
      const first = drawn.find(([, element]) => element.offsetTop + element.offsetHeight > box.scrollTop);
      if (first) this.#anchor = { key: first[0], above: box.scrollTop - first[1].offsetTop };
      else {
        const offsets = this.#offsets();
        const at = rowAt(offsets, box.scrollTop);
        const key = this.props.keys[at];
        if (key !== undefined) this.#anchor = { key, above: box.scrollTop - offsets[at]! };
      }
    }
    if (this.#range().join() !== this.#drawn) this.setState({ tick: this.state.tick + 1 });
    else if (this.#range()[0] < 3 && !this.#isHeld()) this.props.onTop();
  };

  #setAtEnd(isAtEnd: boolean): void {
    if (isAtEnd === this.#isAtEnd) return;
    this.#isAtEnd = isAtEnd;
    this.props.onEnd(isAtEnd);
  }

  /** The same function for a row each time, so that its element is not taken out and put in again. */
  #refOf(key: string): (element: HTMLElement | null) => void {
    let ref = this.#refs.get(key);
    if (!ref) {
      let known: HTMLElement | null = null;
      ref = (element) => {
        if (known) this.#observer?.unobserve(known);
        known = element;
        if (element) {
          this.#rows.set(key, element);
          this.#observer?.observe(element);
        } else {
          this.#rows.delete(key);
          this.#refs.delete(key);
        }
      };
      this.#refs.set(key, ref);
    }
    return ref;
  }

  override render({ keys, render, label }: Props) {
    const offsets = this.#offsets();
    const range = this.#range(offsets);
    this.#drawn = range.join();
    const pinned = this.#pinned === null ? -1 : keys.indexOf(this.#pinned);
    return (
      <div
        class="list"
        role="log"
        aria-live="off"
        aria-label={label}
        tabIndex={0}
        ref={this.#box}
        onScroll={this.#onScroll}
        onFocusIn={(event) => (this.#pinned = this.#keyOf(event.target as Node))}
        onFocusOut={() => (this.#pinned = null)}
      >
        {stretchesOf(offsets, range, pinned).map((stretch) => {
          if ("gap" in stretch) return <Gap key={`gap:${stretch.before === keys.length ? "end" : stretch.before}`} height={stretch.gap} />;
          const key = keys[stretch.row]!;
          return (
            <div class="row" key={key} data-row={key} ref={this.#refOf(key)}>
              {render(stretch.row)}
            </div>
          );
        })}
      </div>
    );
  }

  #keyOf(node: Node): string | null {
    for (const [key, element] of this.#rows) if (element.contains(node)) return key;
    return null;
  }
}

const Gap = ({ height }: { height: number }) => <div style={{ height: `${height}px` }} aria-hidden="true" />;
