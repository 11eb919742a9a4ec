import assert from "node:assert/strict";
import test from "node:test";
import { checkSchema, checkTools } from "../../src/mixtral/server/playground/js/schema_check.js";

const tool = (name, parameters = {}) => ({ type: "function", function: { name, parameters } });

test("a right schema has no problem", () => {
  const schema = {
    $defs: { colour: { enum: ["red", "green"] } },
    type: "object",
    required: ["a"],
    additionalProperties: false,
    properties: {
      a: { type: ["string", "null"], minLength: 1 },
      b: { $ref: "#/$defs/colour" },
      c: { type: "array", items: { anyOf: [{ type: "integer" }, true] } },
    },
  };
  assert.deepEqual(checkSchema(schema), []);
});

for (const [schema, place] of [
  [{ type: "struct" }, "#/type"],
  [{ properties: [] }, "#/properties"],
  [{ properties: { "a/b": { type: 1 } } }, "#/properties/a~1b/type"],
  [{ required: "a" }, "#/required"],
  [{ enum: [] }, "#/enum"],
  [{ anyOf: [] }, "#/anyOf"],
  [{ items: 3 }, "#/items"],
  [{ minLength: -1 }, "#/minLength"],
  [{ type: "integer", minimum: "0" }, "#/minimum"],
  [{ $ref: "#/$defs/none" }, "#/$ref"],
  [{ type: "array", uniqueItems: true }, "#/uniqueItems"],
  [{ not: { type: "string" } }, "#/not"],
  [{ if: {}, then: {} }, "#/if"],
  [{ type: "string", format: "regex" }, "#/format"],
])
  test(`the problem of ${JSON.stringify(schema)} has its place`, () => {
    const problems = checkSchema(schema);
    assert.equal(problems.length, 1, problems.join());
    assert.ok(problems[0].startsWith(`${place} `), problems[0]);
  });

test("a keyword that cannot matter is no problem", () => {
  assert.deepEqual(
    checkSchema({ type: "string", contains: { type: "integer" }, uniqueItems: true }),
    [],
  );
});

test("a name of the language is no property of a schema", () => {
  assert.deepEqual(checkSchema({ $ref: "#/constructor" }).length, 1);
});

test("right tools have no problem", () => {
  assert.deepEqual(
    checkTools([
      tool("get_weather", { type: "object", properties: { city: { type: "string" } } }),
      { function: { name: "f" } },
    ]),
    [],
  );
});

for (const [tools, words] of [
  [{}, /list/],
  [[{ type: "function" }], /must be \{"type"/],
  [[tool("two words")], /characters/],
  [[tool("f"), tool("f")], /stands twice/],
  [[{ ...tool("f"), strict: true }], /no field of a tool/],
  [[tool("f", { type: "record" })], /parameters: #\/type/],
  [[tool("f", [])], /JSON schema of an object/],
  [Array.from({ length: 129 }, (_, i) => tool(`f${i}`)), /up to 128/],
])
  test(`wrong tools are told of: ${words}`, () => {
    assert.match(checkTools(tools).join("\n"), words);
  });
