import assert from "node:assert/strict";
import test from "node:test";

import fc from "fast-check";

import { offsetsOf, rangeOf, rowAt, stretchesOf } from "../dist/window.js";

const heights = fc.array(fc.integer({ min: 0, max: 500 }), { maxLength: 60 });
const layout = (list) => offsetsOf(list.map((_, at) => String(at)), (key) => list[Number(key)]);

test("the row at a position", () => {
  const offsets = layout([10, 20, 30]);
  for (const [position, row] of [[-5, 0], [0, 0], [9, 0], [10, 1], [29, 1], [30, 2], [60, 2], [999, 2]]) {
    assert.equal(rowAt(offsets, position), row, String(position));
  }
});

test("every row that can be seen is drawn, and the whole height stays the same", () => {
  fc.assert(
    fc.property(heights, fc.integer({ min: 0, max: 9000 }), fc.nat(900), fc.nat(600), fc.integer({ min: -1, max: 60 }), (list, top, view, margin, pinned) => {
      const offsets = layout(list);
      const range = rangeOf(offsets, top, top + view, margin);
      const stretches = stretchesOf(offsets, range, pinned);
      const drawn = stretches.flatMap((stretch) => ("row" in stretch ? [stretch.row] : []));
      assert.deepEqual(drawn, [...new Set(drawn)].sort((a, b) => a - b), "each once, in order");
      list.forEach((height, row) => {
        const isSeen = offsets[row] < top + view && offsets[row] + height > top;
        if (isSeen) assert.ok(drawn.includes(row), `row ${row}`);
      });
      if (pinned >= 0 && pinned < list.length) assert.ok(drawn.includes(pinned), "the row with the focus");
      const whole = stretches.reduce((sum, stretch) => sum + ("gap" in stretch ? stretch.gap : list[stretch.row]), 0);
      assert.equal(whole, list.reduce((sum, height) => sum + height, 0));
    }),
  );
});

test("of a thousand rows only those near the viewport are drawn", () => {
  const offsets = layout(Array(1000).fill(90));
  const [first, end] = rangeOf(offsets, 45_000, 45_600, 600);
  assert.ok(end - first <= 22, `${end - first} rows`);
});
