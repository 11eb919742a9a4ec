/**
 * Conversations to a file and back. A file may come from anywhere, so all of it is checked before any
 * of it is used, and the first mistake refuses the whole file with one line that names its place.
 *
 * The same check reads what the browser's own storage holds. No DOM.
 */

import { ROOT } from "./tree.js";

/** @typedef {import("./conversation.js").Conversation} Conversation */
/** @typedef {(value: any, place: string) => void} Check Throws an ImportError. */

export const FORMAT = "mixtral-playground";
export const VERSION = 1;
export const MAX_FILE_BYTES = 20_000_000;

const MAX_NODES = 100_000;
const FORMATS = ["text", "json_object", "json_schema", "regex", "choice"];

/** The file or the stored text is not one of ours. */
export class ImportError extends Error {}

/**
 * @param {Conversation[]} conversations
 * @param {Date} now
 * @returns {string} The contents of a file.
 */
export function exportText(conversations, now) {
  const file = { format: FORMAT, version: VERSION, exportedAt: now.toISOString(), conversations };
  return `${JSON.stringify(file, null, 1)}\n`;
}

/**
 * @param {string} text Contents of a file that `exportText` wrote.
 * @returns {Conversation[]}
 * @throws {ImportError} Says what is wrong and where.
 */
export function importText(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    throw new ImportError("The file is not JSON; choose one that this page exported.");
  }
  if (file?.format !== FORMAT)
    throw new ImportError(`The file's format is ${show(file?.format)}; it must be "${FORMAT}".`);
  if (file.version !== VERSION)
    throw new ImportError(
      `The file's version is ${show(file.version)}; this page reads version ${VERSION}.`,
    );
  list(object(checkConversation))(file.conversations, "conversations");
  return file.conversations;
}

/**
 * @param {unknown} value
 * @param {string} [place]
 * @returns {asserts value is Conversation}
 * @throws {ImportError}
 */
export function checkOne(value, place = "conversation") {
  object(checkConversation)(value, place);
}

/**
 * Join conversations that were read with those that are there.
 *
 * @param {Conversation[]} present
 * @param {Conversation[]} imported
 * @param {() => string} newId Makes a UUID.
 * @returns {{added: Conversation[], numSame: number}} What to add: the same one is left out, and one
 *   that differs from a present one of the same id gets an id of its own. Nothing is overwritten.
 */
export function merge(present, imported, newId) {
  const known = new Map(
    present.map(conversation => [conversation.id, JSON.stringify(sorted(conversation))]),
  );
  /** @type {Conversation[]} */
  const added = [];
  let numSame = 0;
  for (const conversation of imported) {
    const text = JSON.stringify(sorted(conversation));
    if (known.get(conversation.id) === text) {
      numSame += 1;
      continue;
    }
    const id = known.has(conversation.id) ? newId() : conversation.id;
    known.set(id, text);
    added.push({ ...conversation, id });
  }
  return { added, numSame };
}

/** @param {any} value @returns {any} The same with the keys of all objects in order. */
function sorted(value) {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.keys(value)
      .sort()
      .map(key => [key, sorted(value[key])]),
  );
}

/** @param {any} value @param {string} place */
function checkTree(value, place) {
  object({ nextNumber: count, nodes: any })(value, place);
  object({})(value.nodes, `${place}.nodes`, true);
  const ids = Object.keys(value.nodes);
  if (ids.length > MAX_NODES)
    fail(`${place}.nodes`, `has ${ids.length} messages; up to ${MAX_NODES} are read`);
  for (const id of ids) {
    if (!/^n(0|[1-9][0-9]{0,8})$/.test(id) || Number(id.slice(1)) >= value.nextNumber)
      fail(`${place}.nodes`, `has the id ${show(id)}`);
    checkNode(value.nodes[id], `${place}.nodes.${id}`, id, value.nodes);
  }
  if (!Object.hasOwn(value.nodes, ROOT)) fail(`${place}.nodes`, `lacks ${ROOT}`);
}

