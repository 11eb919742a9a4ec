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
import { byId, newId, setText, throttle } from "./dom.js";
import { mountExperts } from "./experts_view.js";
import { mountPanels } from "./panels.js";
import { mountSettings } from "./settings_view.js";
import { PREFERENCES, createStorage, memoryStorage } from "./storage.js";
import { createStore } from "./store.js";
import { mountTabs } from "./tabs.js";

const SAVE_DELAY_MS = 500;
const NOT_KEPT =
  "The browser keeps no data of this page: conversations are gone with it. Export those that you need under Settings.";

function start() {
  const { storage, isKept } = openStorage();
  const { conversations, problems } = storage.load();
  const preferences = storage.loadPreferences();
  const store = createStore({
    ...preferences,
    conversations,
    apiKey: storage.loadKey(),
    models: [],
    modelsProblem: "",
    running: null,
    notice: isKept ? (problems[0] ?? "") : NOT_KEPT,
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
  const talk = mountChat({ store, chat, api, storage });
  mountPanels();
  mountSettings({ store, chat, storage, loadModels });
  const documents = mountDocuments({ store, api });
  const experts = mountExperts({ store, chat, api });
  mountTabs({ chat: talk, documents, experts });
  loadModels();
  store.set({ hasStarted: true });
}

/** @returns {{storage: any, isKept: boolean}} The browser's storage, or memory where site data are blocked. */
function openStorage() {
  try {
    return { storage: createStorage(localStorage, sessionStorage), isKept: true };
  } catch {
    return { storage: createStorage(memoryStorage(), memoryStorage()), isKept: false };
  }
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

/**
 * Store what changes: every half second while something does, and when the page is left or hidden.
 *
 * @param {any} store
 * @param {any} storage
 */
function keep(store, storage) {
  /** @type {Set<string>} Conversations that are not stored as they are now. */
  const changed = new Set();
  /** @type {Record<string, string>} Other tabs may have changed the others. */
  let preferences = {};
  let isToldOf = false;

  function save() {
    const { conversations } = store.get();
    for (const id of changed) {
      const conversation = conversations.find((/** @type {any} */ one) => one.id === id);
      const problem = conversation && storage.save(conversation);
      if (!problem) changed.delete(id);
      else if (!isToldOf) {
        isToldOf = true;
        store.set({ notice: problem });
      }
    }
    storage.savePreferences(preferences);
    preferences = {};
  }
  const saveSoon = throttle(save, SAVE_DELAY_MS);
  store.watch((/** @type {any} */ state, /** @type {any} */ before) => {
    // Once for each answer: it would come back with every save while the answer grows.
    if (state.running !== before.running) isToldOf = false;
    const names = PREFERENCES.filter(name => state[name] !== before[name]);
    for (const name of names) preferences[name] = state[name];
    const old = new Set(before.conversations);
    for (const one of state.conversations) if (!old.has(one)) changed.add(one.id);
    // Also when one was deleted, which makes room for those that are not stored yet.
    if (names.length || state.conversations !== before.conversations) saveSoon();
  });
  window.addEventListener("pagehide", save);
  // A phone may end a hidden page without another word.
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "hidden") save();
  });
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
