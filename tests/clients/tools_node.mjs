// Calls tools of a running vlmd with the official Node client.
//
// usage: node tools_node.mjs BASE_URL

import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "not-used", maxRetries: 0 });
const model = (await client.models.list()).data[0].id;
const parameters = {
  type: "object",
  properties: { city: { type: "string", enum: ["Köln", "Porto"] } },
  required: ["city"],
  additionalProperties: false,
};
const request = {
  model,
  messages: [{ role: "user", content: "How will the weather be in Porto?" }],
  tools: [{ type: "function", function: { name: "forecast", parameters } }],
  tool_choice: "required",
  seed: 1,
  max_tokens: 200,
};

const whole = await client.chat.completions.create(request);
const [choice] = whole.choices;
assert.equal(choice.finish_reason, "tool_calls");
assert.equal(choice.message.content, null);
const [call] = choice.message.tool_calls;
assert.equal(call.function.name, "forecast");
assert.ok(["Köln", "Porto"].includes(JSON.parse(call.function.arguments).city));

// The same call, streamed and put together by the client's own helper.
const final = await client.chat.completions.stream(request).finalChatCompletion();
assert.equal(final.choices[0].finish_reason, "tool_calls");
assert.equal(final.choices[0].message.tool_calls[0].function.arguments, call.function.arguments);

// The client's own loop: it runs the function and sends the answer back.
const seen = [];
const forecast = ({ city }) => {
  seen.push(city);
  return "Rain.";
};
const runner = client.chat.completions.runTools(
  {
    ...request,
    tool_choice: { type: "function", function: { name: "forecast" } },
    tools: [{ type: "function", function: { name: "forecast", parameters, function: forecast, parse: JSON.parse } }],
  },
  { maxChatCompletions: 2 },
);
await runner.done();
assert.equal(seen.length, 1);

console.log(`openai-node: ${call.function.name}(${call.function.arguments})`);
