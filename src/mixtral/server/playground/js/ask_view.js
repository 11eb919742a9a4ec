/**
 * A question to the documents: the answer as it is made, what it cites, and the passages behind it.
 */

import { byId, counted, fill, h, oncePerFrame, setText } from "./dom.js";
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
    const draw = createAnswer(api, answer);
    const drawSoon = oncePerFrame(() => draw(state));
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
          drawSoon();
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
    draw(state);
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

/**
 * Put an empty answer into its place. Its elements stay while it grows, so what was opened or focused
 * stays so, too.
 *
 * @param {any} api
 * @param {HTMLElement} target
 * @returns {(state: AskState) => void} Draws what is there.
 */
function createAnswer(api, target) {
  const failure = h("p", { class: "failure", role: "alert", testid: "rag-error", hidden: true });
  const missing = h(
    "p",
    { class: "hint", testid: "rag-not-found", hidden: true },
    "Nothing in the documents answers this.",
  );
  const text = h("div", { class: "markdown", testid: "rag-text" });
  const sources = h("div", { class: "rag-sources", hidden: true });
  const passages = createPassages();
  let shownText = "";
  /** @type {any} */
  let shownWhole = null;
  fill(target, failure, missing, text, sources, passages.element);

  return state => {
    const { whole } = state;
    const citations = whole?.citations ?? [];
    setText(failure, state.failure);
    failure.hidden = !state.failure;
    missing.hidden = !whole || whole.is_found;
    passages.update(whole?.passages ?? state.passages);
    if (state.text === shownText && whole === shownWhole) return;
    [shownText, shownWhole] = [state.text, whole];
    fill(text, renderMarkdown(state.text, { isComplete: Boolean(whole) }));
    linkMarks(text, citations, citation => showSource(api, citation));
    fill(sources, ...sourceViews(api, citations, whole?.nearest));
    sources.hidden = !sources.hasChildNodes();
  };
}

/** @param {any} api @param {any[]} citations @param {any} nearest @returns {(HTMLElement|false)[]} */
const sourceViews = (api, citations, nearest) => [
  citations.length > 0 && h("h3", {}, "Where this comes from"),
  citations.length > 0 &&
    h("ol", { class: "citations" }, ...citations.map(citation => citationView(api, citation))),
  Boolean(nearest) && h("h3", {}, "Nearest to the question, in the document's words"),
  Boolean(nearest) &&
    h("ol", { class: "citations", testid: "rag-nearest" }, sourceView(api, nearest)),
];

/** The passages that were read, behind a line that opens them. */
function createPassages() {
  const summary = h("summary", {});
  const list = h("ol", {});
  const element = h("details", { testid: "rag-passages", hidden: true }, summary, list);
  /** @type {any[]} */
  let shown = [];
  return {
    element,
    /** @param {any[]} passages */
    update(passages) {
      if (passages === shown) return;
      shown = passages;
      element.hidden = !passages.length;
      setText(summary, `${counted(passages.length, "passage")} read`);
      fill(list, ...passages.map(passageView));
    },
  };
}

/** @param {any} passage */
const passageView = passage =>
  h(
    "li",
    {},
    h(
      "p",
      { class: "meaning" },
      `${place(passage)} · similarity ${passage.similarity?.toFixed(2) ?? "?"}`,
    ),
    h("p", { class: "passage" }, passage.text),
  );

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
