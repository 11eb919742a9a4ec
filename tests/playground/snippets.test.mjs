import assert from "node:assert/strict";
import test from "node:test";
import { SNIPPETS, python } from "../../src/mixtral/server/playground/js/snippets.js";

const BODY = {
  model: "nano",
  messages: [{ role: "user", content: 'It\'s "so"\n' }],
  random_seed: 3,
  min_p: 0.1,
  tool_choice: "any",
  safe_prompt: true,
};
const PLACE = { url: "http://127.0.0.1:8000", hasKey: true };

test("curl's data is the request, with a quote that the shell understands", () => {
  const text = SNIPPETS.curl.write(BODY, PLACE);
  const [, data] = /-d '([\s\S]*)'\n$/.exec(text);
  assert.equal(data.split("'").length - 1, 3, "each quote inside is written as '\\''");
  assert.deepEqual(JSON.parse(data.replaceAll("'\\''", "'")), { ...BODY, stream: true });
  assert.match(text, /Bearer \$MIXTRAL_API_KEY/);
});

test("without a key none is asked for", () => {
  for (const { write } of Object.values(SNIPPETS))
    assert.doesNotMatch(write(BODY, { ...PLACE, hasKey: false }), /MIXTRAL_API_KEY/);
});

test("OpenAI's client gets its own names, and the rest in extra_body", () => {
  const text = SNIPPETS.openai.write(BODY, PLACE);
  assert.match(text, /\n {4}seed=3,\n/);
  assert.match(text, /\n {4}tool_choice="required",\n/);
  assert.match(text, /\n {4}extra_body=\{"min_p": 0.1, "safe_prompt": True\},\n/);
});

test("Mistral's client gets no field that it does not have, and says so", () => {
  const text = SNIPPETS.mistralai.write(BODY, PLACE);
  assert.doesNotMatch(text, /min_p=/);
  assert.match(text, /left out here: min_p\./);
  assert.match(text, /safe_prompt=True/);
});

test("Python literals break where a line would be too long", () => {
  assert.equal(python({ a: [1, null, true], b: "x" }), '{"a": [1, None, True], "b": "x"}');
  assert.equal(
    python(["a".repeat(50), "b".repeat(50)]),
    `[\n    "${"a".repeat(50)}",\n    "${"b".repeat(50)}",\n]`,
  );
});
