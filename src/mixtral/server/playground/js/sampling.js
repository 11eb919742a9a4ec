/**
 * The sampling fields of a request: ranges, defaults, and what each one does, in words.
 *
 * Ranges are those of the server's own schema (server/schemas.py); a test compares them. Values are
 * kept as the text that was typed, so that a half-typed number is neither lost nor sent. No DOM.
 */

/**
 * @typedef {object} SamplingField
 * @property {string} name As the API has it.
 * @property {string} label
 * @property {"number"|"integer"|"texts"|"bias"|"boolean"} kind
 * @property {number} [min]
 * @property {number} [above] Smaller than every value that is allowed.
 * @property {number} [max]
 * @property {string} fallback What holds when it is left empty.
 * @property {boolean} [common] Shown at once; the others behind "More".
 * @property {string} meaning
 */

/** @type {readonly SamplingField[]} */
export const SAMPLING_FIELDS = Object.freeze([
  {
    name: "temperature",
    label: "Temperature",
    kind: "number",
    min: 0,
    max: 5,
    fallback: "0.7",
    common: true,
    meaning:
      "How freely words are drawn. 0 always takes the likeliest token; above 1 unlikely ones gain.",
  },
  {
    name: "top_p",
    label: "Top p",
    kind: "number",
    above: 0,
    max: 1,
    fallback: "1",
    common: true,
    meaning:
      "Draw from the smallest set of tokens whose probabilities add up to this. 1 leaves all in.",
  },
  {
    name: "max_tokens",
    label: "Max tokens",
    kind: "integer",
    min: 0,
    max: 2147483647,
    fallback: "what the context allows",
    common: true,
    meaning: "Longest answer, in tokens. 0 reads the prompt and answers nothing.",
  },
  {
    name: "random_seed",
    label: "Seed",
    kind: "integer",
    min: 0,
    max: 9007199254740991,
    fallback: "another each time",
    common: true,
    meaning: "The same seed and settings give the same tokens again.",
  },
  {
    name: "stop",
    label: "Stop texts",
    kind: "texts",
    max: 64,
    fallback: "none",
    common: true,
    meaning: "One per line. The answer ends before the first of them; \\n stands for a line break.",
  },
  {
    name: "top_k",
    label: "Top k",
    kind: "integer",
    min: 0,
    max: 2147483647,
    fallback: "0",
    meaning: "Draw from this many likeliest tokens. 0 takes all.",
  },
  {
    name: "min_p",
    label: "Min p",
    kind: "number",
    min: 0,
    max: 1,
    fallback: "0",
    meaning: "Leave out tokens that are less likely than this share of the likeliest one.",
  },
  {
    name: "min_tokens",
    label: "Min tokens",
    kind: "integer",
    min: 0,
    max: 2147483647,
    fallback: "0",
    meaning: "Tokens before the end token or a stop text may end the answer.",
  },
  {
    name: "n",
    label: "Answers",
    kind: "integer",
    min: 1,
    max: 128,
    fallback: "1",
    meaning: "Answers made at once; each becomes a branch. The prompt is computed once.",
  },
  {
    name: "presence_penalty",
    label: "Presence penalty",
    kind: "number",
    min: -2,
    max: 2,
    fallback: "0",
    meaning: "Taken off the logits of tokens that the answer already has, once each.",
  },
  {
    name: "frequency_penalty",
    label: "Frequency penalty",
    kind: "number",
    min: -2,
    max: 2,
    fallback: "0",
    meaning: "The same, once for every time the token has occurred.",
  },
  {
    name: "repetition_penalty",
    label: "Repetition penalty",
    kind: "number",
    min: 0.01,
    max: 100,
    fallback: "1",
    meaning:
      "Divides the positive logits of tokens so far and multiplies negative ones. 1 does nothing.",
  },
  {
    name: "logit_bias",
    label: "Logit bias",
    kind: "bias",
    min: -100,
    max: 100,
    fallback: "none",
    meaning:
      'Added to the logits of tokens: a JSON object of token ids and numbers, such as {"23325": -100}.',
  },
  {
    name: "priority",
    label: "Priority",
    kind: "integer",
    min: -100,
    max: 100,
    fallback: "0",
    meaning: "Larger numbers are served first. With an API key, 0 or less.",
  },
  {
    name: "ignore_eos",
    label: "Go on past the end token",
    kind: "boolean",
    fallback: "no",
    meaning: "For measuring speed: the answer is always max_tokens long.",
  },
]);

/**
 * Read what was typed for a field.
 *
 * @param {SamplingField} field
 * @param {string} text "" leaves the field out of the request; a boolean is "true" or "".
 * @returns {{value?: unknown, problem?: string}}
 */
export function readField(field, text) {
  // A stop text may be white space alone.
  if (text === "" || (field.kind !== "texts" && text.trim() === "")) return {};
  if (field.kind === "boolean") return { value: text === "true" };
  if (field.kind === "texts") return readTexts(field, text);
  if (field.kind === "bias") return readBias(field, text);
  const value = Number(text);
  const isRight =
    Number.isFinite(value) && (field.kind === "number" || Number.isSafeInteger(value));
  return isRight && isInside(field, value)
    ? { value }
    : { problem: `${field.label} must be ${range(field)}.` };
}

/**
 * @param {SamplingField} field
 * @returns {string} Such as "a whole number from 0 to 5".
 */
export function range(field) {
  const kind = field.kind === "integer" ? "a whole number" : "a number";
  const low = field.above === undefined ? `from ${field.min}` : `above ${field.above}`;
  return /** @type {number} */ (field.max) >= 2147483647
    ? `${kind} ${low}`
    : `${kind} ${low} to ${field.max}`;
}

/** @param {SamplingField} field @param {number} value */
function isInside(field, value) {
  const { min = -Infinity, max = Infinity, above = -Infinity } = field;
  return value >= min && value <= max && value > above;
}

/** @param {SamplingField} field @param {string} text */
function readTexts(field, text) {
  const texts = text
    .split("\n")
    .filter(line => line !== "")
    .map(line => line.replaceAll("\\n", "\n"));
  const max = /** @type {number} */ (field.max);
  return texts.length > max
    ? { problem: `${texts.length} stop texts; up to ${max} are allowed.` }
    : { value: texts };
}

/** @param {SamplingField} field @param {string} text */
function readBias(field, text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    return { problem: `${field.label} is not valid JSON.` };
  }
  const isObject = typeof value === "object" && value !== null && !Array.isArray(value);
  const isRight =
    isObject &&
    Object.entries(value).every(
      ([id, bias]) => /^[0-9]{1,9}$/.test(id) && typeof bias === "number" && isInside(field, bias),
    );
  return isRight
    ? { value }
    : { problem: `${field.label} must be an object of token ids and numbers from -100 to 100.` };
}
