import assert from "node:assert/strict";
import test from "node:test";
import { createSseParser } from "../../src/mixtral/server/playground/js/sse.js";

function parse(...pieces) {
  const events = [];
  const parser = createSseParser(data => events.push(data));
  for (const piece of pieces) parser.push(piece);
  return events;
}

test("events are the same wherever the stream is cut", () => {
  const stream =
    'data: {"a":1}\n\n: ping\n\ndata: two\r\ndata: lines\r\n\r\nevent: x\rdata:[DONE]\r\r\n';
  const whole = parse(stream);
  assert.deepEqual(whole, ['{"a":1}', "two\nlines", "[DONE]"]);
  for (let cut = 0; cut <= stream.length; cut += 1)
    assert.deepEqual(parse(stream.slice(0, cut), stream.slice(cut)), whole, `cut at ${cut}`);
  assert.deepEqual(parse(...stream), whole);
});

test("an event that was not ended is not given out", () => {
  assert.deepEqual(parse("data: one\n\ndata: two\n"), ["one"]);
});

test("only the first space behind the colon is dropped", () => {
  assert.deepEqual(parse("data:  x\n\ndata\n\n"), [" x", ""]);
});
