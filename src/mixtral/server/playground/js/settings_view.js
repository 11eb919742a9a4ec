/**
 * The settings of the page: API key, model, theme, and the conversations as a file.
 */

import { byId, confirmed, fill, h, newId, saveFile, setText } from "./dom.js";
import { MAX_FILE_BYTES, exportText, importText, merge } from "./transfer.js";

/**
 * @param {object} app
 * @param {any} app.store
 * @param {any} app.chat
 * @param {any} app.storage
 * @param {() => Promise<void>} app.loadModels Asks the server again, with the key that there is.
 */
export function mountSettings({ store, chat, storage, loadModels }) {
  mountKey(store, storage, loadModels);
  mountModel(store);
  mountTheme(store);
  mountTransfer(store, chat, storage);
}

/** @param {any} store @param {any} storage @param {() => Promise<void>} loadModels */
function mountKey(store, storage, loadModels) {
  const field = byId("api-key");
  field.value = store.get().apiKey;
  byId("key-form").addEventListener("submit", async (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    const apiKey = field.value.trim();
    storage.saveKey(apiKey);
    store.set({ apiKey, notice: "" });
    setText(byId("key-status"), "Asking the server …");
    await loadModels();
    const { models, modelsProblem } = store.get();
    setText(
      byId("key-status"),
      modelsProblem ||
        `The server answers and has ${models.length} ${models.length === 1 ? "name" : "names"} of models.`,
    );
  });
}

/** @param {any} store */
function mountModel(store) {
  const choice = byId("model-choice");
  choice.addEventListener("change", () => store.set({ model: choice.value }));
  function draw() {
    const { models, model, modelsProblem } = store.get();
    fill(
      choice,
      ...models.map((/** @type {any} */ card) =>
        h(
          "option",
          { value: card.id, selected: card.id === model },
          card.parent
            ? `${card.id} (adapter of ${card.parent})`
            : card.root && card.root !== card.id
              ? `${card.id} (another name of ${card.root})`
              : card.id,
        ),
      ),
    );
    choice.disabled = !models.length;
    const card = models.find((/** @type {any} */ one) => one.id === model);
    setText(
      byId("model-facts"),
      card
        ? `${card.description} Up to ${card.max_context_length.toLocaleString("en")} tokens of prompt and answer.`
        : modelsProblem,
    );
    setText(byId("model-name"), model || "no model");
  }
  store.watch((/** @type {any} */ state, /** @type {any} */ before) => {
    if (
      state.models !== before.models ||
      state.model !== before.model ||
      state.modelsProblem !== before.modelsProblem
    )
      draw();
  });
  draw();
}

/** @param {any} store */
function mountTheme(store) {
  const choice = byId("theme-choice");
  choice.value = store.get().theme;
  choice.addEventListener("change", () => {
    store.set({ theme: choice.value });
    if (choice.value === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = choice.value;
  });
}

/** @param {any} store @param {any} chat @param {any} storage */
function mountTransfer(store, chat, storage) {
  const status = byId("transfer-status");
  byId("export").addEventListener("click", () => {
    const { conversations } = store.get();
    const now = new Date();
    saveFile(
      `mixtral-conversations-${now.toISOString().slice(0, 10)}.json`,
      exportText(conversations, now),
    );
    setText(
      status,
      conversations.length === 1
        ? "1 conversation exported."
        : `${conversations.length} conversations exported.`,
    );
  });
  byId("import").addEventListener("change", async (/** @type {any} */ event) => {
    const [file] = event.target.files;
    event.target.value = "";
    if (!file) return;
    try {
      if (file.size > MAX_FILE_BYTES)
        throw new Error(
          `The file has ${file.size.toLocaleString("en")} bytes; up to ${MAX_FILE_BYTES.toLocaleString("en")} are read.`,
        );
      const { conversations } = store.get();
      const { added, numSame } = merge(conversations, importText(await file.text()), newId);
      store.set({ conversations: [...added, ...conversations] });
      setText(
        status,
        `${added.length} imported${numSame ? `, ${numSame} were there already` : ""}.`,
      );
      status.classList.remove("wrong");
    } catch (error) {
      setText(status, `Nothing imported. ${/** @type {Error} */ (error).message}`);
      status.classList.add("wrong");
    }
  });
  byId("delete-all").addEventListener("click", async () => {
    if (!(await confirmed("Delete all conversations in this browser?", "Delete all"))) return;
    storage.clear();
    chat.clear();
    setText(status, "All conversations are deleted.");
  });
}
