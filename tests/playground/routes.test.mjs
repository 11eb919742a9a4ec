import assert from "node:assert/strict";
import test from "node:test";
import {
  addedVisits,
  createRouteCollector,
  routeInWords,
  sharesOf,
  tokensOfRoute,
  visibleText,
  visitsOf,
} from "../../src/mixtral/server/playground/js/routes.js";
import { locate, splitMarks } from "../../src/mixtral/server/playground/js/spans.js";

const route = id => ({
  token_id: id,
  expert_ids: [
    [id % 4, 5],
    [1, 0],
  ],
  routing_weights: [
    [0.75, 0.25],
    [0.5, 0.5],
  ],
});
const drawn = (id, token) => ({ logprobs: { content: [{ token_id: id, token }] } });

test("the answer of /v1/route becomes one entry for each token", () => {
  const tokens = tokensOfRoute({
    tokens: [1, 7],
    pieces: ["", "Hi"],
    expert_ids: [[[0, 1]], [[2, 3]]],
    routing_weights: [[[0.6, 0.4]], [[0.9, 0.1]]],
  });
  assert.deepEqual(tokens[1], {
    id: 7,
    text: "Hi",
    isAnswer: false,
    expertIds: [[2, 3]],
    weights: [[0.9, 0.1]],
  });
});

test("texts of drawn tokens meet their experts, which come one step later", () => {
  const collector = createRouteCollector(["<s>", "Hi"]);
  collector.push({ routing: [route(1), route(2)], ...drawn(8, " A") });
  assert.deepEqual(
    collector.tokens().map(token => [token.text, token.isAnswer, token.expertIds.length]),
    [
      ["<s>", false, 2],
      ["Hi", false, 2],
      [" A", true, 0],
    ],
  );
  collector.push({ routing: [route(8)], ...drawn(9, " B") });
  collector.push({ routing: [] });
  const tokens = collector.tokens();
  assert.deepEqual(
    tokens.map(token => token.text),
    ["<s>", "Hi", " A", " B"],
  );
  assert.deepEqual(
    tokens.map(token => token.id),
    [1, 2, 8, 9],
  );
  assert.deepEqual(
    [tokens[2].expertIds, tokens[3].expertIds],
    [
      [
        [0, 5],
        [1, 0],
      ],
      [],
    ],
  );
});

test("each layer's shares sum to 1, each token visits A experts", () => {
  const tokens = tokensOfRoute({
    tokens: [4, 5],
    pieces: ["a", "b"],
    expert_ids: [route(4).expert_ids, route(5).expert_ids],
    routing_weights: [route(4).routing_weights, route(5).routing_weights],
  });
  const visits = visitsOf(tokens, 8);
  assert.deepEqual(
    visits.map(row => row.reduce((a, b) => a + b)),
    [4, 4],
  );
  assert.deepEqual(
    sharesOf(visits).map(row => row.reduce((a, b) => a + b)),
    [1, 1],
  );
  assert.deepEqual(sharesOf([[0, 0]]), [[0, 0]]);
  assert.deepEqual(visitsOf([], 8), []);
});

test("counts since a moment are differences, and whole after a restart", () => {
  assert.deepEqual(addedVisits([[5, 3]], [[4, 1]]), [[1, 2]]);
  assert.deepEqual(addedVisits([[1, 1]], [[4, 1]]), [[1, 1]]);
  assert.deepEqual(addedVisits([[1, 1]], undefined), [[1, 1]]);
});

test("a token can be read without seeing colours or spaces", () => {
  const [token] = tokensOfRoute({
    tokens: [4],
    pieces: [" a\n"],
    expert_ids: [route(4).expert_ids],
    routing_weights: [route(4).routing_weights],
  });
  assert.equal(routeInWords(token, 0), "expert 0 with 75 %, expert 5 with 25 %");
  assert.equal(routeInWords({ ...token, expertIds: [] }, 0), "not read yet");
  assert.deepEqual([visibleText(token), visibleText({ ...token, text: "" })], ["\u00a0a↵", "⟨4⟩"]);
});

test("a citation is found by code points, behind an emoji too", () => {
  assert.deepEqual(locate("📦 abc", { start: 2, end: 5, text: "abc" }), {
    before: "📦 ",
    cited: "abc",
    after: "",
  });
});

test("a citation whose span is another text's is found by its words", () => {
  assert.deepEqual(locate("xx abc", { start: 0, end: 3, text: "abc" }), {
    before: "xx ",
    cited: "abc",
    after: "",
  });
  assert.equal(locate("xx", { start: 0, end: 3, text: "abc" }), null);
  assert.equal(locate("xx", { start: 5, end: 5, text: "" }).cited, "");
});

test("only marks of known passages are split off", () => {
  assert.deepEqual(splitMarks("So it is [1]. Or [1, 2] not [7], a[x].", new Set([1, 2])), [
    "So it is ",
    1,
    ". Or ",
    1,
    2,
    " not [7], a[x].",
  ]);
});
