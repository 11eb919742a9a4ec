import assert from "node:assert/strict";
import test from "node:test";
import { createChat } from "../../src/mixtral/server/playground/js/chat.js";
import { createStore } from "../../src/mixtral/server/playground/js/store.js";
import { activePath } from "../../src/mixtral/server/playground/js/tree.js";

const piece = (content, reason = null, more = {}) => ({
  choices: [{ index: 0, delta: { content }, finish_reason: reason }],
  ...more,
});
const USAGE = { usage: { prompt_tokens: 7, completion_tokens: 3 } };

/** A chat over a fake server; `script` gets the body and the function that sends events. */
function started(script) {
  const store = createStore({
    conversations: [],
    currentId: "",
    model: "nano",
    running: null,
    notice: "",
  });
  const bodies = [];
  let id = 0;
  let time = 0;
  const api = {
    async stream(path, body, onEvent, signal) {
      bodies.push(body);
      await script(body, onEvent, signal, () => (time += 100));
    },
  };
  const chat = createChat({
    store,
    api,
    newId: () => `id-${(id += 1)}`,
    clock: () => time,
    now: () => 1,
  });
  chat.begin();
  return { store, chat, bodies, path: () => activePath(chat.current().tree) };
}

const answering =
  (...texts) =>
  async (_, send) => {
    for (const text of texts) send(piece(text));
    send(piece("", "stop", USAGE));
  };

test("an answer grows from its pieces, with usage and times", async () => {
  const { chat, path, store } = started(async (_, send, signal, wait) => {
    wait();
    send(piece("Hel"));
    wait();
    send(piece("lo"));
    send(piece("", "stop", USAGE));
  });
  await chat.send("Hi");
  const { message } = path()[1];
  assert.deepEqual(
    [message.content, message.finishReason, message.model],
    ["Hello", "stop", "nano"],
  );
  assert.deepEqual(message.usage, { promptTokens: 7, completionTokens: 3 });
  assert.deepEqual(message.timing, { ttftMs: 100, tokensPerS: 20 });
  assert.equal(store.get().running, null);
});

test("answering again and editing keep what was there as branches", async () => {
  const { chat, path, bodies } = started(answering("A"));
  await chat.send("one");
  await chat.regenerate(path()[1].id);
  assert.equal(chat.current().tree.nodes[path()[0].id].children.length, 2);
  const first = path()[0].id;
  await chat.edit(first, "two");
  assert.deepEqual(
    path().map(node => node.message.content),
    ["two", "A"],
  );
  assert.deepEqual(bodies.at(-1).messages, [{ role: "user", content: "two" }]);
  chat.show(first);
  assert.deepEqual(
    path().map(node => node.message.content),
    ["one", "A"],
  );
});

test("an edited answer is a branch of its own and asks nobody", async () => {
  const { chat, path, bodies } = started(answering("A"));
  await chat.send("one");
  await chat.edit(path()[1].id, "B");
  assert.deepEqual(
    [path()[1].message.content, path()[1].message.finishReason, bodies.length],
    ["B", "edited", 1],
  );
});

const stoppable =
  (...texts) =>
  async (_, send, signal) => {
    for (const text of texts) send(piece(text));
    await new Promise((_, fail) =>
      signal.addEventListener("abort", () => fail(new Error("aborted"))),
    );
  };

test("stopping keeps what was said, and nothing where nothing was said", async () => {
  for (const [texts, roles] of [
    [["Hel"], ["user", "assistant"]],
    [[], ["user"]],
  ]) {
    const { chat, path, store } = started(stoppable(...texts));
    const done = chat.send("Hi");
    assert.ok(store.get().running);
    chat.stop();
    await done;
    assert.deepEqual(
      path().map(node => node.message.role),
      roles,
    );
    if (texts.length) assert.equal(path()[1].message.finishReason, "stopped");
  }
});

test("an error is kept with what came before it", async () => {
  const { chat, path } = started(async (_, send) => {
    send(piece("Hel"));
    send(piece("", "error", { error: { message: "the engine has stopped" } }));
  });
  await chat.send("Hi");
  assert.deepEqual(
    [path()[1].message.content, path()[1].message.error],
    ["Hel", "the engine has stopped"],
  );
});

