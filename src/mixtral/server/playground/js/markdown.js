/**
 * Markdown of a model to nodes that can do nothing but be read.
 *
 * Three walls, each enough by itself: markdown-it writes raw HTML as text; DOMPurify lets through only
 * the tags and attributes named here, and links only to http, https and mailto; the page's policy
 * runs no inline script, loads nothing from elsewhere and ignores style attributes. Pictures become
 * links: loading one would tell another server that the answer was read.
 */

import DOMPurify from "../vendor/dompurify/purify.es.mjs";
import hljs from "../vendor/highlight.js/highlight.min.js";
import MarkdownIt from "../vendor/markdown-it/markdown-it.esm.min.mjs";
import { copyText, h } from "./dom.js";

const ALLOWED_TAGS = [
  "a",
  "blockquote",
  "br",
  "code",
  "del",
  "em",
  "h1",
  "h2",
  "h3",
  "h4",
  "h5",
  "h6",
  "hr",
  "li",
  "ol",
  "p",
  "pre",
  "s",
  "span",
  "strong",
  "table",
  "tbody",
  "td",
  "th",
  "thead",
  "tr",
  "ul",
];
const ALLOWED_ATTR = ["class", "href", "start", "title"];
const ALLOWED_LINK = /^(?:https?:|mailto:)/i;
const ALLOWED_CLASS =
  /^(?:hljs(?:-[\w-]+)?|language-[\w+#-]+|align-(?:left|right|center)|[\w-]+_)$/;
const MAX_HIGHLIGHTED = 50_000; // Characters; colouring takes about a millisecond for 10,000.

const markdown = createMarkdown();
const purifier = createPurifier();

/**
 * Render Markdown.
 *
 * @param {string} text
 * @param {{isComplete: boolean}} options While it grows, code is not coloured: that would take too long.
 * @returns {DocumentFragment}
 */
export function renderMarkdown(text, { isComplete }) {
  const mark = fence(text);
  const source = isComplete && isJson(text) ? `${mark}json\n${text.trim()}\n${mark}` : text;
  const fragment = purifier.sanitize(markdown.render(source, { isComplete }), {
    ALLOWED_TAGS,
    ALLOWED_ATTR,
    ALLOWED_URI_REGEXP: ALLOWED_LINK,
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
    RETURN_DOM_FRAGMENT: true,
  });
  for (const block of fragment.querySelectorAll("pre")) addFrame(block);
  for (const table of fragment.querySelectorAll("table")) {
    // Wide tables scroll by themselves, by keyboard too.
    const frame = h("div", {
      class: "table-frame",
      tabindex: "0",
      role: "region",
      "aria-label": "Table",
    });
    table.replaceWith(frame);
    frame.append(table);
  }
  return fragment;
}

/** @returns {any} */
function createMarkdown() {
  const parser = new /** @type {any} */ (MarkdownIt)("default", {
    html: false,
    linkify: true,
    breaks: false,
  });
  parser.linkify.set({ fuzzyLink: false, fuzzyEmail: false });
  const { rules } = parser.renderer;
  const { escapeHtml } = parser.utils;
  rules.image = (/** @type {any[]} */ tokens, /** @type {number} */ i) => {
    const address = tokens[i].attrGet("src") ?? "";
    return `<a href="${escapeHtml(address)}">${escapeHtml(`picture: ${tokens[i].content || address}`)}</a>`;
  };
  rules.fence = (
    /** @type {any[]} */ tokens,
    /** @type {number} */ i,
    /** @type {any} */ _,
    /** @type {any} */ env,
  ) => {
    const language = tokens[i].info.trim().split(/\s+/)[0];
    return `<pre><code class="language-${escapeHtml(language || "text")}">${highlighted(tokens[i].content, language, env) ?? escapeHtml(tokens[i].content)}</code></pre>`;
  };
  for (const tag of ["th", "td"])
    rules[`${tag}_open`] = (/** @type {any[]} */ tokens, /** @type {number} */ i) => {
      const align = /text-align:(\w+)/.exec(tokens[i].attrGet("style") ?? "");
      return align ? `<${tag} class="align-${align[1]}">` : `<${tag}>`;
    };
  return parser;
}

/** @param {string} code @param {string} language @param {{isComplete?: boolean}} env @returns {string|null} HTML */
function highlighted(code, language, { isComplete }) {
  if (!isComplete || !hljs.getLanguage(language) || code.length > MAX_HIGHLIGHTED) return null;
  return hljs.highlight(code, { language, ignoreIllegals: true }).value;
}

function createPurifier() {
  const made = DOMPurify(window);
  made.addHook("afterSanitizeAttributes", (/** @type {Element} */ node) => {
    const names = (node.getAttribute("class") ?? "")
      .split(/\s+/)
      .filter(name => ALLOWED_CLASS.test(name));
    if (names.length) node.setAttribute("class", names.join(" "));
    else node.removeAttribute("class");
    if (node.tagName !== "A") return;
    // DOMPurify lets relative addresses through; an answer has no business in this server's paths.
    if (!ALLOWED_LINK.test(node.getAttribute("href") ?? "")) node.removeAttribute("href");
    if (!node.hasAttribute("href")) return;
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer nofollow");
  });
  return made;
}

/** @param {string} text @returns {boolean} Whether it is an object or list in JSON, which Markdown would garble. */
function isJson(text) {
  if (!/^\s*[[{]/.test(text)) return false;
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/** @param {string} code @returns {string} A fence that the code does not contain. */
function fence(code) {
  const longest = Math.max(2, ...(code.match(/`+/g) ?? []).map(run => run.length));
  return "`".repeat(longest + 1);
}

/** @param {HTMLElement} block Give a block of code a button that copies it. */
function addFrame(block) {
  const language =
    /language-(\S+)/.exec(block.querySelector("code")?.className ?? "")?.[1] ?? "text";
  const button = h("button", { type: "button", class: "quiet", testid: "copy-code" }, "Copy code");
  const code = block.textContent ?? "";
  button.addEventListener("click", async () => {
    button.textContent = (await copyText(code)) ? "Copied" : "Not copied";
    setTimeout(() => (button.textContent = "Copy code"), 1500);
  });
  const frame = h(
    "div",
    { class: "code-frame" },
    h("div", { class: "code-bar" }, h("span", {}, language), button),
  );
  block.replaceWith(frame);
  block.tabIndex = 0;
  frame.append(block);
}
