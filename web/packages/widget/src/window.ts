// Which rows of a list are near what a reader sees. Pure: heights in, ranges out.

/** Positions of the rows' upper edges, and behind them the whole height. */
export function offsetsOf(keys: readonly string[], heightOf: (key: string) => number): Float64Array {
  const offsets = new Float64Array(keys.length + 1);
  for (let at = 0; at < keys.length; at++) offsets[at + 1] = offsets[at]! + heightOf(keys[at]!);
  return offsets;
}

/** The last row whose upper edge is at or above a position. */
export function rowAt(offsets: Float64Array, position: number): number {
  let [low, high] = [0, Math.max(0, offsets.length - 2)];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (offsets[middle]! <= position) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** The rows between two positions and a margin around them: first, and behind the last. */
export function rangeOf(offsets: Float64Array, top: number, bottom: number, margin: number): readonly [number, number] {
  const count = offsets.length - 1;
  if (count === 0) return [0, 0];
  return [rowAt(offsets, top - margin), Math.min(count, rowAt(offsets, bottom + margin) + 1)];
}

/** A stretch of rows to draw, or the height of those left out. */
export type Stretch = { readonly row: number } | { readonly gap: number; readonly before: number };

/** Draws a range, and a row elsewhere that must not go away because it has the focus. */
export function stretchesOf(offsets: Float64Array, [first, end]: readonly [number, number], pinned: number): Stretch[] {
  const stretches: Stretch[] = [];
  let done = 0;
  const draw = (from: number, to: number) => {
    if (from > done) stretches.push({ gap: offsets[from]! - offsets[done]!, before: from });
    for (let row = from; row < to; row++) stretches.push({ row });
    done = Math.max(done, to);
  };
  const count = offsets.length - 1;
  const isApart = pinned >= 0 && pinned < count && (pinned < first || pinned >= end);
  if (isApart && pinned < first) draw(pinned, pinned + 1);
  draw(first, end);
  if (isApart && pinned >= end) draw(pinned, pinned + 1);
  draw(count, count);
  return stretches;
}
