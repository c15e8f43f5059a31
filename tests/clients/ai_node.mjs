// Drives a running vlmd with Vercel's AI SDK and its OpenAI-compatible provider.
//
// usage: node ai_node.mjs BASE_URL PICTURE TOOLS_URL

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateText, jsonSchema, Output, streamText, tool } from "ai";

const [baseUrl, picture, toolsUrl] = process.argv.slice(2);

const modelOf = async (url) => {
  const { data } = await (await fetch(`${url}/v1/models`)).json();
  const provider = createOpenAICompatible({
    name: "vlmd",
    baseURL: `${url}/v1`,
    includeUsage: true,
    supportsStructuredOutputs: true,
  });
  return { provider, model: provider(data[0].id) };
};

const { provider, model } = await modelOf(baseUrl);
const messages = [
  {
    role: "user",
    content: [
      { type: "file", data: readFileSync(picture), mediaType: "image/png" },
      { type: "text", text: "Describe the picture." },
    ],
  },
];
const settings = { model, messages, temperature: 0, maxRetries: 0 };

// A whole answer, and the same one streamed.
const whole = await generateText(settings);
assert.ok(whole.text);
assert.equal(whole.finishReason, "stop");
const stream = streamText(settings);
let text = "";
for await (const delta of stream.textStream) text += delta;
assert.equal(text, whole.text);
assert.equal((await stream.usage).outputTokens, whole.usage.outputTokens);

// An answer in a form.
const schema = jsonSchema({
  type: "object",
  properties: { colour: { enum: ["red", "green"] } },
  required: ["colour"],
  additionalProperties: false,
});
const formed = await generateText({ ...settings, output: Output.object({ schema }) });
assert.ok(["red", "green"].includes(formed.output.colour), JSON.stringify(formed.output));

// A tool that has to be called.
const { model: caller } = await modelOf(toolsUrl);
const called = await generateText({
  model: caller,
  prompt: "What is the weather in Paris?",
  maxRetries: 0,
  temperature: 0,
  maxOutputTokens: 200,
  toolChoice: { type: "tool", toolName: "weather" },
  tools: {
    weather: tool({
      description: "Tells the weather",
      inputSchema: jsonSchema({
        type: "object",
        properties: { city: { enum: ["Paris", "Rome"] } },
        required: ["city"],
        additionalProperties: false,
      }),
    }),
  },
});
assert.equal(called.toolCalls[0].toolName, "weather");
assert.ok(["Paris", "Rome"].includes(called.toolCalls[0].input.city));

// Errors arrive as the class that applications catch.
await assert.rejects(
  generateText({ ...settings, model: provider("no/such-model") }),
  (error) => APICallError.isInstance(error) && error.statusCode === 404 && !error.isRetryable,
);
await assert.rejects(
  generateText({ ...settings, temperature: -1 }),
  (error) => APICallError.isInstance(error) && /temperature/.test(error.message),
);

console.log(`ai: ${JSON.stringify(whole.text)}`);
