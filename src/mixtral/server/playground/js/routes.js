/**
 * Which experts read which token: answers of the server to a form that views can draw.
 *
 * T tokens, L layers, E experts, A experts per token, as in docs/architecture.md. No DOM, no network.
 */

/**
 * @typedef {object} RoutedToken
 * @property {number} id
 * @property {string} text
 * @property {boolean} isAnswer Whether the model wrote it.
 * @property {number[][]} expertIds L lists of A, by falling weight; empty for a token that was not run.
 * @property {number[][]} weights The same shape; each list sums to 1.
 */

/** Experts have as many colours as this; further ones begin again, and the number tells them apart. */
export const NUM_COLOURS = 8;

/**
 * Read the answer of `POST /v1/route`.
 *
 * @param {{tokens: number[], pieces: string[], expert_ids: number[][][], routing_weights: number[][][]}} answer
 * @returns {RoutedToken[]}
 */
export function tokensOfRoute(answer) {
  return answer.tokens.map((id, i) => ({
    id,
    text: answer.pieces[i],
    isAnswer: false,
    expertIds: answer.expert_ids[i],
    weights: answer.routing_weights[i],
  }));
}

/**
 * Collects the tokens of a streamed answer that was asked for with `routing` and `logprobs`.
 *
 * A token's text comes with its log-probability when it is drawn; its experts come one step later,
 * when the model reads it. The last token is never read, so it has none. The model reads the prompt
 * first; the texts of its tokens come from `POST /v1/tokenize`.
 *
 * @param {string[]} promptPieces Texts of the prompt's tokens.
 */
export function createRouteCollector(promptPieces) {
  /** @type {{id: number, expertIds: number[][], weights: number[][]}[]} */
  const routes = [];
  /** @type {{id: number, text: string}[]} */
  const drawn = [];
  return {
    /** @param {any} choice One of the choices of a piece. */
    push(choice) {
      for (const route of choice.routing ?? [])
        routes.push({
          id: route.token_id,
          expertIds: route.expert_ids,
          weights: route.routing_weights,
        });
      for (const one of choice.logprobs?.content ?? [])
        drawn.push({ id: one.token_id, text: one.token });
    },
    /** @returns {RoutedToken[]} Everything so far. */
    tokens() {
      const numPrompt = promptPieces.length;
      const read = routes.map((route, i) => ({
        id: route.id,
        expertIds: route.expertIds,
        weights: route.weights,
        text: i < numPrompt ? promptPieces[i] : (drawn[i - numPrompt]?.text ?? ""),
        isAnswer: i >= numPrompt,
      }));
      const unread = drawn.slice(Math.max(0, routes.length - numPrompt));
      return [
        ...read,
        ...unread.map(token => ({ ...token, isAnswer: true, expertIds: [], weights: [] })),
      ];
    },
  };
}

/**
 * @param {RoutedToken[]} tokens
 * @returns {number} How many experts there must be: one more than the highest number of one.
 */
export function numExpertsOf(tokens) {
  let numExperts = 0;
  // Not Math.max(...all): the stack holds about 100,000 arguments.
  for (const { expertIds } of tokens)
    for (const experts of expertIds)
      for (const expert of experts) numExperts = Math.max(numExperts, expert + 1);
  return numExperts;
}

/**
 * @param {RoutedToken[]} tokens
 * @param {number} numExperts E
 * @returns {number[][]} Visits of each expert, [L, E]; none for no tokens.
 */
export function visitsOf(tokens, numExperts) {
  const numLayers = tokens[0]?.expertIds.length ?? 0;
  const visits = Array.from({ length: numLayers }, () => Array(numExperts).fill(0));
  for (const token of tokens)
    token.expertIds.forEach((experts, layer) =>
      experts.forEach(expert => (visits[layer][expert] += 1)),
    );
  return visits;
}

/**
 * @param {number[][]} visits [L, E]
 * @returns {number[][]} Each expert's share of its layer's visits, [L, E]; 0 where there are none.
 */
export function sharesOf(visits) {
  return visits.map(row => {
    const sum = row.reduce((a, b) => a + b, 0);
    return row.map(count => (sum ? count / sum : 0));
  });
}

/**
 * @param {number[][]} now [L, E], counts that only grow
 * @param {number[][]|undefined} before The same, earlier.
 * @returns {number[][]} What was added; all of it where the server began anew.
 */
export function addedVisits(now, before) {
  const isLater =
    before?.length === now.length &&
    now.every(
      (row, layer) =>
        row.length === before[layer].length && row.every((count, e) => count >= before[layer][e]),
    );
  return isLater
    ? now.map((row, layer) => row.map((count, expert) => count - before[layer][expert]))
    : now;
}

/**
 * @param {RoutedToken} token
 * @param {number} layer
 * @returns {string} Such as "expert 3 with 61 %, expert 5 with 39 %".
 */
export function routeInWords(token, layer) {
  const experts = token.expertIds[layer];
  if (!experts) return "not read yet";
  return experts
    .map((expert, i) => `expert ${expert} with ${percent(token.weights[layer][i])}`)
    .join(", ");
}

/** @param {number} share @returns {string} */
export const percent = share => `${(100 * share).toFixed(0)} %`;

/**
 * @param {RoutedToken} token
 * @returns {string} Its text with what cannot be seen made visible; a control token by its number.
 */
export function visibleText(token) {
  if (token.text === "") return `⟨${token.id}⟩`;
  return token.text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(" ", "\u00a0");
}
