// The page: whoever is signed in at the backend gets a chat with the tokens that the backend mints.

import { createClient } from "@copilotd/client";
import { createRoot } from "react-dom/client";

import { Chat } from "./chat.jsx";

async function token() {
  const answer = await fetch("/token", { method: "POST" });
  if (!answer.ok) throw new Error(`no token: ${await answer.text()}`);
  return (await answer.json()).token;
}

const SignIn = () => (
  <form method="post" action="/sign-in">
    <label>
      Your name <input name="user" required pattern="[a-z]{1,32}" autoComplete="username" />
    </label>
    <button>Sign in</button>
  </form>
);

const { baseUrl, user } = await (await fetch("/config.json")).json();
// One client for the page: it keeps the token, and sends what was written offline.
const copilotd = user ? createClient({ baseUrl, token }) : null;
createRoot(document.querySelector("#root")).render(copilotd ? <Chat copilotd={copilotd} /> : <SignIn />);
