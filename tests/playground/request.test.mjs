import assert from "node:assert/strict";
import test from "node:test";
import {
  composerState,
  defaultOptions,
  newConversation,
  titleOf,
} from "../../src/mixtral/server/playground/js/conversation.js";
import { buildRequest } from "../../src/mixtral/server/playground/js/request.js";
import { SAMPLING_FIELDS, readField } from "../../src/mixtral/server/playground/js/sampling.js";
import { addMessage } from "../../src/mixtral/server/playground/js/tree.js";

const field = name => SAMPLING_FIELDS.find(one => one.name === name);
const path = (...messages) => messages.map((message, i) => ({ id: `n${i + 1}`, message }));
const user = { role: "user", content: "Hi" };
const build = (options, messages = [user]) =>
  buildRequest({
    options: { ...defaultOptions(), ...options },
    path: path(...messages),
    model: "nano",
  });

test("without options there is nothing but model and messages", () => {
  assert.deepEqual(build({}), {
    body: { model: "nano", messages: [{ role: "user", content: "Hi" }] },
    problems: [],
  });
});

test("only fields that were filled in are sent, as numbers", () => {
  const { body } = build({
    sampling: {
      temperature: "0",
      top_p: "",
      max_tokens: " 12 ",
      stop: "a\\nb\n\n ",
      ignore_eos: "true",
      logit_bias: '{"5": -100}',
    },
  });
  assert.deepEqual(
    [
      body.temperature,
      "top_p" in body,
      body.max_tokens,
      body.stop,
      body.ignore_eos,
      body.logit_bias,
    ],
    [0, false, 12, ["a\nb", " "], true, { 5: -100 }],
  );
});

for (const [name, text] of [
  ["temperature", "5.1"],
  ["temperature", "x"],
  ["top_p", "0"],
  ["max_tokens", "1.5"],
  ["n", "0"],
  ["random_seed", "1e300"],
  ["logit_bias", '{"a": 1}'],
  ["logit_bias", "[]"],
  ["logit_bias", "{"],
])
  test(`${name} ${text} is refused in words`, () => {
    assert.match(readField(field(name), text).problem, /must|not valid/);
    assert.equal(build({ sampling: { [name]: text } }).problems.length, 1);
  });

test("system text and safe prompt come where the API has them", () => {
  const { body } = build({ system: "Be brief.", safePrompt: true });
  assert.deepEqual(body.messages[0], { role: "system", content: "Be brief." });
  assert.equal(body.safe_prompt, true);
});

test("a round of tools is an assistant's calls and one message for each result", () => {
  const calls = {
    role: "assistant",
    content: "",
    toolCalls: [
      { id: "a", name: "f", arguments: "{}" },
      { id: "b", name: "g", arguments: '{"x": 1.50}' },
    ],
  };
  const results = {
    role: "tool",
    content: "",
    results: [
      { toolCallId: "a", name: "f", content: "1" },
      { toolCallId: "b", name: "g", content: "2" },
    ],
  };
  const { messages } = build({}, [user, calls, results]).body;
  assert.deepEqual(
    messages.map(one => one.role),
    ["user", "assistant", "tool", "tool"],
  );
  assert.deepEqual(messages[1].tool_calls[1], {
    id: "b",
    type: "function",
    function: { name: "g", arguments: '{"x": 1.50}' },
  });
  assert.deepEqual(messages[3], { role: "tool", name: "g", content: "2", tool_call_id: "b" });
});

test("each format has its own field", () => {
  assert.deepEqual(build({ format: "json_object" }).body.response_format, { type: "json_object" });
  assert.deepEqual(build({ format: "regex", regex: "a+" }).body.response_format, {
    type: "regex",
    regex: "a+",
  });
  assert.deepEqual(build({ format: "choice", choices: "yes\n\nno\n" }).body.response_format, {
    type: "choice",
    choice: ["yes", "no"],
  });
  assert.deepEqual(
    build({ format: "json_schema", jsonSchema: '{"type": "object"}' }).body.response_format,
    { type: "json_schema", json_schema: { name: "answer", schema: { type: "object" } } },
  );
});

test("a format or tool that is wrong or empty keeps the request back", () => {
  for (const options of [
    { format: "json_schema" },
    { format: "json_schema", jsonSchema: "{" },
    { format: "json_schema", jsonSchema: '{"type": 1}' },
    { format: "regex" },
    { format: "choice", choices: "\n" },
    { tools: "[{}]" },
    { tools: '[{"function": {"name": "f"}}]', toolChoice: "g" },
  ])
    assert.equal(build(options).problems.length, 1, JSON.stringify(options));
});

test("a tool can be chosen by its name", () => {
  const { body } = build({
    tools: '[{"function": {"name": "f"}}]',
    toolChoice: "f",
    parallelToolCalls: false,
  });
  assert.deepEqual(
    [body.tool_choice, body.parallel_tool_calls],
    [{ type: "function", function: { name: "f" } }, false],
  );
});

test("the composer asks for what the conversation lacks", () => {
  const calls = {
    role: "assistant",
    content: "",
    toolCalls: [{ id: "a", name: "f", arguments: "{}" }],
  };
  assert.equal(composerState(path()), "ready");
  assert.equal(composerState(path(user)), "unanswered");
  assert.equal(composerState(path(user, { role: "assistant", content: "Hello" })), "ready");
  assert.equal(composerState(path(user, calls)), "results");
  assert.equal(
    composerState(path(user, { role: "assistant", content: "", error: "no" })),
    "failed",
  );
  assert.equal(
    composerState(path(user, { role: "assistant", content: "Hel", error: "no" })),
    "ready",
  );
});

test("a title is cut between characters, not inside one", () => {
  const conversation = newConversation("i", 0);
  const [tree] = addMessage(conversation.tree, "n0", { role: "user", content: "😀".repeat(80) });
  assert.equal(titleOf({ ...conversation, tree }), `${"😀".repeat(60)}…`);
});
