import assert from "node:assert/strict";
import test from "node:test";
import { JsonMistake, parseJson } from "../../src/mixtral/server/playground/js/json_text.js";

const RIGHT = [
  "{}",
  "[]",
  ' { "a" : [1, -2.5e3, true, false, null, "x\\n\\u00e9\\\\\\"/\\/"] } ',
  "0",
  '""',
  "[[[]]]",
  "1E+2",
  '{"": {"b": ""}}',
  '"😀"',
];
const WRONG = [
  "",
  "{",
  "[1,]",
  '{"a":1,}',
  "{a: 1}",
  "'x'",
  "01",
  "1.",
  "+1",
  "NaN",
  '"\\x"',
  '"a\nb"',
  "[1 2]",
  "{} {}",
  '{"a" 1}',
  "yes",
  '"\\u12"',
  "-",
  '"open',
];

test("it reads what JSON.parse reads", () => {
  for (const text of RIGHT) assert.deepEqual(parseJson(text), JSON.parse(text), text);
});

test("it refuses what JSON.parse refuses", () => {
  for (const text of WRONG) {
    assert.throws(() => JSON.parse(text), undefined, text);
    assert.throws(() => parseJson(text), JsonMistake, text);
  }
});

test("the mistake has its line and column", () => {
  assert.throws(() => parseJson('{\n  "a": 1\n  "b": 2\n}'), { line: 3, column: 3 });
});

test("a name that stands twice in one object is refused, in two objects it is not", () => {
  assert.throws(() => parseJson('{"a": 1, "a": 2}'), /stands twice/);
  assert.deepEqual(parseJson('[{"a": 1}, {"a": 2}]'), [{ a: 1 }, { a: 2 }]);
});

test("nesting is limited, so a hostile text cannot overflow the stack", () => {
  assert.throws(() => parseJson("[".repeat(100_000)), /64 levels/);
});

test("a name of the language is an ordinary name", () => {
  const value = parseJson('{"__proto__": {"polluted": true}}');
  assert.deepEqual(Object.keys(value), ["__proto__"]);
  assert.equal({}.polluted, undefined);
});
