// Makes the pictures of the README from the demo's page: `node tests/browser/screenshots.mjs`. No test compares them.

import { mkdirSync, statSync } from "node:fs";
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
  const reached = (status) => page.locator(`#turns > .turn:first-child[data-status="${status}"]`).waitFor();
  await chat.getByRole("button", { name: "How long does a refund take?" }).click();
  await reached("completed");
  const field = chat.getByLabel("Message", { exact: true });
  await field.fill("Create a ticket about a broken export");
  await field.press("Enter");
  await reached("awaiting_approval");
  await shoot(page, "demo-product.png");
  await chat.getByRole("button", { name: "Approve" }).click();
  await reached("completed");
  await field.fill("Summarise the unread tickets and alert #support");
  await field.press("Enter");
  await page.locator('.tabs [data-to="slack"] .count', { hasText: /^\d+$/ }).waitFor();
  await page.getByRole("navigation").getByRole("link", { name: "Slack" }).click();
  await page.locator("#messages .message.fresh").first().waitFor();
  await reached("completed").catch(() => {});
  await shoot(page, "demo-slack.png");
} finally {
  await browser.close();
  await demo.stop();
}

async function shoot(page, name) {
  mkdirSync(images, { recursive: true });
  const path = join(images, name);
  await page.screenshot({ path, animations: "disabled", caret: "hide" });
  const { size } = statSync(path);
  console.log(`${path}: ${size} bytes`);
  if (size > MOST) throw new Error(`${name} has ${size} bytes, more than ${MOST}`);
}
