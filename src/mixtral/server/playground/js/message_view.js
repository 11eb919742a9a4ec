/**
 * One message: its text, what it cost, its branches, and what can be done with it.
 *
 * The element stays while the message grows, so focus and selection stay, too; only what changed is
 * drawn again.
 */

import { copyText, fill, h, setText } from "./dom.js";
import { renderMarkdown } from "./markdown.js";
import { toolCallsView } from "./tool_calls_view.js";

/** @typedef {import("./tree.js").Node} Node */
/** @typedef {import("./tree.js").Message} Message */
/**
 * @typedef {object} Actions What a message can ask for.
 * @property {(id: string) => void} regenerate
 * @property {(id: string, text: string) => boolean} edit Whether the text was taken.
 * @property {(id: string) => void} show
 * @property {(id: string, contents: string[]) => void} answerTools
 */
/**
 * @typedef {object} Surroundings
 * @property {string[]} branches Ids of the messages at this place.
 * @property {boolean} isRunning Whether it is growing.
 * @property {boolean} isBusy Whether any answer is being made.
 * @property {boolean} isLast Whether nothing stands below it.
 */

const NAMES = { user: "You", assistant: "Model", tool: "Tool results" };
const ENDS = {
  stop: "ended by itself",
  length: "cut at the token limit",
  tool_calls: "calls tools",
  stopped: "stopped by you",
  error: "failed",
  edited: "edited by you",
};

/**
 * @param {string} id
 * @param {Actions} actions
 * @returns {{element: HTMLElement, update: (node: Node, around: Surroundings) => void, focusBranch: (step: number) => void}}
 */
export function createMessageView(id, actions) {
  const name = h("h3", { class: "speaker" });
  const body = h("div", { class: "body", testid: "message-body" });
  const extra = h("div", {});
  const facts = h("p", { class: "facts", testid: "message-facts" });
  const failure = h("p", {
    class: "failure",
    role: "alert",
    testid: "message-error",
    hidden: true,
  });
  const branches = createBranches(actions);
  const buttons = createButtons();
  const element = h(
    "article",
    { class: "message", testid: "message", "data-node": id },
    h("header", { class: "message-head" }, name, branches.element),
    body,
    extra,
    failure,
    facts,
    buttons.element,
  );

  /** @type {Message|null} */
  let shown = null;
  let wasRunning = false;
  /** @type {Surroundings|null} */
  let around = null;

  function createButtons() {
    const copy = h(
      "button",
      { type: "button", class: "quiet", testid: "copy-message", onclick: onCopy },
      "Copy",
    );
    const edit = h(
      "button",
      { type: "button", class: "quiet", testid: "edit-message", onclick: beginEdit },
      "Edit",
    );
    const again = h(
      "button",
      {
        type: "button",
        class: "quiet",
        testid: "regenerate",
        onclick: () => actions.regenerate(id),
      },
      "Answer again",
    );
    return { element: h("div", { class: "actions" }, copy, edit, again), copy, edit, again };
  }

  async function onCopy() {
    buttons.copy.textContent = (await copyText(shown?.content ?? "")) ? "Copied" : "Not copied";
    setTimeout(() => (buttons.copy.textContent = "Copy"), 1500);
  }

  function beginEdit() {
    const isUser = shown?.role === "user";
    const area = h("textarea", {
      value: shown?.content ?? "",
      rows: "4",
      testid: "edit-text",
      "aria-label": isUser ? "Your message" : "The answer",
    });
    const end = () => {
      if (shown) drawBody(shown, false);
      element.classList.remove("editing");
      buttons.edit.focus();
    };
    const save = () => {
      if (area.value === shown?.content || actions.edit(id, area.value)) end();
    };
    area.addEventListener("keydown", event => {
      if (event.key === "Escape") {
        event.stopPropagation(); // It would also stop an answer.
        end();
      }
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) save();
    });
    fill(
      body,
      area,
      h(
        "div",
        { class: "row" },
        h(
          "button",
          { type: "button", class: "primary", testid: "edit-save", onclick: save },
          isUser ? "Save and answer" : "Save as a branch",
        ),
        h("button", { type: "button", testid: "edit-cancel", onclick: end }, "Cancel"),
      ),
    );
    element.classList.add("editing");
    area.focus();
  }

  /** @param {Message} message @param {boolean} isRunning */
  function drawBody(message, isRunning) {
    body.classList.toggle("markdown", message.role === "assistant");
    if (message.role === "assistant")
      fill(body, renderMarkdown(message.content, { isComplete: !isRunning }));
    else fill(body, message.content);
  }

  /** @param {Message} message @param {Surroundings} now */
  function drawExtra(message, now) {
    if (message.results)
      fill(
        extra,
        ...message.results.map(result =>
          h(
            "div",
            { class: "tool-card", testid: "tool-result" },
            h("p", {}, h("code", {}, result.name), " returned"),
            h("pre", { tabindex: "0" }, result.content),
          ),
        ),
      );
    else if (message.toolCalls?.length)
      fill(
        extra,
        toolCallsView(
          message.toolCalls,
          now.isLast && !now.isRunning ? contents => actions.answerTools(id, contents) : null,
        ),
      );
    else fill(extra);
  }

  return {
    element,
    focusBranch: branches.focus,
    update(node, now) {
      const message = /** @type {Message} */ (node.message);
      const isEdited = element.classList.contains("editing");
      const isNew = shown === null;
      if (isNew) {
        element.classList.add(message.role);
        element.dataset.role = message.role;
      }
      setText(
        name,
        message.role === "assistant" && message.model ? message.model : NAMES[message.role],
      );
      if (
        !isEdited &&
        (isNew || message.content !== shown?.content || now.isRunning !== wasRunning)
      )
        drawBody(message, now.isRunning);
      if (
        isNew ||
        message.toolCalls !== shown?.toolCalls ||
        now.isRunning !== wasRunning ||
        now.isLast !== around?.isLast
      )
        drawExtra(message, now);
      element.setAttribute("aria-busy", String(now.isRunning));
      setText(failure, message.error ?? "");
      failure.hidden = !message.error;
      setText(facts, factsOf(message, now.isRunning));
      facts.hidden = facts.textContent === "";
      branches.update(id, now);
      for (const button of [buttons.edit, buttons.again]) button.disabled = now.isBusy;
      buttons.again.hidden = message.role !== "assistant";
      buttons.edit.hidden = message.role === "tool" || Boolean(message.toolCalls?.length);
      buttons.copy.hidden = message.content === "";
      [shown, wasRunning, around] = [message, now.isRunning, now];
    },
  };
}

