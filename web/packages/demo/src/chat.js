// The chat widget on the sample product, as a customer's page would have it.

const GREETING = "Hello! I read your tickets, look things up in the handbook, and tell the team in Slack.";
const STARTERS = [
  "Summarise the unread tickets and alert #support",
  "How long does a refund take?",
  "Create a ticket about a broken export",
  "Show me ticket 103",
];

/** Things to try that only the simulated model does. */
export const TRIALS = [
  { label: "A slow answer", text: "[[sim tokens=200 pace_ms=60]] Tell me something long" },
  { label: "A provider that breaks off once", text: "[[sim tokens=80 pace_ms=30 cut_after=180 fail_times=1]] Try this" },
  { label: "A provider that is down", text: "[[sim status=500]] Are you there?" },
  {
    label: "Wrong tool arguments",
    text: '[[sim tool=zendesk_get_ticket args={"ticket_id": "oops"} text="I need the number of a ticket to open it. Which one do you mean?"]] Show me ticket “oops”',
  },
];
/** Things to try with any model. */
export const ALWAYS = [{ label: "A tool that fails", text: "Show me ticket 99999" }];

/** Asks to open an invoice; the simulated model is told by which call. */
export const opening = ({ number, customer }, isSimulated) => {
  const call = `[[sim tool=open_invoice args=${JSON.stringify({ number })} text="I opened the invoice of ${customer}."]] `;
  return { label: "A function of this page", text: `${isSimulated ? call : ""}Open the invoice ${number}` };
};

/** The functions of this page that the model may call. */
const toolsOf = (openInvoice) => [
  {
    name: "open_invoice",
    description: "Opens an invoice on the billing page that the user looks at. Call it when the user wants to see one.",
    parameters: {
      type: "object",
      properties: { number: { type: "string", description: "The invoice's number, such as 2026-1044" } },
      required: ["number"],
      additionalProperties: false,
    },
    run: ({ number }) => openInvoice(number),
  },
];

/**
 * Puts the chat on the page for one user.
 * @param {{ tenant: string, token: () => Promise<string>, isOpen: boolean, heard: (event: CustomEvent) => void,
 *   openInvoice: (number: string) => object }} options
 */
export function mountChat({ tenant, token, isOpen, heard, openInvoice }) {
  /** @type {any} */
  const chat = document.createElement("copilotd-chat");
  chat.setAttribute("copilot", "support");
  chat.token = token;
  chat.greeting = GREETING;
  chat.starters = STARTERS;
  chat.metadata = { page: "billing" };
  chat.tools = toolsOf(openInvoice);
  chat.messages = { "tool:open_invoice": "Open an invoice" };
  // Answers may lead to the tenant's own help pages, and nowhere else.
  chat.links = [`https://help.${tenant}.example`];
  for (const name of ["copilotd-message", "copilotd-approval"]) chat.addEventListener(name, heard);
  if (isOpen) chat.setAttribute("open", "");
  document.body.append(chat);
  return chat;
}
