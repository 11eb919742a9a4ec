/**
 * What the browser keeps: conversations and preferences in local storage, the API key in session
 * storage, so that it is gone with the tab.
 *
 * Each conversation has an entry of its own, so two tabs do not overwrite each other's. What is
 * stored is checked when it is read: a damaged entry is told of and left as it is. No DOM.
 */

import { checkOne } from "./transfer.js";

/** @typedef {import("./conversation.js").Conversation} Conversation */
/** @typedef {{model: string, theme: "system"|"light"|"dark", currentId: string}} Preferences */

const PREFIX = "mixtral.conversation.";
const PREFERENCES_KEY = "mixtral.preferences";
const KEY = "mixtral.api-key";

/** Fields of the state that are preferences. */
export const PREFERENCES = /** @type {const} */ (["model", "theme", "currentId"]);

/**
 * @param {Storage} local
 * @param {Storage} session
 */
export function createStorage(local, session) {
  const conversationKeys = () => Object.keys(local).filter(name => name.startsWith(PREFIX));

  return {
    /** @returns {{conversations: Conversation[], problems: string[]}} The newest first. */
    load() {
      /** @type {Conversation[]} */
      const conversations = [];
      const problems = [];
      for (const key of conversationKeys()) {
        try {
          const value = JSON.parse(/** @type {string} */ (local.getItem(key)));
          checkOne(value, key);
          conversations.push(value);
        } catch (error) {
          problems.push(
            `A stored conversation cannot be read: ${/** @type {Error} */ (error).message}`,
          );
        }
      }
      return { conversations: conversations.sort((a, b) => b.updatedAt - a.updatedAt), problems };
    },
    /**
     * @param {Conversation} conversation
     * @returns {string|null} What is wrong, when it could not be stored.
     */
    save(conversation) {
      try {
        local.setItem(PREFIX + conversation.id, JSON.stringify(conversation));
        return null;
      } catch {
        return "The browser's storage is full: this conversation is not kept. Export and delete old ones under Settings.";
      }
    },
    /** @param {string} id */
    remove: id => local.removeItem(PREFIX + id),
    /** Remove all conversations, also those of other tabs and those that could not be read. */
    clear() {
      for (const key of conversationKeys()) local.removeItem(key);
    },
    /** @returns {Preferences} */
    loadPreferences() {
      const defaults = { model: "", theme: /** @type {const} */ ("system"), currentId: "" };
      try {
        const { model, theme, currentId } = JSON.parse(local.getItem(PREFERENCES_KEY) ?? "{}");
        return {
          model: typeof model === "string" ? model : defaults.model,
          theme: ["system", "light", "dark"].includes(theme) ? theme : defaults.theme,
          currentId: typeof currentId === "string" ? currentId : defaults.currentId,
        };
      } catch {
        return defaults;
      }
    },
    /** @param {Partial<Preferences>} changed Those that are not among them stay as they are stored. */
    savePreferences(changed) {
      if (!Object.keys(changed).length) return;
      try {
        const { model, theme, currentId } = { ...this.loadPreferences(), ...changed };
        local.setItem(PREFERENCES_KEY, JSON.stringify({ model, theme, currentId }));
      } catch {
        // Full storage is told of when a conversation is saved.
      }
    },
    /** @returns {string} */
    loadKey: () => session.getItem(KEY) ?? "",
    /** @param {string} key */
    saveKey: key => (key ? session.setItem(KEY, key) : session.removeItem(KEY)),
  };
}

/** @returns {Storage} One that is gone with the page; its entries are its own properties, as in the browser's. */
export function memoryStorage() {
  return Object.create({
    /** @param {string} key */
    getItem(key) {
      return this[key] ?? null;
    },
    /** @param {string} key @param {string} value */
    setItem(key, value) {
      this[key] = value;
    },
    /** @param {string} key */
    removeItem(key) {
      delete this[key];
    },
  });
}
