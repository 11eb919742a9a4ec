/**
 * The experts: which of them read each token of a prompt and of an answer while it is written, and how
 * much each of them has to do.
 */

import { byId, fill, oncePerFrame, setText } from "./dom.js";
import { drawHeatMap } from "./heat_map.js";
import { messagesOf } from "./request.js";
import {
  addedVisits,
  createRouteCollector,
  numExpertsOf,
  sharesOf,
  tokensOfRoute,
  visitsOf,
} from "./routes.js";
import { createTokenView, drawLegend } from "./token_view.js";
import { activePath } from "./tree.js";

const REFRESH_MS = 2000;

/**
 * @param {object} app
 * @param {any} app.store
 * @param {any} app.chat
 * @param {any} app.api
 * @returns {{open: () => void, close: () => void}} Called when the view is shown and left.
 */
export function mountExperts({ store, chat, api }) {
  const view = createTokenView(byId("token-list"), byId("token-details"));
  const status = byId("route-status");
  const layerChoice = byId("layer");
  let numExperts = 0;
  /** @type {AbortController|null} */
  let abort = null;

  /** @param {import("./routes.js").RoutedToken[]} tokens */
  function show(tokens) {
    const numLayers = tokens[0]?.expertIds.length ?? 0;
    numExperts = Math.max(numExperts, numExpertsOf(tokens));
    setLayers(numLayers);
    drawLegend(byId("expert-legend"), numExperts);
    view.show(tokens);
    byId("tokens-empty").hidden = tokens.length > 0;
    drawOwnLoads();
  }

  /** @param {number} numLayers */
  function setLayers(numLayers) {
    const last = numLayers - 1;
    if (!numLayers || Number(layerChoice.max) === last) return;
    layerChoice.max = String(last);
    layerChoice.value = String(Math.min(Number(layerChoice.value), last));
    setLayer();
  }

  function setLayer() {
    const text = `Layer ${layerChoice.value} (0 to ${layerChoice.max})`;
    setText(byId("layer-name"), text);
    layerChoice.setAttribute("aria-valuetext", text);
    view.setLayer(Number(layerChoice.value));
  }

  function drawOwnLoads() {
    const isShown = view.tokens.some(token => token.expertIds.length) && numExperts > 0;
    byId("own-loads").hidden = !isShown;
    if (isShown)
      drawHeatMap(
        byId("own-heat"),
        sharesOf(visitsOf(view.tokens, numExperts)),
        "Share of the visits of the tokens above",
      );
  }

  /** @returns {{messages: object[]}|{prompt: string}|null} What is to be read; null with the reason shown. */
  function source() {
    if (byId("route-source").value === "text") {
      const prompt = byId("route-text").value;
      if (!prompt.trim()) setText(status, "Write a text first.");
      return prompt.trim() ? { prompt } : null;
    }
    const { options, tree } = chat.current();
    const path = activePath(tree);
    const messages = messagesOf(options, path);
    if (!path.length) setText(status, "The conversation has no message yet.");
    return path.length ? { messages } : null;
  }

  /** @param {(model: object, signal: AbortSignal) => Promise<void>} work Run it with the buttons in step. */
  async function run(work) {
    if (abort) return;
    abort = new AbortController();
    const { model } = store.get();
    setBusy(true);
    try {
      await work(model ? { model } : {}, abort.signal);
    } catch (error) {
      setText(status, abort.signal.aborted ? "Stopped." : /** @type {Error} */ (error).message);
    }
    setBusy(false);
    abort = null;
  }

  /** @param {boolean} isBusy */
  function setBusy(isBusy) {
    const stop = byId("route-stop");
    const hadFocus =
      document.activeElement === stop || document.activeElement === byId("route-generate");
    for (const id of ["route-read", "route-generate"]) byId(id).hidden = isBusy;
    stop.hidden = !isBusy;
    if (hadFocus) (isBusy ? stop : byId("route-generate")).focus();
  }

  byId("route-read").addEventListener("click", () => {
    const content = source();
    if (content)
      run(async (model, signal) => {
        setText(status, "The model is reading …");
        const answer = await api.post("v1/route", { ...model, ...content }, signal);
        numExperts = answer.num_experts;
        const tokens = tokensOfRoute(answer);
        show(tokens);
        setText(
          status,
          `${tokens.length} tokens, ${answer.num_experts_per_tok} of ${answer.num_experts} experts each, ${answer.num_layers} layers.`,
        );
      });
  });
  byId("route-generate").addEventListener("click", () => {
    const content = source();
    if (content) run((model, signal) => generate(model, content, signal));
  });

  /** @param {object} model @param {any} content @param {AbortSignal} signal Answer, and colour each token as it comes. */
  async function generate(model, content, signal) {
    const messages = content.messages ?? [{ role: "user", content: content.prompt }];
    if (messages.at(-1).role === "assistant") messages.pop(); // Its answer is made anew.
    setText(status, "The model is reading …");
    const { pieces } = await api.post("v1/tokenize", { ...model, messages, pieces: true }, signal);
    const collector = createRouteCollector(pieces);
    const drawSoon = oncePerFrame(() => show(collector.tokens()));
    const body = {
      ...model,
      messages,
      routing: true,
      logprobs: true,
      max_tokens: Number(byId("route-max").value),
    };
    await api.stream(
      "v1/chat/completions",
      body,
      (/** @type {any} */ event) => {
        for (const choice of event.choices) collector.push(choice);
        if (event.error) throw new Error(event.error.message);
        drawSoon();
      },
      signal,
    );
    const tokens = collector.tokens();
    show(tokens);
    setText(status, `${pieces.length} tokens read, ${tokens.length - pieces.length} written.`);
  }

  layerChoice.addEventListener("input", setLayer);
  byId("route-stop").addEventListener("click", () => abort?.abort());
  byId("route-source").addEventListener("change", () => {
    byId("route-text").closest(".field").hidden = byId("route-source").value !== "text";
  });
  show([]);
  return mountLiveLoads(api, count => {
    numExperts = count;
  });
}

/**
 * The loads of the server, again every two seconds while the view is shown.
 *
 * @param {any} api
 * @param {(numExperts: number) => void} onExperts
 */
function mountLiveLoads(api, onExperts) {
  const table = byId("live-heat");
  const status = byId("live-status");
  const scope = byId("live-scope");
  let timer = 0;
  let isOpen = false;
  /** @type {number[][]|undefined} */
  let before;
  /** @type {number[][]|undefined} */
  let opened;

  async function draw() {
    clearTimeout(timer);
    try {
      const { expert_tokens: visits, num_experts: numExperts } = await api.get("v1/status");
      if (!visits?.length) {
        fill(table);
        setText(status, "This server does not count the visits of its experts.");
        return;
      }
      onExperts(numExperts);
      opened ??= visits;
      const shown =
        scope.value === "start"
          ? visits
          : scope.value === "opened"
            ? addedVisits(visits, opened)
            : addedVisits(visits, before);
      before = visits;
      const numVisits = shown
        .flat()
        .reduce((/** @type {number} */ a, /** @type {number} */ b) => a + b, 0);
      drawHeatMap(table, sharesOf(shown), "Share of the visits in each layer");
      setText(status, `${numVisits.toLocaleString("en")} visits counted.`);
    } catch (error) {
      setText(status, /** @type {Error} */ (error).message);
    }
    clearTimeout(timer);
    if (isOpen) timer = window.setTimeout(draw, REFRESH_MS);
  }

  scope.addEventListener("change", draw);
  return {
    open() {
      isOpen = true;
      draw();
    },
    close() {
      isOpen = false;
      clearTimeout(timer);
    },
  };
}
