// What the widget costs a page: medians of five, printed. Nothing is asserted, and no CI runs it: times depend on the
// machine.
//
//   node tests/browser/widget.bench.mjs

import { World } from "./widget.world.mjs";

const ROUNDS = 5;
const median = (numbers) => numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)];
const print = (what, numbers) => {
  const all = numbers.map((number) => Math.round(number));
  console.log(`${what}: ${Math.round(median(numbers))} ms (${all.join(", ")})`);
};

/** Milliseconds from the choice of a long conversation to the frame that shows its end. */
async function firstPaint(world, user, last) {
  const chat = await world.open({ user });
  await chat.launcher.click();
  await chat.button("Conversations").click();
  await chat.page.locator("copilotd-chat .history .entry").first().waitFor();
  const took = await chat.page.evaluate(
    (last) =>
      new Promise((done) => {
        // From the messages' arrival, so that the network and the server do not count.
        let arrived;
        const observer = new PerformanceObserver((list) => {
          for (const entry of list.getEntries()) if (/\/messages\?/.test(entry.name)) arrived ??= entry.responseEnd;
        });
        observer.observe({ type: "resource" });
        const look = () => {
          const shown = [...root().querySelectorAll(".markdown")].some((message) => message.textContent === last);
          if (!shown || arrived === undefined) return requestAnimationFrame(look);
          // The frame after this one is painted.
          return requestAnimationFrame(() => done(performance.now() - arrived));
        };
        root().querySelector(".history .entry").click();
        look();
      }),
    last,
  );
  await chat.close();
  return took;
}

/** The longest time from a key press to the next frame during 50 tokens a second, on a processor four times slower. */
async function interaction(world, user) {
  const chat = await world.open({ user });
  await chat.begin();
  const session = await chat.context.newCDPSession(chat.page);
  await session.send("Emulation.setCPUThrottlingRate", { rate: 4 });
  await chat.page.evaluate(() => {
    globalThis.latencies = [];
    new PerformanceObserver((list) =>
      globalThis.latencies.push(
        ...list
          .getEntries()
          .filter(({ name }) => /^(key|pointer|click)/.test(name))
          .map(({ duration }) => duration),
      ),
    ).observe({
      type: "event",
      durationThreshold: 16,
      buffered: true,
    });
  });
  await chat.send("[[sim tokens=300 pace_ms=20]] Tell me something long");
  await chat.written(40);
  for (let press = 0; press < 12; press += 1) {
    // The list takes keys while an answer is written.
    await chat.page.locator("copilotd-chat .list").press(press % 2 ? "ArrowDown" : "ArrowUp");
    await chat.page.waitForTimeout(150);
  }
  const longest = await chat.page.evaluate(() => Math.max(0, ...globalThis.latencies));
  await chat.close();
  return longest;
}

const world = new World();
try {
  await world.start();
  const { said } = await world.server.past("bench", 1000);
  const paints = [];
  const latencies = [];
  for (let round = 0; round < ROUNDS; round += 1) {
    paints.push(await firstPaint(world, "bench", said.at(-1)));
    latencies.push(await interaction(world, `bench-${round}`));
  }
  print("first paint of 1,000 messages, after they have arrived", paints);
  print("longest interaction during 50 tokens/s, 4 times slower processor (0: under 16)", latencies);
} finally {
  await world.stop();
}
