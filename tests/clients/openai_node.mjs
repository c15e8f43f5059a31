// Drives a running vlmd with the official Node client.
//
// usage: node openai_node.mjs BASE_URL PICTURE PICTURE_URL

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import OpenAI from "openai";

const [baseUrl, picture, pictureUrl] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${baseUrl}/v1`, apiKey: "not-used", maxRetries: 0 });
const model = (await client.models.list()).data[0].id;
const dataUri = `data:image/png;base64,${readFileSync(picture).toString("base64")}`;

const ask = (url, question = "Describe the picture.") => [
  {
    role: "user",
    content: [
      { type: "image_url", image_url: { url } },
      { type: "text", text: question },
    ],
  },
];

// Whole answers, the picture sent both ways.
const whole = await client.chat.completions.create({ model, messages: ask(dataUri), temperature: 0 });
const answer = whole.choices[0].message.content;
assert.ok(answer);
assert.equal(whole.choices[0].finish_reason, "stop");
assert.equal(whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens);
const byUrl = await client.chat.completions.create({ model, messages: ask(pictureUrl), temperature: 0 });
assert.equal(byUrl.choices[0].message.content, answer);

// The same answer, streamed.
const stream = await client.chat.completions.create({
  model,
  messages: ask(dataUri),
  temperature: 0,
  stream: true,
  stream_options: { include_usage: true },
});
let text = "";
let usage;
const finishes = [];
for await (const chunk of stream) {
  const choice = chunk.choices[0];
  text += choice?.delta.content ?? "";
  if (choice?.finish_reason) finishes.push(choice.finish_reason);
  usage = chunk.usage ?? usage;
}
assert.equal(text, answer);
assert.deepEqual(finishes, ["stop"]);
assert.deepEqual(usage, whole.usage);

// A stream that the client gives up leaves the server well.
const abandoned = await client.chat.completions.create({
  model,
  messages: [{ role: "user", content: "Hello" }],
  stream: true,
});
abandoned.controller.abort();

// Errors arrive as the classes that applications catch.
const hello = [{ role: "user", content: "Hello" }];
await assert.rejects(
  client.chat.completions.create({ model: "no/such-model", messages: hello }),
  (error) => error instanceof OpenAI.NotFoundError && error.status === 404,
);
await assert.rejects(
  client.chat.completions.create({ model, messages: hello, temperature: -1 }),
  (error) =>
    error instanceof OpenAI.BadRequestError &&
    error.param === "temperature" &&
    Boolean(error.requestID),
);
await assert.rejects(
  client.chat.completions.create({ model, messages: ask("http://127.0.0.1:1/gone.png") }),
  OpenAI.BadRequestError,
);

console.log(`openai-node: ${JSON.stringify(answer)}`);
