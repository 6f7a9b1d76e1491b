// Serves a small language model from a GGUF file over the part of OpenAI's protocol that copilotd speaks: streamed chat
// completions with usage. For tests/real-model/run; prints its address once it listens.
//
//   node serve.mjs MODEL.gguf [PORT]
import { createServer } from "node:http";
import { getLlama, LlamaCompletion } from "node-llama-cpp";

const [path, port = "0"] = process.argv.slice(2);
const CONTEXT = 4096;
const MAX_ANSWER = 160;

const llama = await getLlama({ gpu: false, build: "never", logLevel: "error" });
const model = await llama.loadModel({ modelPath: path });
// One thread: several wait for each other in busy loops, which takes minutes a word where cores are shared.
const context = await model.createContext({ contextSize: CONTEXT, sequences: 1, threads: 1 });
const completion = new LlamaCompletion({ contextSequence: context.getSequence() });

// One sequence: answers are made one after another.
let turn = Promise.resolve();

// SmolLM2's chat template (ChatML), as its tokenizer_config.json has it.
const prompt = (messages) =>
  messages.map(({ role, content }) => `<|im_start|>${role}\n${content}<|im_end|>\n`).join("") + "<|im_start|>assistant\n";

async function answer(request, response, body) {
  const tokens = model.tokenize(prompt(body.messages), true);
  const limit = Math.min(body.max_completion_tokens ?? body.max_tokens ?? MAX_ANSWER, MAX_ANSWER);
  if (tokens.length + limit > CONTEXT) {
    const error = { message: `This model's maximum context length is ${CONTEXT} tokens`, type: "invalid_request_error", code: "context_length_exceeded", param: "messages" };
    response.writeHead(400, { "content-type": "application/json" }).end(JSON.stringify({ error }));
    return;
  }
  response.writeHead(200, { "content-type": "text/event-stream" });
  const base = { id: "chatcmpl-local", object: "chat.completion.chunk", created: Math.floor(Date.now() / 1000), model: body.model };
  const send = (chunk) => response.write(`data: ${JSON.stringify({ ...base, ...chunk })}\n\n`);
  const stop = new AbortController();
  response.on("close", () => stop.abort());
  let made = 0;
  send({ choices: [{ index: 0, delta: { role: "assistant", content: "" }, finish_reason: null }] });
  const { metadata } = await completion.generateCompletionWithMeta(tokens, {
    maxTokens: limit,
    temperature: 0.2,
    repeatPenalty: { penalty: 1.15 },
    customStopTriggers: ["<|im_end|>"],
    signal: stop.signal,
    stopOnAbortSignal: true,
    onToken: (piece) => (made += piece.length),
    onTextChunk: (text) => send({ choices: [{ index: 0, delta: { content: text }, finish_reason: null }] }),
  });
  const reason = metadata.stopReason === "maxTokens" ? "length" : "stop";
  send({ choices: [{ index: 0, delta: {}, finish_reason: reason }] });
  send({ choices: [], usage: { prompt_tokens: tokens.length, completion_tokens: made, total_tokens: tokens.length + made } });
  response.end("data: [DONE]\n\n");
}

const server = createServer((request, response) => {
  let text = "";
  request.setEncoding("utf8");
  request.on("data", (piece) => (text += piece));
  request.on("end", () => {
    turn = turn
      .then(() => answer(request, response, JSON.parse(text)))
      .catch((error) => {
        console.error(error);
        response.destroy();
      });
  });
});
server.listen(Number(port), "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}/v1`));
