/**
 * The chat: the list of conversations, the shown path of messages, and what screen readers hear of it.
 *
 * Growing text is drawn once per frame at most. A screen reader is told that an answer is being made,
 * and reads it once it is complete; it would stumble over every token otherwise.
 */

import { createComposer } from "./composer_view.js";
import { titleOf } from "./conversation.js";
import { byId, confirmed, fill, h, oncePerFrame, setText } from "./dom.js";
import { createMessageView } from "./message_view.js";
import { mountOptions } from "./options_view.js";
import { activePath, branchesAt } from "./tree.js";

const MAX_SPOKEN = 1500; // Characters of an answer that are read out at once.
const NEAR_END_PX = 60;

/**
 * @param {object} app
 * @param {any} app.store
 * @param {any} app.chat
 * @param {any} app.api
 * @param {any} app.storage
 * @returns {{open: () => void}} Called when the view is shown.
 */
export function mountChat({ store, chat, api, storage }) {
  const log = byId("log");
  const list = byId("messages");
  /** @type {Map<string, ReturnType<typeof createMessageView>>} */
  let views = new Map();
  let shownId = "";
  let focusAfter = 0;
  let wasOpen = false;

  const actions = {
    regenerate: (/** @type {string} */ id) => chat.regenerate(id),
    edit: (/** @type {string} */ id, /** @type {string} */ text) => chat.edit(id, text) !== null,
    answerTools: (/** @type {string} */ id, /** @type {string[]} */ contents) =>
      chat.answerTools(id, contents),
    show(/** @type {string} */ id) {
      const { tree } = chat.current();
      const { ids } = branchesAt(tree, id);
      const { index } = branchesAt(tree, tree.nodes[tree.nodes[id].parent].chosen);
      focusAfter = ids.indexOf(id) - index;
      chat.show(id);
      draw();
      views.get(id)?.focusBranch(focusAfter);
    },
  };

  function draw() {
    const conversation = chat.current();
    const { running } = store.get();
    if (conversation.id !== shownId) {
      views = new Map();
      fill(list);
      shownId = conversation.id;
    }
    const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_END_PX;
    const path = activePath(conversation.tree);
    const next = new Map();
    path.forEach((node, i) => {
      const view = views.get(node.id) ?? createMessageView(node.id, actions);
      view.update(node, {
        branches: branchesAt(conversation.tree, node.id).ids,
        isRunning: running?.conversationId === conversation.id && running.nodeIds.includes(node.id),
        isBusy: Boolean(running),
        isLast: i === path.length - 1,
      });
      next.set(node.id, view);
    });
    for (const [id, view] of views) if (!next.has(id)) view.element.remove();
    path.forEach((node, i) => {
      const { element } = next.get(node.id);
      if (list.children[i] !== element) list.insertBefore(element, list.children[i] ?? null);
    });
    views = next;
    byId("welcome").hidden = path.length > 0;
    setText(byId("conversation-title"), titleOf(conversation));
    if (isAtEnd) log.scrollTop = log.scrollHeight;
  }

  const drawSoon = oncePerFrame(draw);
  // Before the composer's: where it puts the focus must have been drawn.
  store.watch((/** @type {any} */ state, /** @type {any} */ before) => {
    if (
      state.conversations !== before.conversations ||
      state.currentId !== before.currentId ||
      state.running !== before.running
    )
      drawSoon();
    if (state.running !== before.running) speak(state, before);
  });
  draw();
  mountConversations({ store, chat, storage });
  mountOptions({ store, chat });
  createComposer({ store, chat, api });
  for (const button of document.querySelectorAll("[data-example]"))
    button.addEventListener("click", () => {
      byId("composer-text").value = button.textContent;
      byId("composer-text").dispatchEvent(new Event("input"));
      byId("composer-text").focus();
    });
  return {
    open() {
      // Not before: what is hidden has no height.
      if (!wasOpen) log.scrollTop = log.scrollHeight;
      wasOpen = true;
    },
  };
}

/** @param {any} state @param {any} before Tell a screen reader that an answer began, or what it was. */
function speak(state, before) {
  const live = byId("live");
  if (state.running) {
    live.textContent = "The model is answering.";
    return;
  }
  const conversation = state.conversations.find(
    (/** @type {any} */ one) => one.id === before.running.conversationId,
  );
  const message = conversation?.tree.nodes[before.running.nodeIds[0]]?.message;
  if (!message) live.textContent = "Stopped.";
  else if (message.toolCalls?.length)
    live.textContent = `The model calls ${message.toolCalls.map((/** @type {any} */ call) => call.name).join(" and ")}.`;
  else if (!message.error) live.textContent = `The answer: ${message.content.slice(0, MAX_SPOKEN)}`;
}

/** @param {{store: any, chat: any, storage: any}} app The list at the left. */
function mountConversations({ store, chat, storage }) {
  const list = byId("conversation-list");
  const begin = () => {
    chat.begin();
    byId("panel-chat").classList.remove("shows-conversations");
    byId("composer-text").focus();
  };
  byId("new-conversation").addEventListener("click", begin);

  /** @param {any} conversation */
  async function remove(conversation) {
    if (!(await confirmed(`Delete “${titleOf(conversation)}” with all its branches?`, "Delete")))
      return;
    const { conversations, currentId, running } = store.get();
    if (running?.conversationId === conversation.id) chat.stop();
    const rest = conversations.filter((/** @type {any} */ one) => one.id !== conversation.id);
    storage.remove(conversation.id);
    if (!rest.length) chat.clear();
    else
      store.set({
        conversations: rest,
        currentId: currentId === conversation.id ? rest[0].id : currentId,
      });
    byId("new-conversation").focus();
  }

  function draw() {
    const { conversations, currentId } = store.get();
    fill(
      list,
      ...conversations.map((/** @type {any} */ conversation) => {
        const title = titleOf(conversation);
        const isCurrent = conversation.id === currentId;
        const open = () => {
          store.set({ currentId: conversation.id });
          byId("panel-chat").classList.remove("shows-conversations");
          drawIfNew();
          list.querySelector("[aria-current]")?.focus();
        };
        return h(
          "li",
          { class: isCurrent ? "current" : "" },
          h(
            "button",
            {
              type: "button",
              class: "open",
              testid: "open-conversation",
              "aria-current": isCurrent ? "true" : null,
              onclick: open,
            },
            title,
          ),
          h(
            "button",
            {
              type: "button",
              class: "quiet",
              testid: "delete-conversation",
              "aria-label": `Delete ${title}`,
              onclick: () => remove(conversation),
            },
            "×",
          ),
        );
      }),
    );
  }

  /** @param {any} state */
  const shown = state =>
    state.conversations.map((/** @type {any} */ one) => `${one.id} ${titleOf(one)}`).join("\n") +
    state.currentId;
  let last = "";
  const drawIfNew = () => {
    const now = shown(store.get());
    if (now !== last) draw();
    last = now;
  };
  store.watch(oncePerFrame(drawIfNew));
  drawIfNew();
}
