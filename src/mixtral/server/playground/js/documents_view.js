/**
 * The documents: add files, list and remove them. Asking them is in `ask_view.js`.
 */

import { mountAsk } from "./ask_view.js";
import { byId, confirmed, counted, fill, h, setText } from "./dom.js";
import { showSource } from "./source_view.js";

const PATH = "v1/rag/documents";
const STATUS = {
  added: "added",
  updated: "updated",
  unchanged: "was there already",
  refused: "refused",
};

/**
 * @param {object} app
 * @param {any} app.store
 * @param {any} app.api
 * @returns {{open: () => void}} `open` is called when the view is shown.
 */
export function mountDocuments({ store, api }) {
  const list = byId("document-list");
  mountUpload(api, draw);
  mountAsk(store, api);

  async function draw() {
    try {
      const { data } = await api.get(PATH);
      showState("");
      setText(byId("document-count"), counted(data.length, "document"));
      fill(list, ...data.map(row));
      byId("documents-empty").hidden = data.length > 0;
    } catch (error) {
      const { status, message } = /** @type {any} */ (error);
      showState(status === 404 || status === 501 ? "absent" : "broken", message);
    }
  }

  /** @param {""|"absent"|"broken"} state @param {string} [message] */
  function showState(state, message = "") {
    byId("documents-ready").hidden = state !== "";
    byId("documents-absent").hidden = state !== "absent";
    byId("documents-broken").hidden = state !== "broken";
    setText(byId("documents-message"), message);
    setText(byId("documents-reason"), message);
  }

  /** @param {any} document */
  function row(document) {
    const facts = [
      counted(document.num_chunks, "passage"),
      document.num_pages && counted(document.num_pages, "page"),
      `${document.num_characters.toLocaleString("en")} characters`,
    ]
      .filter(Boolean)
      .join(" · ");
    async function remove() {
      if (
        !(await confirmed(
          `Remove “${document.title}” from the store? The file itself stays where it is.`,
          "Remove",
        ))
      )
        return;
      try {
        await api.remove(`${PATH}/${encodeURIComponent(document.id)}`);
      } catch (error) {
        store.set({ notice: /** @type {Error} */ (error).message });
      }
      await draw();
      byId("file-input").focus();
    }
    return h(
      "li",
      { testid: "document" },
      h(
        "div",
        {},
        h(
          "button",
          {
            type: "button",
            class: "link",
            testid: "open-document",
            onclick: () => showSource(api, { ...document, document_id: document.id }),
          },
          document.title || document.source,
        ),
        h("p", { class: "meaning" }, facts),
      ),
      h(
        "button",
        {
          type: "button",
          class: "quiet",
          testid: "remove-document",
          "aria-label": `Remove ${document.title || document.source}`,
          onclick: remove,
        },
        "×",
      ),
    );
  }

  return { open: draw };
}

/** @param {any} api @param {() => Promise<void>} onAdded Files by choice or dropped, one request for each. */
function mountUpload(api, onAdded) {
  const input = byId("file-input");
  const zone = byId("drop-zone");
  const results = byId("upload-results");
  const status = byId("upload-status");

  /** @param {File[]} files */
  async function add(files) {
    fill(results);
    input.disabled = true;
    for (const [i, file] of files.entries()) {
      setText(status, `Reading ${file.name} (${i + 1} of ${files.length}) …`);
      const form = new FormData();
      form.append("file", file, file.name);
      try {
        const { data } = await api.upload(PATH, form);
        for (const one of data)
          tell(
            one.title || file.name,
            one.status,
            [one.reason, one.num_chunks > 0 && counted(one.num_chunks, "passage")]
              .filter(Boolean)
              .join("; ") || "nothing to read",
          );
      } catch (error) {
        tell(file.name, "refused", /** @type {Error} */ (error).message);
      }
    }
    setText(status, files.length === 1 ? "Done." : `Done with ${files.length} files.`);
    input.disabled = false;
    input.value = "";
    await onAdded();
  }

  /** @param {string} name @param {string} outcome @param {string} detail */
  function tell(name, outcome, detail) {
    const word = STATUS[/** @type {keyof typeof STATUS} */ (outcome)] ?? outcome;
    results.append(
      h(
        "li",
        { class: outcome === "refused" ? "wrong" : "", testid: "upload-result" },
        `${name}: ${word} (${detail})`,
      ),
    );
  }

  input.addEventListener("change", () => input.files.length && add([...input.files]));
  for (const name of ["dragover", "dragleave", "drop"])
    zone.addEventListener(name, (/** @type {DragEvent} */ event) => {
      event.preventDefault();
      zone.classList.toggle("over", name === "dragover");
      const files = [...(event.dataTransfer?.files ?? [])];
      if (name === "drop" && files.length && !input.disabled) add(files);
    });
}
