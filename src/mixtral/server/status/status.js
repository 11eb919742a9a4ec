// The live page /status: asks /v1/status every two seconds and shows what it says. Where the server
// is away the last numbers stay, marked as old, until it answers again.

import { History, drawChart, drawExperts, newChart, newTokens } from "./charts.js";

const PERIOD_MS = 2000;
const PATIENCE_MS = 5000;
const SPAN_S = 120;
// The playground keeps its key and its theme under these names.
const KEY_NAME = "mixtral.api-key";
const PREFERENCES_NAME = "mixtral.preferences";

const number = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const percent = share => share === null ? "-" : `${number.format(100 * share)} %`;
const seconds = time => time === null ? "-" : time < 1 ? `${Math.round(1000 * time)} ms` : `${time.toFixed(2)} s`;
const gigabytes = bytes => bytes === null ? "-" : `${(bytes / 1e9).toFixed(2)} GB`;

const CHARTS = [
  { name: "Output, tokens/s", read: r => r.output_tokens_per_s, top: 1, show: number.format },
  { name: "Input, tokens/s", read: r => r.input_tokens_per_s, top: 1, show: number.format },
  { name: "Running", read: r => r.running_requests, top: 1, show: number.format },
  { name: "Waiting", read: r => r.waiting_requests, top: 1, show: number.format },
  { name: "Cache in use", read: r => r.kv_use_ratio, top: 1, show: percent },
  { name: "Memory", read: r => r.memory_bytes, top: 1, show: gigabytes },
];

const NUMBERS = [
  ["Model", r => [r.model, ...r.adapters].join(", ")],
  ["Format of the weights", r => r.format],
  ["Context", r => `${number.format(r.max_model_len)} tokens`],
  ["Layers", r => r.num_layers],
  ["Experts", r => r.num_experts ? `${r.num_experts_per_tok} of ${r.num_experts}` : "none"],
  ["Time since the start", r => duration(r.uptime_s)],
  ["Answers running, waiting", r => `${r.running_requests}, ${r.waiting_requests}`],
  ["Tokens/s in the last 10 s", r =>
    `${number.format(r.input_tokens_per_s)} in, ${number.format(r.output_tokens_per_s)} out`],
  ["Tokens since the start", r =>
    `${number.format(r.num_input_tokens)} in, ${number.format(r.num_output_tokens)} out`],
  ["Time to the first token, median", r => seconds(r.ttft_p50_s)],
  ["Time to the first token, 90th percentile", r => seconds(r.ttft_p90_s)],
  ["Cache blocks", r => `${r.kv_used_blocks} in use, ${r.kv_cached_blocks} kept, ${r.kv_blocks} in all`],
  ["Prompt tokens found in the cache", r => percent(r.prefix_cache_hit_ratio)],
  ["Memory of the process", r => gigabytes(r.memory_bytes)],
  ["Version", r => r.version],
];

const byId = id => document.getElementById(id);
const history = new History(SPAN_S);
const charts = CHARTS.map(addChart);
const cells = NUMBERS.map(([name]) => addNumber(name));
let answeredAt = new Date();
let timer = 0;

function duration(all) {
  const [days, hours, minutes] = [all / 86400, (all % 86400) / 3600, (all % 3600) / 60].map(Math.floor);
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${Math.floor(all % 60)} s` : `${Math.floor(all)} s`;
}

function addChart({ name }) {
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  const value = document.createElement("b");
  const svg = newChart();
  caption.append(name, value);
  figure.append(caption, svg);
  byId("charts").append(figure);
  return { svg, value };
}

function addNumber(name) {
  const row = byId("numbers").tBodies[0].insertRow();
  const header = document.createElement("th");
  header.scope = "row";
  header.textContent = name;
  row.append(header);
  return row.insertCell();
}

function useTheme() {
  try {
    const { theme } = JSON.parse(localStorage.getItem(PREFERENCES_NAME)) ?? {};
    if (theme === "light" || theme === "dark") document.documentElement.style.colorScheme = theme;
  } catch {
    // Not the playground's, or storage is off: the theme of the system stays.
  }
}

// A live region: the text is touched only where it is another one.
function say(state, text) {
  const line = byId("state");
  line.dataset.state = state;
  if (line.textContent !== text) line.textContent = text;
  byId("numbers-view").classList.toggle("old", state !== "live");
}

function show(report) {
  byId("model").textContent = report.model;
  byId("key-form").hidden = true;
  byId("numbers-view").hidden = false;
  CHARTS.forEach(({ name, read, top, show: spell }, i) => {
    const points = history.points(read);
    const last = spell(read(report));
    const highest = spell(Math.max(...points.map(([, value]) => value), 0));
    charts[i].value.textContent = last;
    drawChart(charts[i].svg, points, {
      spanS: SPAN_S, top, text: `${name}: now ${last}, at most ${highest} in two minutes`,
    });
  });
  NUMBERS.forEach(([, read], i) => { cells[i].textContent = read(report); });
  showExperts(report);
}

function showExperts(report) {
  byId("experts-view").hidden = report.expert_tokens === null;
  if (report.expert_tokens === null) return;
  const even = number.format(100 / report.num_experts);
  byId("experts-text").textContent =
    `Share of each layer's tokens that an expert computed, in percent; ${even} is an even share.`;
  const isAll = document.querySelector("input[name=span]:checked").value === "all";
  const before = isAll ? null : history.since(60).expert_tokens;
  drawExperts(
    byId("experts"), before ? newTokens(report.expert_tokens, before) : report.expert_tokens);
}

async function ask() {
  const key = sessionStorage.getItem(KEY_NAME);
  const response = await fetch("v1/status", {
    headers: key ? { Authorization: `Bearer ${key}` } : {},
    cache: "no-store",
    signal: AbortSignal.timeout(PATIENCE_MS),
  });
  if (response.status === 401) {
    byId("key-form").hidden = false;
    say("key", key ? "The server does not know this API key." : "This server wants an API key.");
    return;
  }
  if (!response.ok) throw new Error(`status ${response.status}`);
  const report = await response.json();
  answeredAt = new Date();
  history.push(performance.now() / 1000, report);
  if (report.is_ready) say("live", "Live: asked every two seconds.");
  else say("stopped", "The engine has stopped; the server's log says why.");
  show(report);
}

async function tick() {
  clearTimeout(timer);
  try {
    if (!document.hidden) await ask();
  } catch {
    const since = answeredAt.toLocaleTimeString();
    say("away", `The server has not answered since ${since}; trying again every two seconds.`);
  }
  // Two ticks may have met here: one timer stays.
  clearTimeout(timer);
  timer = setTimeout(tick, PERIOD_MS);
}

byId("key-form").addEventListener("submit", event => {
  event.preventDefault();
  sessionStorage.setItem(KEY_NAME, byId("key").value.trim());
  byId("key").value = "";
  tick();
});
document.addEventListener("visibilitychange", () => { if (!document.hidden) tick(); });
document.querySelectorAll("input[name=span]").forEach(
  input => input.addEventListener("change", () => showExperts(history.entries.at(-1).report)));
useTheme();
tick();