/** @param {Actions} actions */
function createBranches(actions) {
  /** @type {string[]} */
  let ids = [];
  let index = 0;
  const previous = h(
    "button",
    {
      type: "button",
      class: "quiet",
      testid: "branch-previous",
      "aria-label": "Previous branch",
      onclick: () => actions.show(ids[index - 1]),
    },
    "‹",
  );
  const place = h("span", { testid: "branch-place" });
  const next = h(
    "button",
    {
      type: "button",
      class: "quiet",
      testid: "branch-next",
      "aria-label": "Next branch",
      onclick: () => actions.show(ids[index + 1]),
    },
    "›",
  );
  const element = h(
    "div",
    { class: "branches", role: "group", "aria-label": "Branches" },
    previous,
    place,
    next,
  );
  return {
    element,
    /** @param {string} id @param {Surroundings} now */
    update(id, now) {
      ids = now.branches;
      index = ids.indexOf(id);
      element.hidden = ids.length < 2;
      setText(place, `${index + 1} of ${ids.length}`);
      previous.disabled = index === 0;
      next.disabled = index === ids.length - 1;
    },
    /** @param {number} step Keep the focus on the button that was used, or on the other at the end. */
    focus(step) {
      const [wanted, other] = step < 0 ? [previous, next] : [next, previous];
      (wanted.disabled ? other : wanted).focus();
    },
  };
}

/** @param {Message} message @param {boolean} isRunning @returns {string} What it cost. */
function factsOf(message, isRunning) {
  if (message.role !== "assistant") return "";
  if (isRunning) return message.content || message.toolCalls ? "" : "Reading the prompt …";
  const { usage, timing, finishReason } = message;
  return [
    usage && `${usage.promptTokens} tokens in, ${usage.completionTokens} out`,
    timing && `first token after ${seconds(timing.ttftMs)}`,
    timing?.tokensPerS && `${timing.tokensPerS.toFixed(1)} tokens/s`,
    finishReason && (ENDS[/** @type {keyof typeof ENDS} */ (finishReason)] ?? finishReason),
  ]
    .filter(Boolean)
    .join(" · ");
}

/** @param {number} ms */
const seconds = ms => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`);
