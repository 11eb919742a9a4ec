// What /status draws: short histories, lines in SVG, and the loads of experts. No page is touched
// here but the elements that are handed in.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 120;
const HEIGHT = 40;

/** The newest reports of the server, oldest first, each with the time of its arrival. */
export class History {
  /** @param {number} spanS Seconds that are remembered. */
  constructor(spanS) {
    this.spanS = spanS;
    this.entries = [];
  }

  /** Add a report; one of a server that was started anew forgets what was before. */
  push(timeS, report) {
    const last = this.entries.at(-1);
    if (last && report.uptime_s < last.report.uptime_s) this.entries = [];
    this.entries.push({ timeS, report });
    while (this.entries[0].timeS < timeS - this.spanS) this.entries.shift();
  }

  /** The oldest report that is at most so many seconds older than the newest. */
  since(seconds) {
    const newest = this.entries.at(-1).timeS;
    return this.entries.find(entry => entry.timeS >= newest - seconds).report;
  }

  /** Points of one number, [seconds before the newest, value]; missing values are left out. */
  points(read) {
    const newest = this.entries.at(-1).timeS;
    return this.entries
      .map(entry => [entry.timeS - newest, read(entry.report)])
      .filter(([, value]) => value !== null);
  }
}

/** An empty chart: a line over the area below it. */
export function newChart() {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  for (const name of ["area", "line"]) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("class", name);
    svg.append(path);
  }
  return svg;
}

/** Draw points over a span of seconds; the scale begins at 0 and ends at `top` or above. */
export function drawChart(svg, points, { spanS, top, text }) {
  svg.setAttribute("aria-label", text);
  const highest = Math.max(top, ...points.map(([, value]) => value));
  const places = points.map(([timeS, value]) => [
    WIDTH * (1 + timeS / spanS), HEIGHT - 1 - (HEIGHT - 2) * value / highest,
  ].map(place => place.toFixed(1)));
  const line = places.map((place, i) => (i ? "L" : "M") + place.join(" ")).join("");
  const [area, stroke] = svg.children;
  stroke.setAttribute("d", line);
  area.setAttribute(
    "d", line && `${line}L${places.at(-1)[0]} ${HEIGHT}L${places[0][0]} ${HEIGHT}Z`);
}

/** Tokens of each expert between two reports, [L][E]. */
export function newTokens(now, before) {
  return now.map((layer, l) => layer.map((count, e) => count - before[l][e]));
}

/** Fill the table of experts: a row per layer, shares in percent, darker where more tokens went. */
export function drawExperts(table, tokens) {
  const experts = tokens[0].length;
  if (table.rows.length !== tokens.length + 1 || table.rows[0].cells.length !== experts + 1)
    layExperts(table, tokens.length, experts);
  tokens.forEach((layer, l) => {
    const sum = layer.reduce((total, count) => total + count, 0);
    layer.forEach((count, e) => {
      const cell = table.rows[l + 1].cells[e + 1];
      const share = sum ? count / sum : 0;
      cell.textContent = sum ? (100 * share).toFixed(1) : "-";
      // Half of the colour is an even share, all of it twice that.
      cell.style.setProperty("--load", Math.min(1, share * experts / 2).toFixed(3));
    });
  });
}

function layExperts(table, layers, experts) {
  table.replaceChildren();
  const head = table.createTHead().insertRow();
  addHeader(head, "Layer", "col");
  for (let e = 0; e < experts; e++) addHeader(head, `Expert ${e}`, "col");
  const body = table.createTBody();
  for (let l = 0; l < layers; l++) {
    const row = body.insertRow();
    addHeader(row, String(l), "row");
    for (let e = 0; e < experts; e++) row.insertCell();
  }
}

function addHeader(row, text, scope) {
  const cell = document.createElement("th");
  cell.scope = scope;
  cell.textContent = text;
  row.append(cell);
}
