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
const PREFERENCES = "mixtral.preferences";
const KEY = "mixtral.api-key";

/**
 * @param {Storage} local
 * @param {Storage} session
 */
export function createStorage(local, session) {
  return {
    /** @returns {{conversations: Conversation[], problems: string[]}} The newest first. */
    load() {
      /** @type {Conversation[]} */
      const conversations = [];
      const problems = [];
      for (const key of Object.keys(local).filter(name => name.startsWith(PREFIX))) {
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
    /** @returns {Preferences} */
    loadPreferences() {
      const defaults = { model: "", theme: /** @type {const} */ ("system"), currentId: "" };
      try {
        const { model, theme, currentId } = JSON.parse(local.getItem(PREFERENCES) ?? "{}");
        return {
          model: typeof model === "string" ? model : defaults.model,
          theme: ["system", "light", "dark"].includes(theme) ? theme : defaults.theme,
          currentId: typeof currentId === "string" ? currentId : defaults.currentId,
        };
      } catch {
        return defaults;
      }
    },
    /** @param {Preferences} preferences */
    savePreferences({ model, theme, currentId }) {
      try {
        local.setItem(PREFERENCES, JSON.stringify({ model, theme, currentId }));
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
