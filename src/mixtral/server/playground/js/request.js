/**
 * A conversation to the body of `POST /v1/chat/completions`, and what keeps it from being sent.
 *
 * Only what differs from the server's defaults is in the body, so that copied code stays short.
 * No DOM, no network.
 */

import { parseJson } from "./json_text.js";
import { SAMPLING_FIELDS, readField } from "./sampling.js";
import { checkSchema, checkTools } from "./schema_check.js";

/** @typedef {import("./conversation.js").Options} Options */
/** @typedef {import("./tree.js").Node} Node */
/** @typedef {Record<string, any>} Body */
/** @typedef {{fields: Body, problems: string[]}} Part Fields of the body, and what is wrong with them. */

/**
 * @param {object} parts
 * @param {Options} parts.options
 * @param {Node[]} parts.path The messages that are answered.
 * @param {string} parts.model
 * @returns {{body: Body, problems: string[]}} A body without problems may be sent.
 */
export function buildRequest({ options, path, model }) {
  const parts = [readSampling(options), readFormat(options), readTools(options)];
  const body = {
    model,
    messages: messagesOf(options, path),
    ...Object.assign({}, ...parts.map(part => part.fields)),
  };
  if (options.safePrompt) body.safe_prompt = true;
  return { body, problems: parts.flatMap(part => part.problems) };
}

/**
 * @param {Options} options
 * @param {Node[]} path
 * @returns {Body[]} The messages as the API has them.
 */
export function messagesOf(options, path) {
  const system = options.system.trim() ? [{ role: "system", content: options.system }] : [];
  return [...system, ...path.flatMap(node => wireMessages(/** @type {any} */ (node.message)))];
}

/** @param {import("./tree.js").Message} message @returns {Body[]} */
function wireMessages(message) {
  if (message.role === "tool")
    return (message.results ?? []).map(result => ({
      role: "tool",
      name: result.name,
      content: result.content,
      tool_call_id: result.toolCallId,
    }));
  if (!message.toolCalls?.length) return [{ role: message.role, content: message.content }];
  const calls = message.toolCalls.map(call => ({
    id: call.id,
    type: "function",
    function: { name: call.name, arguments: call.arguments },
  }));
  return [{ role: "assistant", content: message.content, tool_calls: calls }];
}

/** @param {Options} options @returns {Part} */
export function readSampling(options) {
  /** @type {Part} */
  const part = { fields: {}, problems: [] };
  for (const field of SAMPLING_FIELDS) {
    const { value, problem } = readField(field, options.sampling[field.name] ?? "");
    if (problem) part.problems.push(problem);
    if (value !== undefined) part.fields[field.name] = value;
  }
  return part;
}

/** @param {Options} options @returns {Part} */
export function readFormat(options) {
  /** @param {Body} response_format @returns {Part} */
  const right = response_format => ({ fields: { response_format }, problems: [] });
  /** @param {string[]} problems @returns {Part} */
  const wrong = (...problems) => ({ fields: {}, problems });
  switch (options.format) {
    case "json_object":
      return right({ type: "json_object" });
    case "json_schema": {
      const { value, problems } = readJson(
        options.jsonSchema,
        checkSchema,
        "The JSON schema is empty.",
      );
      if (problems.length) return wrong(...problems);
      return right({ type: "json_schema", json_schema: { name: "answer", schema: value } });
    }
    case "regex":
      return options.regex
        ? right({ type: "regex", regex: options.regex })
        : wrong("The pattern is empty.");
    case "choice": {
      const choice = options.choices.split("\n").filter(line => line !== "");
      return choice.length
        ? right({ type: "choice", choice })
        : wrong("There is no choice; write one per line.");
    }
    default:
      return { fields: {}, problems: [] };
  }
}

/** @param {Options} options @returns {Part} */
export function readTools(options) {
  if (options.tools.trim() === "") return { fields: {}, problems: [] };
  const { value, problems } = readJson(options.tools, checkTools, "");
  const tools = /** @type {any[]} */ (value);
  if (problems.length || tools.length === 0) return { fields: {}, problems };
  /** @type {Body} */
  const fields = { tools };
  const { toolChoice } = options;
  if (toolChoice === "none" || toolChoice === "any") fields.tool_choice = toolChoice;
  else if (toolChoice !== "auto") {
    if (!tools.some(tool => tool.function.name === toolChoice))
      return {
        fields: {},
        problems: [`The tool ${JSON.stringify(toolChoice)} is chosen, but it is not in the list.`],
      };
    fields.tool_choice = { type: "function", function: { name: toolChoice } };
  }
  if (!options.parallelToolCalls) fields.parallel_tool_calls = false;
  return { fields, problems: [] };
}

/**
 * @param {string} text
 * @param {(value: unknown) => string[]} check
 * @param {string} emptyProblem
 * @returns {{value?: unknown, problems: string[]}}
 */
function readJson(text, check, emptyProblem) {
  if (text.trim() === "") return { problems: [emptyProblem] };
  try {
    const value = parseJson(text);
    return { value, problems: check(value) };
  } catch (error) {
    return { problems: [/** @type {Error} */ (error).message] };
  }
}
