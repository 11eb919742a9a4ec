/**
 * Small ways to make and change elements. Text is always set as text; nothing here reads HTML.
 */

/** @typedef {Node|string|null|undefined|false} Child */

/**
 * Make an element.
 *
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, any>} [props] `class`, `testid`, `on<event>` as listeners, properties of the element
 *   such as `value`, `hidden`, `disabled`; everything else becomes an attribute, unless it is null or false.
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name === "testid") element.dataset.testid = value;
    else if (PROPERTIES.has(name)) /** @type {any} */ (element)[name] = value;
    else if (value !== null && value !== undefined && value !== false)
      element.setAttribute(name, value === true ? "" : value);
  }
  append(element, children);
  return element;
}

const PROPERTIES = new Set([
  "value",
  "checked",
  "disabled",
  "hidden",
  "open",
  "selected",
  "multiple",
  "readOnly",
]);

/** @param {Node} parent @param {Child[]} children */
function append(parent, children) {
  for (const child of children)
    if (child)
      parent.appendChild(typeof child === "string" ? document.createTextNode(child) : child);
}

/**
 * Replace everything inside an element.
 *
 * @param {Element|DocumentFragment} parent
 * @param {...Child} children
 */
export function fill(parent, ...children) {
  parent.replaceChildren();
  append(parent, children);
}

/**
 * @param {string} id
 * @returns {any} The element of the page with this id; it is there.
 */
export function byId(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`index.html has no element ${id}`);
  return element;
}

/**
 * Set text if it differs, so that screen readers do not hear it twice.
 *
 * @param {Element} element
 * @param {string} text
 */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * @template {(...args: any[]) => void} Work
 * @param {Work} work
 * @param {number} delayMs
 * @returns {Work} Runs it once nothing has called for so long.
 */
export function debounce(work, delayMs) {
  let timer = 0;
  return /** @type {Work} */ (
    (...args) => {
      clearTimeout(timer);
      timer = window.setTimeout(() => work(...args), delayMs);
    }
  );
}

/**
 * @param {() => void} work
 * @param {number} delayMs
 * @returns {() => void} Runs it so long after the first call, however often it is called until then.
 */
export function throttle(work, delayMs) {
  let timer = 0;
  return () => {
    timer ||= window.setTimeout(() => {
      timer = 0;
      work();
    }, delayMs);
  };
}

/**
 * @param {() => void} work
 * @returns {() => void} Runs it once with the next frame, however often it is called before.
 */
export function oncePerFrame(work) {
  let isWaiting = false;
  return () => {
    if (isWaiting) return;
    isWaiting = true;
    requestAnimationFrame(() => {
      isWaiting = false;
      work();
    });
  };
}

/**
 * Copy text. The clipboard's own interface needs HTTPS or localhost; elsewhere the old command serves.
 *
 * @param {string} text
 * @returns {Promise<boolean>} Whether it worked.
 */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = h("textarea", { value: text, class: "visually-hidden", "aria-hidden": "true" });
    const before = /** @type {HTMLElement|null} */ (document.activeElement);
    (document.querySelector("dialog[open]") ?? document.body).append(area);
    area.select();
    const isDone = document.execCommand("copy");
    area.remove();
    before?.focus();
    return isDone;
  }
}

/** @returns {string} A UUID; crypto.randomUUID is missing on plain HTTP from another machine. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, byte => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

/**
 * Offer a text as a file to be saved.
 *
 * @param {string} name
 * @param {string} text
 */
export function saveFile(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/**
 * Ask before something is lost.
 *
 * @param {string} question
 * @param {string} action What the button says.
 * @returns {Promise<boolean>}
 */
export function confirmed(question, action) {
  const dialog = byId("confirm-dialog");
  byId("confirm-text").textContent = question;
  byId("confirm-yes").textContent = action;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise(resolve => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

/**
 * @param {number} number
 * @param {string} noun In the singular.
 * @returns {string} Such as "2 passages".
 */
export const counted = (number, noun) =>
  `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
