/**
 * The dialog that shows a document, scrolled to what an answer cites.
 */

import { byId, fill, h, setText } from "./dom.js";
import { locate } from "./spans.js";

/**
 * @param {any} api
 * @param {{document_id: string, title: string, source: string, page?: number|null, start?: number, end?: number, text?: string}} source
 *   A citation; without `text`, a whole document.
 */
export async function showSource(api, source) {
  const dialog = byId("source-dialog");
  const body = byId("source-text");
  setText(byId("source-title"), source.title || source.source);
  setText(
    byId("source-place"),
    [source.source, source.page && `page ${source.page}`].filter(Boolean).join(", "),
  );
  fill(body, "Reading …");
  dialog.showModal();
  try {
    const { text } = await api.get(`v1/rag/documents/${encodeURIComponent(source.document_id)}`);
    draw(body, text, source);
  } catch (error) {
    const message = `The document cannot be shown: ${/** @type {Error} */ (error).message}`;
    fill(
      body,
      h("p", { class: "failure" }, message),
      source.text ? h("mark", { testid: "cited" }, source.text) : null,
    );
  }
}

/** @param {HTMLElement} body @param {string} text @param {any} source */
function draw(body, text, source) {
  if (source.text === undefined) {
    fill(body, text);
    return;
  }
  const found = locate(text, source);
  if (!found) {
    fill(
      body,
      h("p", { class: "hint" }, "The document has changed since; this is what was cited."),
      h("mark", { testid: "cited" }, source.text),
    );
    return;
  }
  const mark = h("mark", { testid: "cited", tabindex: "-1" }, found.cited);
  fill(body, found.before, mark, found.after);
  mark.scrollIntoView({ block: "center" });
}
