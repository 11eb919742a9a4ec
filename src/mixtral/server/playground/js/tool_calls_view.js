/**
 * The tools that an answer called: what the model wants, and fields for what they return.
 */

import { h } from "./dom.js";

/** @typedef {import("./tree.js").ToolCall} ToolCall */

/**
 * @param {ToolCall[]} calls
 * @param {((contents: string[]) => void)|null} onAnswer Takes one result per call; null shows the calls alone.
 * @returns {HTMLElement}
 */
export function toolCallsView(calls, onAnswer) {
  if (!onAnswer)
    return h(
      "div",
      {},
      ...calls.map(call => h("div", { class: "tool-card", testid: "tool-call" }, ...title(call))),
    );
  /** @type {HTMLTextAreaElement[]} */
  const areas = [];
  const cards = calls.map((call, i) => {
    const id = `result-${call.id}-${i}`;
    const area = h("textarea", {
      id,
      rows: "2",
      required: true,
      testid: "tool-result-text",
      placeholder: '{"celsius": 21}',
    });
    areas.push(area);
    return h(
      "div",
      { class: "tool-card", testid: "tool-call" },
      ...title(call),
      h("label", { for: id }, `What ${call.name} returns, as text or JSON`),
      area,
    );
  });
  const form = h(
    "form",
    {
      testid: "tool-results-form",
      onsubmit: (/** @type {SubmitEvent} */ event) => {
        event.preventDefault();
        onAnswer(areas.map(area => area.value));
      },
    },
    ...cards,
    h(
      "button",
      { class: "primary", testid: "send-tool-results" },
      calls.length > 1 ? "Send the results" : "Send the result",
    ),
  );
  return form;
}

/** @param {ToolCall} call */
function title(call) {
  return [
    h("p", {}, "The model calls ", h("code", { testid: "tool-call-name" }, call.name)),
    h(
      "pre",
      { tabindex: "0", "aria-label": `Arguments of ${call.name}`, testid: "tool-call-arguments" },
      indented(call.arguments),
    ),
  ];
}

/** @param {string} text @returns {string} JSON with line breaks where that changes no number. */
function indented(text) {
  try {
    const value = JSON.parse(text);
    const compact = text.replace(/\s+/g, "");
    return JSON.stringify(value).replace(/\s+/g, "") === compact
      ? JSON.stringify(value, null, 2)
      : text;
  } catch {
    return text;
  }
}
