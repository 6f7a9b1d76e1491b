// Generates the client's types from the JSON Schemas in schemas/, the one source of the HTTP API.
//
//   node generate.mjs FILE            writes FILE
//   node generate.mjs --check FILE    fails if FILE is not what would be written
//
// COPILOTD_SCHEMAS names the directory of the schemas where this package is not inside the repository.

import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

import { compile } from "json-schema-to-typescript";

const here = fileURLToPath(new URL(".", import.meta.url));
const schemas = process.env.COPILOTD_SCHEMAS ?? resolve(here, "../../../schemas");

/** The bodies that the client sends and receives, by the names they have in TypeScript. */
const BODIES = {
  citation: "Citation",
  claimed_call: "ClaimedCall",
  conversation: "Conversation",
  conversation_page: "ConversationPage",
  create_conversation: "CreateConversation",
  decide_approval: "DecideApproval",
  feedback: "Feedback",
  file: "StoredFile",
  give_feedback: "GiveFeedback",
  message: "Message",
  message_page: "MessagePage",
  problem: "Problem",
  run_client_tool: "RunClientTool",
  stream_ticket: "StreamTicket",
  submit_turn: "SubmitTurn",
  tool_call: "ToolCall",
  turn: "Turn",
  update_conversation: "UpdateConversation",
  usage: "Usage",
};

const read = (path) => JSON.parse(readFileSync(join(schemas, path), "utf8"));

/** `message.delta` becomes `MessageDeltaEvent`, as /openapi.json names it. */
const eventName = (type) =>
  `${type
    .split(/[._]/)
    .map((word) => word[0].toUpperCase() + word.slice(1))
    .join("")}Event`;

/** Makes one schema ready to stand among the others: references by name, and no titles, which would name types. */
function embed(value, key) {
  if (Array.isArray(value)) return value.map((item) => embed(item));
  if (typeof value !== "object" || value === null) return value;
  const result = {};
  for (const [name, member] of Object.entries(value)) {
    const isKeyword = key !== "properties";
    if (isKeyword && ["$schema", "$id", "title", "examples", "minItems", "maxItems", "if", "then", "else"].includes(name)) continue;
    if (isKeyword && name === "$ref") {
      const file = member.split("/").pop().replace(/\.json$/, "");
      if (!BODIES[file]) throw new Error(`${member}: not among the bodies`);
      // Without its siblings: a description beside a reference would make a second type.
      return { $ref: `#/definitions/${BODIES[file]}` };
    } else result[name] = embed(member, isKeyword ? name : undefined);
  }
  return result;
}

async function generate() {
  const types = readdirSync(join(schemas, "events"))
    .map((file) => file.replace(/\.json$/, ""))
    .sort();
  const definitions = {};
  for (const [file, name] of Object.entries(BODIES)) definitions[name] = embed(read(`api/${file}.json`));
  for (const type of types) definitions[eventName(type)] = embed(read(`events/${type}.json`));
  const events = {
    description: "The data of each event, by its type.",
    type: "object",
    properties: Object.fromEntries(types.map((type) => [type, { $ref: `#/definitions/${eventName(type)}` }])),
    required: types,
    additionalProperties: false,
  };
  const content = await compile({ ...events, definitions }, "EventData", {
    bannerComment: "// Generated from schemas/ by `npm run generate`. Do not edit.",
    unreachableDefinitions: true,
    format: true,
    style: { printWidth: 120 },
  });
  // How the generator found a type is no help to a reader.
  return content.replaceAll(/^ \*\n \* This interface was referenced by [^/]*? \*\//gm, " */");
}

const isCheck = process.argv[2] === "--check";
const file = process.argv[isCheck ? 3 : 2];
if (!file) {
  console.error("usage: node generate.mjs [--check] FILE");
  process.exit(2);
}
const content = await generate();
if (!isCheck) writeFileSync(file, content);
else if (readFileSync(file, "utf8") !== content) {
  console.error(`error: ${file} is not what schemas/ says: run \`npm run generate\` in web/packages/client`);
  process.exit(1);
}
