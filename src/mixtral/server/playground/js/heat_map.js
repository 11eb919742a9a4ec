/**
 * A table of loads: one row per layer, one column per expert, the share of its layer's visits in each
 * cell as a number and as a colour of one hue.
 */

import { fill, h } from "./dom.js";
import { percent } from "./routes.js";

/**
 * @param {HTMLTableElement} table
 * @param {number[][]} shares [L, E]; each row sums to 1, or to 0 where nothing was counted.
 * @param {string} caption
 */
export function drawHeatMap(table, shares, caption) {
  const numExperts = shares[0]?.length ?? 0;
  const key = `${shares.length} ${numExperts} ${caption}`;
  if (table.dataset.key !== key) build(table, shares.length, numExperts, caption);
  table.dataset.key = key;
  shares.forEach((row, layer) =>
    row.forEach((share, expert) => {
      const cell = /** @type {HTMLElement} */ (table.tBodies[0].rows[layer].cells[expert + 1]);
      // Twice the even share is the full colour.
      cell.style.setProperty("--heat", `${Math.min(100, 50 * share * numExperts)}%`);
      const text = percent(share);
      if (cell.textContent !== text) cell.textContent = text;
    }),
  );
}

/** @param {HTMLTableElement} table @param {number} numLayers @param {number} numExperts @param {string} caption */
function build(table, numLayers, numExperts, caption) {
  const experts = Array.from({ length: numExperts }, (_, expert) => expert);
  fill(
    table,
    h("caption", {}, caption),
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        h("th", { scope: "col" }, "Layer"),
        ...experts.map(expert =>
          h("th", { scope: "col", "aria-label": `Expert ${expert}` }, String(expert)),
        ),
      ),
    ),
    h(
      "tbody",
      {},
      ...Array.from({ length: numLayers }, (_, layer) =>
        h(
          "tr",
          {},
          h("th", { scope: "row" }, String(layer)),
          ...experts.map(() => h("td", { testid: "heat-cell" })),
        ),
      ),
    ),
  );
}
