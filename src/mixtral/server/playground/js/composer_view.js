/**
 * Where the next message is written: text, token count, send and stop, and the request as code.
 */

import { composerState } from "./conversation.js";
import { byId, copyText, debounce, fill, h, oncePerFrame, setText } from "./dom.js";
import { buildRequest, messagesOf, readTools } from "./request.js";
import { SNIPPETS } from "./snippets.js";
import { activePath } from "./tree.js";

const COUNT_DELAY_MS = 400;
const HINTS = {
  ready: "",
  results: "Enter what the tools return, above.",
  unanswered: "This message has no answer yet.",
  failed: "The last answer failed or is empty.",
};

/**
 * @param {object} app
 * @param {any} app.store
 * @param {any} app.chat
 * @param {any} app.api
 */
export function createComposer({ store, chat, api }) {
  const form = byId("composer");
  const area = byId("composer-text");
  const send = byId("send");
  const stop = byId("stop");
  const resume = byId("resume");

  let shown = "";

  const path = () => activePath(chat.current().tree);

  async function submit() {
    const text = area.value;
    if (!text.trim() || store.get().running || composerState(path()) !== "ready") return;
    const problems = chat.problems();
    if (problems.length) {
      store.set({ notice: `Not sent: ${problems[0]}` });
      return;
    }
    area.value = "";
    byId("log").scrollTop = byId("log").scrollHeight;
    await chat.send(text);
  }

  function draw() {
    const { running } = store.get();
    const state = composerState(path());
    const hadFocus = document.activeElement === stop || document.activeElement === resume;
    send.hidden = Boolean(running) || state === "unanswered" || state === "failed";
    send.disabled = state !== "ready";
    stop.hidden = !running;
    resume.hidden = Boolean(running) || !(state === "unanswered" || state === "failed");
    area.readOnly = !running && state !== "ready";
    const elsewhere = running && running.conversationId !== store.get().currentId;
    setText(
      byId("composer-hint"),
      elsewhere ? "Another conversation is being answered." : running ? "" : HINTS[state],
    );
    const now = [Boolean(running), ...path().map(node => node.id)].join();
    const isNew = now !== shown;
    shown = now;
    // A button that was used may be gone now; the keyboard goes on from here. Never while nothing but
    // text grows: whoever reads with a screen reader is elsewhere.
    const isLost =
      document.activeElement === document.body ||
      (hadFocus && /** @type {HTMLElement} */ (document.activeElement)?.hidden);
    const isForResult = !running && state === "results" && document.activeElement === area;
    if (isNew && (isLost || isForResult) && !byId("panel-chat").hidden && store.get().hasStarted) {
      const result =
        state === "results" ? document.querySelector("[data-testid=tool-result-text]") : null;
      (running ? stop : (result ?? area)).focus({ preventScroll: true });
    }
  }

  form.addEventListener("submit", (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    submit();
  });
  area.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    submit();
  });
  document.addEventListener("keydown", event => {
    if (event.key === "Escape" && store.get().running && !document.querySelector("dialog[open]"))
      chat.stop();
  });
  stop.addEventListener("click", () => chat.stop());
  resume.addEventListener("click", () => {
    const last = path().at(-1);
    if (!last) return;
    if (last.message?.role === "assistant") chat.regenerate(last.id);
    else chat.answer(last.id);
  });
  const count = createCounter({ store, chat, api, area });
  area.addEventListener("input", count);
  mountSnippets({ store, chat, area });
  const drawSoon = oncePerFrame(draw);
  store.watch((/** @type {any} */ state, /** @type {any} */ before) => {
    const isOther =
      state.conversations !== before.conversations || state.currentId !== before.currentId;
    if (isOther || state.running !== before.running) drawSoon();
    if ((isOther && !state.running) || state.running !== before.running) count();
  });
  draw();
  count();
}

/**
 * Count the tokens of the next prompt on the server, which also checks it as a whole.
 *
 * @param {{store: any, chat: any, api: any, area: HTMLTextAreaElement}} app
 */
function createCounter({ store, chat, api, area }) {
  const output = byId("prompt-tokens");
  /** @type {AbortController|null} */
  let abort = null;

  /** @returns {object|null} What to count; null if no prompt stands there. */
  function prompt() {
    const { options, tree } = chat.current();
    const messages = messagesOf(options, activePath(tree));
    if (area.value.trim()) messages.push({ role: "user", content: area.value });
    const last = messages.at(-1)?.role;
    if (last !== "user" && last !== "tool") return null;
    const { tools } = readTools(options).fields;
    const { model } = store.get();
    return {
      messages,
      ...(model ? { model } : {}),
      ...(tools && options.toolChoice !== "none" ? { tools } : {}),
      ...(options.safePrompt ? { safe_prompt: true } : {}),
    };
  }

  return debounce(async () => {
    abort?.abort();
    const body = store.get().running ? null : prompt();
    if (!body) {
      setText(output, "");
      output.classList.remove("wrong");
      return;
    }
    abort = new AbortController();
    const { signal } = abort;
    try {
      const { count, max_model_len: room } = await api.post("v1/tokenize", body, signal);
      setText(output, `${count.toLocaleString("en")} of ${room.toLocaleString("en")} tokens`);
      output.classList.toggle("wrong", count >= room);
    } catch (error) {
      if (signal.aborted) return;
      setText(output, /** @type {Error} */ (error).message);
      output.classList.add("wrong");
    }
  }, COUNT_DELAY_MS);
}

/** @param {{store: any, chat: any, area: HTMLTextAreaElement}} app The dialog that shows the request as code. */
function mountSnippets({ store, chat, area }) {
  const dialog = byId("snippet-dialog");
  const choice = byId("snippet-kind");
  const code = byId("snippet-code");
  const copy = byId("snippet-copy");

  function draw() {
    const { options, tree } = chat.current();
    const { model, apiKey } = store.get();
    const { body, problems } = buildRequest({ options, path: activePath(tree), model });
    // An answer that stands last is what the request would ask for.
    if (body.messages.at(-1)?.role === "assistant" && !area.value.trim()) body.messages.pop();
    if (area.value.trim() || !body.messages.length)
      body.messages.push({ role: "user", content: area.value.trim() ? area.value : "Say hello." });
    const url = new URL(".", document.baseURI).href.replace(/\/$/, "");
    const kind = /** @type {keyof typeof SNIPPETS} */ (choice.value);
    code.textContent = SNIPPETS[kind].write(body, { url, hasKey: Boolean(apiKey) });
    setText(
      byId("snippet-problem"),
      problems.length ? `Without a part that is wrong: ${problems[0]}` : "",
    );
  }

  fill(
    choice,
    ...Object.entries(SNIPPETS).map(([kind, { label }]) => h("option", { value: kind }, label)),
  );
  choice.addEventListener("change", draw);
  byId("show-snippet").addEventListener("click", () => {
    draw();
    dialog.showModal();
  });
  copy.addEventListener("click", async () => {
    copy.textContent = (await copyText(code.textContent)) ? "Copied" : "Not copied";
    setTimeout(() => (copy.textContent = "Copy"), 1500);
  });
}
