/**
 * What happens in a conversation: send, answer again, edit, answer tools, stop.
 *
 * One answer is made at a time. It grows in the tree while its events arrive; `n` answers are `n`
 * branches that grow together. Everything else follows from the state. No DOM.
 */

import { composerState, newConversation } from "./conversation.js";
import { buildRequest } from "./request.js";
import {
  ROOT,
  activePath,
  addMessage,
  choose,
  pathTo,
  removeBranch,
  updateMessage,
} from "./tree.js";

/** @typedef {import("./conversation.js").Conversation} Conversation */
/** @typedef {import("./tree.js").Message} Message */
/** @typedef {import("./tree.js").Tree} Tree */
/** @typedef {{conversationId: string, nodeIds: string[]}} Running */
/** @typedef {{conversations: Conversation[], currentId: string, model: string, running: Running|null, notice: string}} ChatState */

const MIN_MEASURED_S = 0.02; // A shorter answer came in one piece; its rate would be the network's.

/**
 * @param {object} parts
 * @param {{get: () => any, set: (fields: any) => void}} parts.store Holds a ChatState.
 * @param {import("./api.js").Api} parts.api
 * @param {() => string} parts.newId Makes a UUID.
 * @param {() => number} [parts.clock] Milliseconds that only grow.
 * @param {() => number} [parts.now] Milliseconds since 1970.
 */
export function createChat({
  store,
  api,
  newId,
  clock = () => performance.now(),
  now = () => Date.now(),
}) {
  /** @type {AbortController|null} */
  let abort = null;

  /** @returns {Conversation} */
  function current() {
    const { conversations, currentId } = store.get();
    return conversations.find((/** @type {Conversation} */ one) => one.id === currentId);
  }

  /** @param {string} id @param {(conversation: Conversation) => Partial<Conversation>} change */
  function change(id, change) {
    store.set({
      conversations: store
        .get()
        .conversations.map((/** @type {Conversation} */ one) =>
          one.id === id ? { ...one, ...change(one), updatedAt: now() } : one,
        ),
    });
  }

  /** @returns {string[]} What is wrong with the settings; nothing is sent before that is put right. */
  const problems = () =>
    buildRequest({ options: current().options, path: [], model: store.get().model }).problems;

  /** @returns {boolean} Whether a request may go out; the notice says why not. */
  function isReady() {
    const wrong = problems();
    const problem = store.get().running
      ? "another answer is being made; wait for its end, or stop it."
      : wrong[0];
    if (problem) store.set({ notice: `Not sent: ${problem}` });
    return !problem;
  }

  /** @param {(tree: Tree) => Tree} grow */
  const changeTree = grow => change(current().id, one => ({ tree: grow(one.tree) }));

  /**
   * Ask for an answer to a message and let it grow.
   *
   * @param {string} parentId The message to be answered.
   * @returns {Promise<void>} Ends with the answer; what goes wrong is in the answer or the notice.
   */
  async function answer(parentId) {
    if (!isReady()) return;
    const { id, options, tree } = current();
    const { model } = store.get();
    const { body } = buildRequest({ options, path: pathTo(tree, parentId), model });
    const numAnswers = body.n ?? 1;
    /** @type {string[]} */
    const nodeIds = [];
    changeTree(before => {
      let next = before;
      for (let i = 0; i < numAnswers; i += 1) {
        const [grown, nodeId] = addMessage(next, parentId, {
          role: "assistant",
          content: "",
          model,
        });
        next = grown;
        nodeIds.push(nodeId);
      }
      return choose(next, nodeIds[0]);
    });
    abort = new AbortController();
    store.set({ running: { conversationId: id, nodeIds }, notice: "" });
    await follow(id, nodeIds, body, abort);
    abort = null;
    store.set({ running: null });
  }

  /** @param {string} id @param {string[]} nodeIds @param {object} body @param {AbortController} controller */
  async function follow(id, nodeIds, body, controller) {
    const beganMs = clock();
    const growing = nodeIds.map(() => newGrowth());
    /** @param {number} i @param {Partial<Message>} fields */
    const update = (i, fields) =>
      change(id, one => ({ tree: updateMessage(one.tree, nodeIds[i], fields) }));
    /** @param {string} message Tell it in every answer that has not ended. */
    const fail = message =>
      growing.forEach((one, i) => {
        if (one.finishReason) return;
        one.finishReason = "error";
        update(i, { finishReason: "error", error: message });
      });
    try {
      await api.stream(
        "v1/chat/completions",
        body,
        event => {
          if (event.error) fail(event.error.message); // It ends all of them, and names only one.
          for (const choice of event.choices)
            update(choice.index, grow(growing[choice.index], choice, clock() - beganMs));
          if (event.usage)
            growing.forEach((one, i) => update(i, finish(one, event.usage, growing.length)));
        },
        controller.signal,
      );
    } catch (error) {
      if (!controller.signal.aborted) return fail(/** @type {Error} */ (error).message);
      growing.forEach((one, i) => {
        if (one.finishReason) return;
        if (one.isEmpty && growing.length === 1) forget(id, nodeIds[i]);
        else update(i, { finishReason: "stopped" });
      });
    }
  }

  /** @param {string} id @param {string} nodeId Remove an answer that was stopped before its first token. */
  const forget = (id, nodeId) => change(id, one => ({ tree: removeBranch(one.tree, nodeId) }));

  return {
    current,
    answer,
    change,
    problems,
    /** Make a conversation with the settings of the current one, and show it. */
    begin() {
      const made = newConversation(newId(), now(), current()?.options);
      store.set({ conversations: [made, ...store.get().conversations], currentId: made.id });
    },
    /** End the answer that is being made, forget all conversations, and show a new one without settings. */
    clear() {
      abort?.abort();
      const made = newConversation(newId(), now());
      store.set({ conversations: [made], currentId: made.id });
    },
    /** @param {string} text Add what the user says, and answer it. */
    async send(text) {
      const path = activePath(current().tree);
      if (composerState(path) === "ready")
        await add(path.at(-1)?.id ?? ROOT, { role: "user", content: text });
    },
    /** @param {string} id Of an answer; another one is made beside it. */
    regenerate: id => answer(/** @type {string} */ (current().tree.nodes[id].parent)),
    /**
     * Say something else in the place of a message; the old one stays as a branch.
     *
     * @param {string} id
     * @param {string} text
     * @returns {Promise<void>|null} Ends with the answer; null where it was not taken, and the notice
     *   says why.
     */
    edit(id, text) {
      if (!text.trim()) {
        store.set({ notice: "Not saved: a message needs a text." });
        return null;
      }
      const node = current().tree.nodes[id];
      const message = /** @type {Message} */ (node.message);
      const parentId = /** @type {string} */ (node.parent);
      if (message.role === "user") return add(parentId, { role: "user", content: text });
      changeTree(
        tree =>
          addMessage(tree, parentId, {
            role: "assistant",
            content: text,
            finishReason: "edited",
          })[0],
      );
      return Promise.resolve();
    },
    /**
     * @param {string} id Of the answer that called tools.
     * @param {string[]} contents One result for each call, in their order.
     */
    async answerTools(id, contents) {
      const calls = /** @type {Message} */ (current().tree.nodes[id].message).toolCalls ?? [];
      const results = calls.map((call, i) => ({
        toolCallId: call.id,
        name: call.name,
        content: contents[i],
      }));
      await add(id, { role: "tool", content: "", results });
    },
    /** @param {string} id */
    show: id => changeTree(tree => choose(tree, id)),
    /** End the answer that is being made; what it has so far stays. */
    stop: () => abort?.abort(),
  };

  /**
   * @param {string} parentId
   * @param {Message} message
   * @returns {Promise<void>|null} Ends with the answer; null where nothing may be sent.
   */
  function add(parentId, message) {
    if (!isReady()) return null;
    let id = "";
    changeTree(tree => {
      const [grown, added] = addMessage(tree, parentId, message);
      id = added;
      return grown;
    });
    return answer(id);
  }
}

