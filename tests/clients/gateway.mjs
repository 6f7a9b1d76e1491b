// Drives the gateway with npm's unmodified `openai`; prints the results as a JSON line.
import { createRequire } from "node:module";

const require = createRequire(`${process.env.COPILOTD_NODE_MODULES}/`);
const { OpenAI } = require("openai");

const client = new OpenAI({ baseURL: process.argv[2], apiKey: process.argv[3], maxRetries: 0 });
const user = (content) => [{ role: "user", content }];
const tools = [
  { type: "function", function: { name: "look", parameters: { type: "object", properties: { place: { type: "string" } } } } },
];

const whole = await client.chat.completions.create({ model: "default", messages: user("[[sim text=well said]]") });

let text = "";
let usage;
const stream = await client.chat.completions.create({
  model: "default",
  messages: user("[[sim text=\"Grüße € 😀\" chunk=2]]"),
  stream: true,
  stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  text += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}

const runner = client.chat.completions.stream({
  model: "default",
  messages: user('[[sim tool=look calls=2 args={"place": "number $i"}]]'),
  tools,
});
const message = await runner.finalMessage();

const failures = {};
for (const [name, call] of Object.entries({
  model: () => client.chat.completions.create({ model: "nope", messages: user("x") }),
  cut: async () => {
    const broken = await client.chat.completions.create({
      model: "default",
      messages: user("[[sim cut_after=4 text=half of it]]"),
      stream: true,
    });
    for await (const _ of broken);
  },
  key: () => new OpenAI({ baseURL: process.argv[2], apiKey: "nope", maxRetries: 0 }).models.list(),
})) {
  try {
    await call();
    failures[name] = null;
  } catch (error) {
    failures[name] = { kind: error.constructor.name, status: error.status ?? null, code: error.code ?? null };
  }
}

const models = [];
for await (const model of client.models.list()) models.push(model.id);
const embeddings = await client.embeddings.create({ model: "default", input: ["red car", "red bus"] });

console.log(
  JSON.stringify({
    whole: whole.choices[0].message.content,
    text,
    usage,
    calls: message.tool_calls.map((call) => JSON.parse(call.function.arguments).place),
    failures,
    models,
    dimensions: embeddings.data.map((item) => item.embedding.length),
  }),
);
