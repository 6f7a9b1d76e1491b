// The page: signs in at its own backend, and talks to copilotd with the tokens that the backend mints.

import { createClient } from "/client/index.js";

const { baseUrl, user } = await (await fetch("/config.json")).json();

async function token() {
  const answer = await fetch("/token", { method: "POST" });
  if (!answer.ok) throw new Error(`no token: ${await answer.text()}`);
  return (await answer.json()).token;
}

/** Adds a line; text is always text. */
function line(className, text = "") {
  const element = document.createElement("p");
  element.className = className;
  element.textContent = text;
  document.querySelector("#log").append(element);
  return element;
}

function askForApproval(turn, { call_id, name, arguments: given }) {
  const element = line("approval", `${name} ${JSON.stringify(given)} `);
  const button = (text, decide) => {
    const made = document.createElement("button");
    made.textContent = text;
    made.addEventListener("click", () => {
      element.querySelectorAll("button").forEach((each) => (each.disabled = true));
      decide().catch((error) => line("error", error.message));
    });
    element.append(made);
  };
  button("Approve", () => turn.approve(call_id));
  button("Reject", () => turn.reject(call_id));
}

async function ask(conversation, question) {
  line("question", question);
  const turn = await conversation.send(question);
  const texts = new Map();
  for await (const event of turn.events()) {
    const id = event.message_id;
    if (event.type === "message.delta") {
      if (!texts.has(id)) texts.set(id, line("answer"));
      texts.get(id).textContent += event.text;
    } else if (event.type === "message.reset") {
      texts.get(id)?.remove();
      texts.delete(id);
    } else if (event.type === "approval.requested") askForApproval(turn, event);
    else if (event.type === "turn.failed") line("error", event.message);
  }
  line("end", "·");
}

if (user) {
  const copilotd = createClient({ baseUrl, token });
  let conversation;
  document.querySelector("#chat").hidden = false;
  document.querySelector("#ask").addEventListener("submit", async (event) => {
    event.preventDefault();
    const form = event.target;
    const question = new FormData(form).get("question");
    form.reset();
    try {
      conversation ??= await copilotd.conversations.create({ title: "From the product" });
      await ask(conversation, question);
    } catch (error) {
      line("error", error.message);
    }
  });
} else {
  document.querySelector("#sign-in").hidden = false;
}