test("a refused request is told in the answer's place", async () => {
  const { chat, path } = started(async () => {
    throw new Error("temperature is 9");
  });
  await chat.send("Hi");
  assert.deepEqual([path()[1].message.content, path()[1].message.error], ["", "temperature is 9"]);
});

test("n answers become n branches", async () => {
  const { chat, path } = started(async (_, send) => {
    for (const index of [0, 1])
      send({ choices: [{ index, delta: { content: `text ${index}` }, finish_reason: null }] });
    for (const index of [1, 0])
      send({
        choices: [{ index, delta: { content: "" }, finish_reason: "stop" }],
        ...(index ? {} : USAGE),
      });
  });
  chat.change(chat.current().id, one => ({ options: { ...one.options, sampling: { n: "2" } } }));
  await chat.send("Hi");
  const { nodes } = chat.current().tree;
  assert.deepEqual(
    nodes[path()[0].id].children.map(id => nodes[id].message.content),
    ["text 0", "text 1"],
  );
  assert.equal(path()[1].message.content, "text 0");
  assert.equal(path()[1].message.timing.tokensPerS, null);
});

test("called tools are answered in their order", async () => {
  const call = (id, name) => ({ id, type: "function", function: { name, arguments: "{}" } });
  const { chat, path, bodies } = started(async (body, send) => {
    if (body.messages.length > 1) return answering("21 degrees")(body, send);
    send({
      choices: [
        { index: 0, delta: { content: "", tool_calls: [call("a", "f")] }, finish_reason: null },
      ],
    });
    send({
      choices: [
        {
          index: 0,
          delta: { content: "", tool_calls: [call("b", "g")] },
          finish_reason: "tool_calls",
        },
      ],
      ...USAGE,
    });
  });
  await chat.send("Weather?");
  assert.deepEqual(
    path()[1].message.toolCalls.map(one => one.name),
    ["f", "g"],
  );
  await chat.send("never mind"); // The results come first.
  assert.equal(path().length, 2);
  await chat.answerTools(path()[1].id, ["1", "2"]);
  assert.deepEqual(
    bodies[1].messages.slice(2).map(one => [one.tool_call_id, one.content]),
    [
      ["a", "1"],
      ["b", "2"],
    ],
  );
  assert.equal(path()[3].message.content, "21 degrees");
});

test("nothing is sent or added while an option is wrong", async () => {
  const { chat, path, store, bodies } = started(answering("A"));
  chat.change(chat.current().id, one => ({
    options: { ...one.options, sampling: { temperature: "hot" } },
  }));
  await chat.send("Hi");
  assert.deepEqual([path().length, bodies.length], [0, 0]);
  assert.match(store.get().notice, /Temperature/);
});

test("a new conversation begins with the options of the last", () => {
  const { chat } = started(answering());
  chat.change(chat.current().id, one => ({ options: { ...one.options, system: "Be brief." } }));
  chat.begin();
  assert.equal(chat.current().options.system, "Be brief.");
  assert.equal(activePath(chat.current().tree).length, 0);
});

test("all conversations go at once, and whoever watches always finds a current one", async () => {
  const { chat, store } = started(answering("Hello"));
  chat.change(store.get().currentId, one => ({ options: { ...one.options, system: "Secret" } }));
  chat.begin();
  await chat.send("Hi");
  const old = store.get().conversations.map(one => one.id);
  const seen = [];
  store.watch(() => seen.push(chat.current()?.id));
  chat.clear();
  assert.deepEqual(
    store.get().conversations.map(one => one.id),
    [store.get().currentId],
  );
  assert.ok(!old.includes(store.get().currentId));
  assert.ok(!JSON.stringify(store.get()).includes("Secret"));
  assert.ok(seen.length > 0 && seen.every(Boolean));
});

test("clearing stops the answer that is being made", async () => {
  const { chat, store } = started(async (_, send, signal) => {
    send(piece("He"));
    await new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
  });
  const sent = chat.send("Hi");
  chat.clear();
  await sent;
  assert.equal(store.get().running, null);
  assert.deepEqual(activePath(chat.current().tree), []);
});
