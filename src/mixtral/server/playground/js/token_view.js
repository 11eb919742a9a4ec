/**
 * Tokens in the colours of their experts, and the experts of one of them in all layers.
 *
 * The list is one stop for the keyboard; arrows, Home and End move inside it (WAI-ARIA, listbox). The
 * details stand in a place of their own, so nothing moves when another token is chosen.
 */

import { fill, h } from "./dom.js";
import { NUM_COLOURS, percent, routeInWords, visibleText } from "./routes.js";

/** @typedef {import("./routes.js").RoutedToken} RoutedToken */

const THIN_SPACE = "\u2009";

/**
 * @param {HTMLElement} list
 * @param {HTMLElement} details
 */
export function createTokenView(list, details) {
  /** @type {RoutedToken[]} */
  let tokens = [];
  let layer = 0;
  let chosen = 0;

  /** @param {number} i */
  function choose(i) {
    list.children[chosen]?.setAttribute("aria-selected", "false");
    chosen = i;
    const element = list.children[i];
    if (!element) return;
    element.setAttribute("aria-selected", "true");
    list.setAttribute("aria-activedescendant", element.id);
    drawDetails();
  }

  /** @param {HTMLElement} element @param {RoutedToken} token Colour by the first expert at the layer. */
  function paint(element, token) {
    const expert = token.expertIds[layer]?.[0];
    const isKnown = expert !== undefined;
    element.className = `token${isKnown ? ` expert-${expert % NUM_COLOURS}` : ""}${token.isAnswer ? " answer" : ""}`;
    fill(element, visibleText(token), THIN_SPACE, h("sub", {}, isKnown ? String(expert) : "·"));
    // The name begins with what is seen, so that who speaks to the page can say it (WCAG 2.5.3).
    element.setAttribute("aria-label", `${element.textContent}: ${routeInWords(token, layer)}`);
  }

  function drawDetails() {
    const token = tokens[chosen];
    if (!token) {
      fill(
        details,
        h("p", { class: "hint" }, "Point at a token, or move to it with the arrow keys."),
      );
      return;
    }
    const rows = token.expertIds.map((experts, at) =>
      h(
        "tr",
        { class: at === layer ? "current" : "", testid: "layer-row" },
        h("th", { scope: "row" }, String(at)),
        ...experts.map((expert, i) =>
          h(
            "td",
            {},
            h("span", { class: `swatch expert-${expert % NUM_COLOURS}` }, String(expert)),
            ` ${percent(token.weights[at][i])}`,
          ),
        ),
      ),
    );
    const numPerToken = token.expertIds[0]?.length ?? 0;
    const heads = Array.from({ length: numPerToken }, (_, i) =>
      h("th", { scope: "col" }, i === 0 ? "First expert" : i === 1 ? "Second" : `No. ${i + 1}`),
    );
    fill(
      details,
      h(
        "p",
        { class: "chosen-token", testid: "token-name" },
        h("code", {}, visibleText(token)),
        ` token ${token.id}, ${chosen + 1} of ${tokens.length}`,
      ),
      rows.length
        ? h(
            "div",
            {
              class: "table-frame",
              tabindex: "0",
              role: "region",
              "aria-label": "Experts in all layers",
            },
            h(
              "table",
              { class: "layers", testid: "token-layers" },
              h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Layer"), ...heads)),
              h("tbody", {}, ...rows),
            ),
          )
        : h(
            "p",
            { class: "hint" },
            "The last token of an answer is never read, so no expert saw it.",
          ),
    );
  }

  list.addEventListener("keydown", event => {
    const steps = {
      ArrowRight: 1,
      ArrowDown: 1,
      ArrowLeft: -1,
      ArrowUp: -1,
      Home: -tokens.length,
      End: tokens.length,
      PageDown: 20,
      PageUp: -20,
    };
    const step = steps[/** @type {keyof typeof steps} */ (event.key)];
    if (step === undefined || !tokens.length) return;
    event.preventDefault();
    choose(Math.max(0, Math.min(tokens.length - 1, chosen + step)));
    list.children[chosen].scrollIntoView({ block: "nearest" });
  });
  for (const name of ["pointerover", "click"])
    list.addEventListener(name, event => {
      const element = /** @type {HTMLElement} */ (event.target).closest(".token");
      if (element) choose([...list.children].indexOf(element));
    });

  return {
    /** @param {RoutedToken[]} now Show these; what was drawn and has not changed stays. */
    show(now) {
      const before = tokens;
      tokens = now;
      now.forEach((token, i) => {
        const old = before[i];
        const isSame =
          old &&
          old.id === token.id &&
          old.text === token.text &&
          old.expertIds.length === token.expertIds.length;
        if (list.children[i] && isSame && old.expertIds[layer]?.[0] === token.expertIds[layer]?.[0])
          return;
        const element =
          /** @type {HTMLElement} */ (list.children[i]) ??
          h("span", {
            id: `token-${i}`,
            role: "option",
            "aria-selected": "false",
            testid: "token",
          });
        paint(element, token);
        if (!element.isConnected) list.append(element);
      });
      while (list.children.length > now.length) list.lastElementChild?.remove();
      list.hidden = now.length === 0;
      if (chosen >= now.length) chosen = 0;
      choose(chosen);
      if (!now.length) drawDetails();
    },
    /** @param {number} now Colour by this layer, from 0. */
    setLayer(now) {
      layer = now;
      tokens.forEach((token, i) => paint(/** @type {HTMLElement} */ (list.children[i]), token));
      drawDetails();
    },
    get tokens() {
      return tokens;
    },
  };
}

/**
 * Explain the colours.
 *
 * @param {HTMLElement} legend
 * @param {number} numExperts
 */
export function drawLegend(legend, numExperts) {
  const text = `${numExperts}`;
  if (legend.dataset.experts === text) return;
  legend.dataset.experts = text;
  fill(
    legend,
    ...Array.from({ length: numExperts }, (_, expert) =>
      h(
        "li",
        {},
        h(
          "span",
          { class: `swatch expert-${expert % NUM_COLOURS}`, "aria-hidden": "true" },
          String(expert),
        ),
        ` expert ${expert}`,
      ),
    ),
  );
}