/** @typedef {{content: string, toolCalls: import("./tree.js").ToolCall[], firstMs: number|null, lastMs: number, finishReason: string, isEmpty: boolean}} Growth */

/** @returns {Growth} */
const newGrowth = () => ({
  content: "",
  toolCalls: [],
  firstMs: null,
  lastMs: 0,
  finishReason: "",
  isEmpty: true,
});

/**
 * Take one piece.
 *
 * @param {Growth} growth
 * @param {any} choice
 * @param {number} elapsedMs
 * @returns {Partial<Message>}
 */
function grow(growth, choice, elapsedMs) {
  const { content = "", tool_calls: calls = [] } = choice.delta;
  if (content || calls.length) {
    growth.firstMs ??= elapsedMs;
    growth.lastMs = elapsedMs;
    growth.isEmpty = false;
  }
  growth.content += content;
  for (const call of calls)
    growth.toolCalls.push({
      id: call.id,
      name: call.function.name,
      arguments: call.function.arguments,
    });
  growth.finishReason = choice.finish_reason ?? growth.finishReason;
  return {
    content: growth.content,
    ...(growth.toolCalls.length ? { toolCalls: [...growth.toolCalls] } : {}),
    ...(growth.finishReason ? { finishReason: growth.finishReason } : {}),
  };
}

/**
 * @param {Growth} growth
 * @param {{prompt_tokens: number, completion_tokens: number}} usage Of all answers together.
 * @param {number} numAnswers
 * @returns {Partial<Message>}
 */
function finish(growth, usage, numAnswers) {
  /** @type {Partial<Message>} */
  const fields = {
    usage: { promptTokens: usage.prompt_tokens, completionTokens: usage.completion_tokens },
  };
  if (growth.firstMs !== null) {
    const seconds = (growth.lastMs - growth.firstMs) / 1000;
    // The first token belongs to the time to first token.
    const isMeasurable =
      numAnswers === 1 && usage.completion_tokens > 1 && seconds > MIN_MEASURED_S;
    const tokensPerS = isMeasurable ? (usage.completion_tokens - 1) / seconds : null;
    fields.timing = { ttftMs: growth.firstMs, tokensPerS };
  }
  return fields;
}