/** @param {any} node @param {string} place @param {string} id @param {Record<string, any>} nodes */
function checkNode(node, place, id, nodes) {
  const isRoot = id === ROOT;
  object({
    id: text,
    parent: any,
    children: list(text),
    chosen: any,
    message: isRoot ? nothing : object(MESSAGE),
  })(node, place);
  if (node.id !== id) fail(`${place}.id`, `is ${show(node.id)}`);
  const parent = node.parent;
  // A parent is older than its children, so following parents always ends at the root.
  const isParent = isRoot
    ? parent === null
    : typeof parent === "string" &&
      Object.hasOwn(nodes, parent) &&
      Number(parent.slice(1)) < Number(id.slice(1)) &&
      Array.isArray(nodes[parent]?.children) &&
      nodes[parent].children.includes(id);
  if (!isParent) fail(`${place}.parent`, `is ${show(parent)}`);
  const isFamily =
    new Set(node.children).size === node.children.length &&
    node.children.every(
      (/** @type {string} */ child) => Object.hasOwn(nodes, child) && nodes[child]?.parent === id,
    );
  if (!isFamily) fail(`${place}.children`, "does not fit the messages");
  if (node.chosen !== null && !node.children.includes(node.chosen))
    fail(`${place}.chosen`, `is ${show(node.chosen)}`);
  if (node.chosen === null && node.children.length)
    fail(`${place}.chosen`, "is null, though there are branches");
}

/** @param {string} place @param {string} what @returns {never} */
function fail(place, what) {
  throw new ImportError(`The file is damaged: ${place} ${what}.`);
}

/** @param {unknown} value */
function show(value) {
  const shown = JSON.stringify(value) ?? "missing";
  return shown.length > 60 ? `${shown.slice(0, 60)}…` : shown;
}

/** @param {(value: any) => boolean} isRight @param {string} what @returns {Check} */
const check = (isRight, what) => (value, place) => {
  if (!isRight(value)) fail(place, `is ${show(value)}; it must be ${what}`);
};

const any = () => {};
const text = check(value => typeof value === "string", "a text");
const flag = check(value => typeof value === "boolean", "true or false");
const count = check(value => Number.isSafeInteger(value) && value >= 0, "a whole number from 0");
const time = check(
  value => typeof value === "number" && value >= 0 && value < 8.64e15,
  "a time in milliseconds",
);
const nothing = check(value => value === null, "null");
const timeOrNothing = check(
  value => value === null || (typeof value === "number" && value >= 0),
  "a number or null",
);
/** @param {string[]} words */
const oneOf = words => check(value => words.includes(value), `one of ${words.join(", ")}`);

/** @param {Check} item @returns {Check} */
function list(item) {
  return (value, place) => {
    if (!Array.isArray(value)) fail(place, `is ${show(value)}; it must be a list`);
    value.forEach((/** @type {unknown} */ one, /** @type {number} */ i) =>
      item(one, `${place}[${i}]`),
    );
  };
}

/**
 * @param {Record<string, Check>} fields A name that ends with "?" may be absent.
 * @returns {(value: any, place: string, hasOthers?: boolean) => void}
 */
function object(fields) {
  const known = Object.keys(fields).map(name => name.replace("?", ""));
  return (value, place, hasOthers = false) => {
    if (typeof value !== "object" || value === null || Array.isArray(value))
      fail(place, `is ${show(value)}; it must be an object`);
    const other = Object.keys(value).find(name => !known.includes(name));
    if (other !== undefined && !hasOthers) fail(place, `has the unknown field ${show(other)}`);
    for (const [name, inner] of Object.entries(fields)) {
      const key = name.replace("?", "");
      if (Object.hasOwn(value, key)) inner(value[key], `${place}.${key}`);
      else if (!name.endsWith("?")) fail(place, `lacks ${key}`);
    }
  };
}

/** @type {Check} */
const samplingTexts = (value, place) => {
  object({})(value, place, true);
  for (const [name, one] of Object.entries(value)) text(one, `${place}.${name}`);
};

const MESSAGE = {
  role: oneOf(["user", "assistant", "tool"]),
  content: text,
  "toolCalls?": list(object({ id: text, name: text, arguments: text })),
  "results?": list(object({ toolCallId: text, name: text, content: text })),
  "model?": text,
  "finishReason?": text,
  "error?": text,
  "usage?": object({ promptTokens: count, completionTokens: count }),
  "timing?": object({ ttftMs: time, tokensPerS: timeOrNothing }),
};
const OPTIONS = {
  system: text,
  safePrompt: flag,
  sampling: samplingTexts,
  format: oneOf(FORMATS),
  jsonSchema: text,
  regex: text,
  choices: text,
  tools: text,
  toolChoice: text,
  parallelToolCalls: flag,
};
const checkConversation = {
  id: check(value => typeof value === "string" && /^[0-9a-f-]{36}$/.test(value), "an id"),
  title: text,
  createdAt: time,
  updatedAt: time,
  options: object(OPTIONS),
  tree: checkTree,
};
