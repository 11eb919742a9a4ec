/**
 * A question to the documents: the answer as it is made, what it cites, and the passages behind it.
 */

import { byId, counted, fill, h, setText } from "./dom.js";
import { renderMarkdown } from "./markdown.js";
import { showSource } from "./source_view.js";
import { splitMarks } from "./spans.js";

/** @param {any} store @param {any} api Join the form with the server. */
export function mountAsk(store, api) {
  const form = byId("ask-form");
  const question = byId("question");
  const answer = byId("rag-answer");
  const stop = byId("ask-stop");
  const send = byId("ask-send");
  /** @type {AbortController|null} */
  let abort = null;

  form.addEventListener("submit", async (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    if (abort || !question.value.trim()) return;
    abort = new AbortController();
    const state = { text: "", passages: [], whole: /** @type {any} */ (null), failure: "" };
    [send.hidden, stop.hidden] = [true, false];
    setText(byId("ask-status"), "Looking for passages …");
    drawAnswer(api, answer, state);
    const body = {
      question: question.value,
      limit: Number(byId("ask-limit").value),
      ...(store.get().model ? { model: store.get().model } : {}),
    };
    try {
      await api.stream(
        "v1/rag/ask",
        body,
        (/** @type {any} */ piece) => {
          take(state, piece);
          setText(byId("ask-status"), state.whole ? "" : "Answering …");
          drawAnswer(api, answer, state);
        },
        abort.signal,
      );
    } catch (error) {
      if (!abort.signal.aborted) state.failure = /** @type {Error} */ (error).message;
    }
    setText(
      byId("ask-status"),
      abort.signal.aborted ? "Stopped." : state.failure ? "" : "The answer is complete.",
    );
    const hadFocus = document.activeElement === stop;
    [send.hidden, stop.hidden] = [false, true];
    if (hadFocus) question.focus();
    abort = null;
    drawAnswer(api, answer, state);
  });
  stop.addEventListener("click", () => abort?.abort());
}

/** @typedef {{text: string, passages: any[], whole: any, failure: string}} AskState */

/** @param {AskState} state @param {any} piece One event of the stream. */
function take(state, piece) {
  if (piece.error) state.failure = piece.error.message ?? String(piece.error);
  else if (piece.object === "rag.passages") state.passages = piece.data;
  else if (piece.object === "rag.delta") state.text += piece.text;
  else if (piece.object === "rag.answer") [state.whole, state.text] = [piece, piece.answer];
}

/** @param {any} api @param {HTMLElement} target @param {AskState} state */
function drawAnswer(api, target, state) {
  const citations = state.whole?.citations ?? [];
  const nearest = state.whole?.nearest;
  const text = h("div", { class: "markdown", testid: "rag-text" });
  text.append(renderMarkdown(state.text, { isComplete: Boolean(state.whole) }));
  linkMarks(text, citations, citation => showSource(api, citation));
  const isMissing = state.whole && !state.whole.is_found;
  const passages = state.whole?.passages ?? state.passages;
  fill(
    target,
    state.failure &&
      h("p", { class: "failure", role: "alert", testid: "rag-error" }, state.failure),
    isMissing &&
      h("p", { class: "hint", testid: "rag-not-found" }, "Nothing in the documents answers this."),
    text,
    citations.length > 0 && h("h3", {}, "Where this comes from"),
    citations.length > 0 &&
      h(
        "ol",
        { class: "citations" },
        ...citations.map((/** @type {any} */ citation) => citationView(api, citation)),
      ),
    nearest && h("h3", {}, "Nearest to the question, in the document's words"),
    nearest &&
      h("ol", { class: "citations", testid: "rag-nearest" }, sourceView(api, nearest)),
    passages.length > 0 &&
      h(
        "details",
        { testid: "rag-passages" },
        h("summary", {}, `${counted(passages.length, "passage")} read`),
        h(
          "ol",
          {},
          ...passages.map((/** @type {any} */ passage) =>
            h(
              "li",
              {},
              h(
                "p",
                { class: "meaning" },
                `${place(passage)} · similarity ${passage.similarity?.toFixed(2) ?? "?"}`,
              ),
              h("p", { class: "passage" }, passage.text),
            ),
          ),
        ),
      ),
  );
}

/** @param {any} api @param {any} citation */
function citationView(api, citation) {
  return sourceView(
    api,
    citation,
    citation.is_supported === false &&
      h(
        "p",
        { class: "meaning" },
        "The model names this passage, but no sentence of it says the same.",
      ),
  );
}

/** @param {any} api @param {any} citation @param {any[]} remarks Below its words. */
function sourceView(api, citation, ...remarks) {
  return h(
    "li",
    { value: citation.number },
    h(
      "button",
      {
        type: "button",
        class: "link",
        testid: "citation",
        onclick: () => showSource(api, citation),
      },
      place(citation),
    ),
    h("p", { class: "passage" }, citation.text),
    ...remarks,
  );
}

/** @param {any} passage @returns {string} Such as "manual.pdf, page 3, Packing". */
const place = passage =>
  [passage.title || passage.source, passage.page && `page ${passage.page}`, passage.heading]
    .filter(Boolean)
    .join(", ");

/**
 * Turn [2] in an answer into a button, but not in code.
 *
 * @param {HTMLElement} root
 * @param {any[]} citations
 * @param {(citation: any) => void} onOpen
 */
function linkMarks(root, citations, onOpen) {
  const byNumber = new Map(citations.map(citation => [citation.number, citation]));
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  const texts = [];
  while (walker.nextNode()) texts.push(/** @type {Text} */ (walker.currentNode));
  for (const text of texts) {
    if (text.parentElement?.closest("code, a, button")) continue;
    const parts = splitMarks(text.data, new Set(byNumber.keys()));
    if (!parts.some(part => typeof part === "number")) continue;
    text.replaceWith(
      ...parts.map(part =>
        typeof part === "string"
          ? part
          : h(
              "button",
              {
                type: "button",
                class: "mark",
                testid: "citation-mark",
                "aria-label": `Source ${part}`,
                onclick: () => onOpen(byNumber.get(part)),
              },
              `[${part}]`,
            ),
      ),
    );
  }
}
