import assert from "node:assert/strict";
import test from "node:test";
import { newConversation } from "../../src/mixtral/server/playground/js/conversation.js";
import { createStorage } from "../../src/mixtral/server/playground/js/storage.js";
import {
  ImportError,
  exportText,
  importText,
  merge,
} from "../../src/mixtral/server/playground/js/transfer.js";
import { addMessage } from "../../src/mixtral/server/playground/js/tree.js";

const ID = "123e4567-e89b-42d3-a456-426614174000";
const NOW = new Date(0);

function sample(id = ID) {
  const conversation = newConversation(id, 5);
  let [tree, first] = addMessage(conversation.tree, "n0", { role: "user", content: "Hi" });
  const answer = {
    role: "assistant",
    content: "Hello",
    model: "nano",
    finishReason: "stop",
    usage: { promptTokens: 3, completionTokens: 2 },
    timing: { ttftMs: 12.5, tokensPerS: null },
    toolCalls: [{ id: "a", name: "f", arguments: "{}" }],
  };
  [tree] = addMessage(tree, first, answer);
  [tree] = addMessage(tree, first, { role: "assistant", content: "", error: "no" });
  return {
    ...conversation,
    tree,
    options: { ...conversation.options, sampling: { top_p: "0.5" } },
  };
}

function damaged(change) {
  const file = JSON.parse(exportText([sample()], NOW));
  change(file.conversations[0], file);
  return JSON.stringify(file);
}

test("what is exported is imported unchanged", () => {
  assert.deepEqual(importText(exportText([sample()], NOW)), [sample()]);
});

for (const [name, change] of Object.entries({
  "another format": (_, file) => (file.format = "x"),
  "another version": (_, file) => (file.version = 2),
  "no list": (_, file) => (file.conversations = {}),
  "an unknown field": one => (one.extra = 1),
  "a missing field": one => delete one.options,
  "an id that is a path": one => (one.id = "../../x"),
  "an unknown role": one => (one.tree.nodes.n1.message.role = "system"),
  "a content that is no text": one => (one.tree.nodes.n1.message.content = { toString: 1 }),
  "a node without its parent": one => (one.tree.nodes.n2.parent = "n9"),
  "a circle": one => {
    one.tree.nodes.n1.parent = "n2";
    one.tree.nodes.n2.children = ["n1"];
    one.tree.nodes.n2.chosen = "n1";
  },
  "a circle of its own": one => {
    const message = { role: "user", content: "" };
    one.tree.nodes.n4 = { id: "n4", parent: "n5", children: ["n5"], chosen: "n5", message };
    one.tree.nodes.n5 = { id: "n5", parent: "n4", children: ["n4"], chosen: "n4", message };
    one.tree.nextNumber = 6;
  },
  "a child that another node has": one => one.tree.nodes.n2.children.push("n3"),
  "a child that stands twice": one => one.tree.nodes.n1.children.push("n2"),
  "a chosen node that is no child": one => (one.tree.nodes.n1.chosen = "n0"),
  "nothing chosen among branches": one => (one.tree.nodes.n1.chosen = null),
  "a number that is used again": one => (one.tree.nextNumber = 2),
  "a root with a message": one => (one.tree.nodes.n0.message = { role: "user", content: "" }),
  "an id of the language": one => (one.tree.nodes.constructor = one.tree.nodes.n3),
  "a sampling field that is no text": one => (one.options.sampling.top_p = 0.5),
}))
  test(`a file with ${name} is refused as a whole`, () => {
    assert.throws(() => importText(damaged(change)), ImportError);
  });

test("a file that is not JSON is refused in one line", () => {
  assert.throws(() => importText("<html>"), { message: /not JSON/ });
  assert.throws(() => importText("null"), ImportError);
});

test("nothing is overwritten: the same is left out, another under a known id gets a new one", () => {
  const present = [sample()];
  assert.deepEqual(
    merge(present, importText(exportText(present, NOW)), () => "new"),
    { added: [], numSame: 1 },
  );
  const other = { ...sample(), title: "Other" };
  assert.deepEqual(
    merge(present, [other], () => "new"),
    { added: [{ ...other, id: "new" }], numSame: 0 },
  );
});

function fakeStorage(room = Infinity) {
  const items = {};
  const own = {
    getItem: key => items[key] ?? null,
    setItem(key, value) {
      if (value.length > room) throw new Error("QuotaExceededError");
      items[key] = value;
      this[key] = value;
    },
    removeItem(key) {
      delete items[key];
      delete this[key];
    },
  };
  for (const name of Object.keys(own)) Object.defineProperty(own, name, { enumerable: false });
  return own;
}

test("stored conversations come back, the newest first, and a damaged one is told of and left", () => {
  const local = fakeStorage();
  const storage = createStorage(local, fakeStorage());
  const newer = { ...sample("123e4567-e89b-42d3-a456-426614174001"), updatedAt: 9 };
  assert.equal(storage.save(sample()), null);
  storage.save(newer);
  local.setItem("mixtral.conversation.bad", "{");
  const { conversations, problems } = storage.load();
  assert.deepEqual(conversations, [newer, sample()]);
  assert.equal(problems.length, 1);
  assert.equal(local.getItem("mixtral.conversation.bad"), "{");
});

test("full storage is told of", () => {
  assert.match(createStorage(fakeStorage(10), fakeStorage()).save(sample()), /full/);
});

test("the API key is kept for the session alone", () => {
  const [local, session] = [fakeStorage(), fakeStorage()];
  const storage = createStorage(local, session);
  storage.saveKey("secret");
  storage.savePreferences({ model: "nano", theme: "dark", currentId: "x", apiKey: "secret" });
  assert.equal(storage.loadKey(), "secret");
  assert.ok(!JSON.stringify(Object.entries(local)).includes("secret"));
  storage.saveKey("");
  assert.equal(storage.loadKey(), "");
});

test("damaged preferences fall back to their defaults", () => {
  const local = fakeStorage();
  local.setItem("mixtral.preferences", '{"theme": "pink", "model": 3}');
  assert.deepEqual(createStorage(local, fakeStorage()).loadPreferences(), {
    model: "",
    theme: "system",
    currentId: "",
  });
});
