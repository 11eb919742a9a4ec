/**
 * Starts the page: reads what the browser kept, makes the parts, joins them.
 *
 *     storage -> store <- chat -> api -> the server
 *                  |
 *                views
 */

import { createApi } from "./api.js";
import { createChat } from "./chat.js";
import { mountChat } from "./chat_view.js";
import { mountDocuments } from "./documents_view.js";
import { byId, debounce, newId, setText } from "./dom.js";
import { mountExperts } from "./experts_view.js";
import { mountPanels } from "./panels.js";
import { mountSettings } from "./settings_view.js";
import { createStorage } from "./storage.js";
import { createStore } from "./store.js";
import { mountTabs } from "./tabs.js";

const SAVE_DELAY_MS = 500;

function start() {
  const storage = createStorage(localStorage, sessionStorage);
  const { conversations, problems } = storage.load();
  const preferences = storage.loadPreferences();
  const store = createStore({
    ...preferences,
    conversations,
    apiKey: storage.loadKey(),
    models: [],
    modelsProblem: "",
    running: null,
    notice: problems[0] ?? "",
    hasStarted: false,
  });
  const api = createApi({
    base: document.baseURI,
    getKey: () => store.get().apiKey,
    fetch: window.fetch.bind(window),
  });
  const chat = createChat({ store, api, newId });
  if (!conversations.length) chat.begin();
  else if (!chat.current()) store.set({ currentId: conversations[0].id });

  keep(store, storage);
  mountNotice(store);
  const loadModels = () => readModels(store, api);
  mountChat({ store, chat, api, storage });
  mountPanels();
  mountSettings({ store, chat, storage, loadModels });
  const documents = mountDocuments({ store, api });
  const experts = mountExperts({ store, chat, api });
  mountTabs({ documents, experts });
  loadModels();
  store.set({ hasStarted: true });
}

/** @param {any} store @param {any} api Ask which models there are, and choose the first if the chosen one is gone. */
async function readModels(store, api) {
  try {
    const { data } = await api.get("v1/models");
    const models = data.filter((/** @type {any} */ card) => card.capabilities?.completion_chat);
    const isThere = models.some((/** @type {any} */ card) => card.id === store.get().model);
    store.set({
      models,
      modelsProblem: "",
      model: isThere ? store.get().model : (models[0]?.id ?? ""),
    });
  } catch (error) {
    const { message } = /** @type {Error} */ (error);
    store.set({ models: [], modelsProblem: message, notice: message });
  }
}

/** @param {any} store @param {any} storage Store what changes, half a second later and when the page is left. */
function keep(store, storage) {
  /** @type {Set<string>} */
  const changed = new Set();
  function save() {
    const { conversations } = store.get();
    for (const conversation of conversations) {
      if (!changed.has(conversation.id)) continue;
      const problem = storage.save(conversation);
      if (problem) store.set({ notice: problem });
    }
    changed.clear();
    storage.savePreferences(store.get());
  }
  const saveSoon = debounce(save, SAVE_DELAY_MS);
  store.watch((/** @type {any} */ state, /** @type {any} */ before) => {
    const old = new Set(before.conversations);
    for (const one of state.conversations) if (!old.has(one)) changed.add(one.id);
    if (
      changed.size ||
      state.model !== before.model ||
      state.theme !== before.theme ||
      state.currentId !== before.currentId
    )
      saveSoon();
  });
  window.addEventListener("pagehide", save);
}

/** @param {any} store The line at the top that tells what went wrong. */
function mountNotice(store) {
  const notice = byId("notice");
  function draw() {
    setText(byId("notice-text"), store.get().notice);
    notice.hidden = !store.get().notice;
  }
  byId("notice-close").addEventListener("click", () => store.set({ notice: "" }));
  store.watch((/** @type {any} */ state, /** @type {any} */ before) => {
    if (state.notice !== before.notice) draw();
  });
  draw();
}

start();
