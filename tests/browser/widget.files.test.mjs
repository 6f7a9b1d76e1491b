// Files that a person attaches to messages in the widget.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, describe, it } from "node:test";

import { World } from "./widget.world.mjs";

const file = (name, text, mimeType = "text/plain") => ({ name, mimeType, buffer: Buffer.from(text) });
const NOTES = file("notes.txt", "The export breaks at 1,000 rows.");

describe("attachments in the widget", { timeout: 180_000 }, () => {
  const world = new World();
  before(() => world.start());
  after(() => world.stop());

  const story = (name, tell, query = {}) =>
    it(name, async () => {
      const chat = await world.open({ inline: true, user: name.replaceAll(/\W+/g, "-"), ...query });
      try {
        await tell(chat);
        chat.clean();
      } catch (error) {
        console.error(`--- at the end of “${name}”\n${await chat.panel.innerText().catch(String)}\n${chat.faults.join("\n")}`);
        throw error;
      } finally {
        await chat.close();
      }
    });
  const attach = async (chat, ...files) => {
    const chooser = chat.page.waitForEvent("filechooser");
    await chat.button("Attach files").click();
    await (await chooser).setFiles(files);
  };
  const attached = (chat, status = "done") => chat.page.locator(`copilotd-chat .composer .file[data-status="${status}"]`);
  const sent = (chat, name) => chat.page.locator("copilotd-chat .message.user button.file", { hasText: name });
  /** Puts files into an event of the page, as a person pastes or drops them. */
  const give = (chat, type, selector, files) =>
    chat.page.evaluate(
      ({ type, selector, files }) => {
        const data = new DataTransfer();
        for (const { name, text } of files) data.items.add(new File([text], name, { type: "text/plain" }));
        const event =
          type === "paste"
            ? new ClipboardEvent(type, { clipboardData: data, bubbles: true, cancelable: true })
            : new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true });
        root().querySelector(selector).dispatchEvent(event);
        return event.defaultPrevented;
      },
      { type, selector, files },
    );
  const input = async (chat) => {
    const path = `/v1/conversations/${await chat.conversation()}/messages`;
    const { data } = await world.server.call("GET", path, undefined, { user: chat.user });
    return data.filter(({ role }) => role === "user").at(-1).content;
  };

  story("a file is uploaded, sent, shown after a reload, and saved by a click", async (chat) => {
    await chat.composer.fill("[[sim tokens=5]] What do these notes say?");
    await attach(chat, NOTES);
    await attached(chat).getByText("notes.txt").waitFor();
    assert.equal(await chat.composer.inputValue(), "[[sim tokens=5]] What do these notes say?", "what was typed stays");
    await chat.accessible("a file is attached");
    await chat.composer.press("Enter");
    await chat.reached("completed");
    assert.equal(await attached(chat).count(), 0);
    assert.deepEqual(
      (await input(chat)).map(({ type, name }) => [type, name]),
      [
        ["text", undefined],
        ["file", "notes.txt"],
      ],
    );
    await sent(chat, "notes.txt").waitFor();
    await chat.page.reload();
    await sent(chat, "notes.txt").waitFor();
    await chat.accessible("a file was sent");
    const download = chat.page.waitForEvent("download");
    await sent(chat, "notes.txt").click();
    assert.equal((await download).suggestedFilename(), "notes.txt");
    assert.equal(readFileSync(await (await download).path(), "utf8"), "The export breaks at 1,000 rows.");
    assert.equal(chat.context.pages().length, 1, "nothing is opened");
    await chat.agrees();
  });

  story("a file alone is a message, and is sent again with another answer", async (chat) => {
    await attach(chat, NOTES);
    await attached(chat).waitFor();
    await chat.button("Send").click();
    await chat.reached("completed");
    const [{ file_id }] = await input(chat);
    const first = await chat.page.locator("copilotd-chat .end").getAttribute("data-turn");
    await chat.button("Answer again").click();
    await chat.page.locator(`copilotd-chat .end:not([data-turn="${first}"])`).waitFor();
    await sent(chat, "notes.txt").waitFor();
    assert.deepEqual((await input(chat)).map((part) => part.file_id), [file_id]);
  });

  story("files are pasted and dropped; a pasted text stays a text", async (chat) => {
    assert.ok(await give(chat, "paste", "textarea", [{ name: "pasted.txt", text: "a" }]));
    await attached(chat).getByText("pasted.txt").waitFor();
    await give(chat, "dragover", ".list, .welcome", [{ name: "dropped.txt", text: "b" }]);
    assert.ok(await give(chat, "drop", ".list, .welcome", [{ name: "dropped.txt", text: "b" }]));
    await attached(chat).getByText("dropped.txt").waitFor();
    assert.equal(await give(chat, "paste", "textarea", []), false);
  });

  story("a file is removed", async (chat) => {
    await attach(chat, NOTES, file("more.txt", "more"));
    await attached(chat).getByText("more.txt").waitFor();
    await attached(chat).getByText("notes.txt").waitFor();
    await chat.button("Remove: notes.txt").click();
    await chat.send("[[sim tokens=3]] Read");
    await chat.reached("completed");
    assert.deepEqual((await input(chat)).flatMap(({ name }) => name ?? []), ["more.txt"]);
  });

  story("what is refused is told in words", async (chat) => {
    await attach(chat, file("program.exe", "MZ\u0090\u0000\u0003\u0000\u0000\u0000", "application/octet-stream"));
    await chat.panel.getByText("Files of this type cannot be attached.").waitFor();
    await chat.accessible("a refused file");
    await chat.button("Remove: program.exe").click();
    await attach(chat, file("large.txt", "x".repeat(20 * 1024 * 1024 + 1)));
    await chat.panel.getByText("This file is too large.").waitFor();
    await chat.button("Remove: large.txt").click();
    await attach(chat, ...Array.from({ length: 9 }, (_, number) => file(`${number}.txt`, `text ${number}`)));
    await chat.panel.getByText("No more files fit into this message.").waitFor();
    await attached(chat).nth(7).waitFor();
    await chat.send("[[sim tokens=3]] Read them");
    await chat.reached("completed");
    assert.equal((await input(chat)).filter(({ type }) => type === "file").length, 8);
    assert.equal(await attached(chat, "failed").count(), 0);
  });

  story("a file that was deleted is not there any more", async (chat) => {
    await attach(chat, NOTES);
    await attached(chat).waitFor();
    await chat.send("[[sim tokens=3]] Read");
    await chat.reached("completed");
    const [, { file_id }] = await input(chat);
    await world.server.call("DELETE", `/v1/files/${file_id}`, undefined, { user: chat.user });
    await sent(chat, "notes.txt").click();
    await chat.panel.getByText("This is not there any more.").waitFor();
  });

  story(
    "without attachments there is no button, and files are left to the page",
    async (chat) => {
      assert.equal(await chat.button("Attach files").count(), 0);
      assert.equal(await give(chat, "paste", "textarea", [{ name: "pasted.txt", text: "a" }]), false);
      assert.equal(await give(chat, "drop", ".welcome", [{ name: "dropped.txt", text: "a" }]), false);
    },
    { attachments: "off" },
  );
});
