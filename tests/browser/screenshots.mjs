// Makes the pictures of the README from the demo's page: `node tests/browser/screenshots.mjs`. No test compares them.

import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

import { Demo, launch } from "./world.mjs";

const images = resolve(dirname(fileURLToPath(import.meta.url)), "../../docs/images");
/** A README is loaded often: no picture has more bytes. */
const MOST = 120 * 1024;

const demo = new Demo();
await demo.start();
const browser = await launch();
try {
  const page = await browser.newPage({ viewport: { width: 1280, height: 800 }, colorScheme: "light" });
  page.setDefaultTimeout(30_000);
  await page.goto(demo.url);
  const chat = page.locator("copilotd-chat");
  const reached = (status, state = "visible") =>
    page.locator(`#turns > .turn:first-child[data-status="${status}"]`).waitFor({ state });
  await chat.getByRole("button", { name: "How long does a refund take?" }).click();
  await reached("completed");
  const field = chat.getByLabel("Message", { exact: true });
  await field.fill("Create a ticket about a broken export");
  await field.press("Enter");
  await reached("awaiting_approval");
  await shoot(page, "demo-product.webp");
  await chat.getByRole("button", { name: "Approve" }).click();
  await reached("completed");
  await field.fill("Summarise the unread tickets and alert #support");
  await field.press("Enter");
  await page.locator('.tabs [data-to="slack"] .count', { hasText: /^\d+$/ }).waitFor();
  await page.getByRole("navigation").getByRole("link", { name: "Slack" }).click();
  await page.locator("#messages .message.fresh").first().waitFor();
  await reached("completed", "attached");
  await shoot(page, "demo-slack.webp");
} finally {
  await browser.close();
  await demo.stop();
}

async function shoot(page, name) {
  mkdirSync(images, { recursive: true });
  // A new message is marked for a while; the mark has faded by then.
  await page.waitForTimeout(4500);
  const devtools = await page.context().newCDPSession(page);
  const { data } = await devtools.send("Page.captureScreenshot", { format: "webp", quality: 90 });
  const picture = Buffer.from(data, "base64");
  if (picture.length > MOST) throw new Error(`${name} has ${picture.length} bytes, more than ${MOST}`);
  writeFileSync(join(images, name), picture);
  console.log(`docs/images/${name}: ${picture.length} bytes`);
}
