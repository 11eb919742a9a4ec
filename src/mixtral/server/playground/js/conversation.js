/**
 * One conversation: its tree of messages and the settings that its requests are made with.
 *
 * Settings hold what was typed, also where it is wrong; `request.js` reads them. No DOM.
 */

import { activePath, newTree } from "./tree.js";

/** @typedef {import("./tree.js").Tree} Tree */
/** @typedef {import("./tree.js").Node} Node */
/**
 * @typedef {object} Options
 * @property {string} system System text; "" for none.
 * @property {boolean} safePrompt Whether Mistral's safety text comes first.
 * @property {Record<string, string>} sampling Name of a field -> what was typed.
 * @property {"text"|"json_object"|"json_schema"|"regex"|"choice"} format
 * @property {string} jsonSchema
 * @property {string} regex
 * @property {string} choices One per line.
 * @property {string} tools JSON list of tools; "" for none.
 * @property {string} toolChoice auto, none, any, or the name of a tool.
 * @property {boolean} parallelToolCalls
 */
/**
 * @typedef {object} Conversation
 * @property {string} id
 * @property {string} title "" until the first message, which then names it.
 * @property {number} createdAt Milliseconds since 1970.
 * @property {number} updatedAt The same.
 * @property {Options} options
 * @property {Tree} tree
 */
/** @typedef {"ready"|"results"|"unanswered"|"failed"} ComposerState */

const MAX_TITLE = 60;
const TITLE_PART = 1000; // Characters that a title is looked for in; a message may have millions.

/** @returns {Options} */
export function defaultOptions() {
  return {
    system: "",
    safePrompt: false,
    sampling: {},
    format: "text",
    jsonSchema: "",
    regex: "",
    choices: "",
    tools: "",
    toolChoice: "auto",
    parallelToolCalls: true,
  };
}

/**
 * @param {string} id A UUID.
 * @param {number} now Milliseconds since 1970.
 * @param {Options} [options] Settings to begin with.
 * @returns {Conversation}
 */
export function newConversation(id, now, options = defaultOptions()) {
  return { id, title: "", createdAt: now, updatedAt: now, options, tree: newTree() };
}

/**
 * @param {Conversation} conversation
 * @returns {string} Its title, or the beginning of its first message.
 */
export function titleOf(conversation) {
  if (conversation.title) return conversation.title;
  const text = activePath(conversation.tree)[0]?.message?.content ?? "";
  const first = text.trimStart().slice(0, TITLE_PART).trimEnd().replace(/\s+/g, " ");
  const characters = [...first];
  if (characters.length > MAX_TITLE) return `${characters.slice(0, MAX_TITLE).join("")}…`;
  return first || "New conversation";
}

/**
 * Say what can come next.
 *
 * @param {Node[]} path The shown messages.
 * @returns {ComposerState} ready: a text; results: of the tools that were called; unanswered: an
 *   answer to what stands last; failed: the last answer has nothing to go on from, and the server
 *   takes no conversation with an empty answer in it.
 */
export function composerState(path) {
  const last = path.at(-1)?.message;
  if (!last) return "ready";
  if (last.role !== "assistant") return "unanswered";
  if (last.toolCalls?.length) return "results";
  return last.content === "" ? "failed" : "ready";
}
