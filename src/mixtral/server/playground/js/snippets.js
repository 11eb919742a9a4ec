/**
 * A request as code to copy: curl, Python with Mistral's client, Python with OpenAI's.
 *
 * The API key itself is never written; a variable of the environment stands for it. Fields that a
 * client does not know travel in OpenAI's `extra_body`; Mistral's has no such way, so a comment names
 * them. No DOM.
 */

/** @typedef {Record<string, any>} Body */
/** @typedef {{url: string, hasKey: boolean}} Place Where the API is, without /v1, and whether it wants a key. */

/** Parameters of chat.stream in mistralai 3.7. */
const MISTRAL_FIELDS = [
  "model",
  "messages",
  "temperature",
  "top_p",
  "max_tokens",
  "stop",
  "random_seed",
  "response_format",
  "tools",
  "tool_choice",
  "presence_penalty",
  "frequency_penalty",
  "min_tokens",
  "repetition_penalty",
  "top_k",
  "n",
  "parallel_tool_calls",
  "safe_prompt",
];
/** Parameters of chat.completions.create in openai 3.54 that the page uses. */
const OPENAI_FIELDS = [
  "model",
  "messages",
  "temperature",
  "top_p",
  "max_tokens",
  "stop",
  "seed",
  "response_format",
  "tools",
  "tool_choice",
  "presence_penalty",
  "frequency_penalty",
  "n",
  "parallel_tool_calls",
  "logit_bias",
  "stream",
  "extra_body",
];
const KEY = "MIXTRAL_API_KEY";
const WIDTH = 88;

/** Kind of code -> its name and the function that writes it. */
export const SNIPPETS = Object.freeze({
  curl: { label: "curl", write: curl },
  mistralai: { label: "Python, mistralai", write: mistralai },
  openai: { label: "Python, openai", write: openai },
});

/** @param {Body} body @param {Place} place @returns {string} */
function curl(body, { url, hasKey }) {
  const key = hasKey ? ` \\\n  -H "Authorization: Bearer $${KEY}"` : "";
  const data = JSON.stringify({ ...body, stream: true }, null, 2).replaceAll("'", "'\\''");
  return `curl -N '${url}/v1/chat/completions' \\\n  -H 'Content-Type: application/json'${key} \\\n  -d '${data}'\n`;
}

/** @param {Body} body @param {Place} place @returns {string} */
function mistralai(body, { url, hasKey }) {
  const known = Object.entries(body).filter(([name]) => MISTRAL_FIELDS.includes(name));
  const others = Object.keys(body).filter(name => !MISTRAL_FIELDS.includes(name));
  const fields = Object.fromEntries(
    known.map(([name, value]) => [name, name === "response_format" ? mistralFormat(value) : value]),
  );
  const note = others.length
    ? `# Not among the fields of mistralai, so left out here: ${others.join(", ")}.\n`
    : "";
  return `${imports(hasKey)}from mistralai.client import Mistral  # 1.x: from mistralai import Mistral

${note}with Mistral(api_key=${apiKey(hasKey)}, server_url=${python(url)}) as client:
    events = client.chat.stream(
${call(fields, 8)}    )
    for event in events:
        for choice in event.data.choices:
            print(choice.delta.content or choice.delta.tool_calls or "", end="", flush=True)
`;
}

/** @param {any} format mistralai's classes call the schema schema_definition. */
function mistralFormat(format) {
  if (format.type !== "json_schema") return format;
  const { schema, ...rest } = format.json_schema;
  return { ...format, json_schema: { ...rest, schema_definition: schema } };
}

/** @param {Body} body @param {Place} place @returns {string} */
function openai(body, { url, hasKey }) {
  /** @type {Body} */
  const fields = { ...body };
  if ("random_seed" in fields) {
    fields.seed = fields.random_seed;
    delete fields.random_seed;
  }
  if (fields.tool_choice === "any") fields.tool_choice = "required";
  const extra = Object.entries(fields).filter(([name]) => !OPENAI_FIELDS.includes(name));
  for (const [name] of extra) delete fields[name];
  fields.stream = true;
  if (extra.length) fields.extra_body = Object.fromEntries(extra);
  return `${imports(hasKey)}from openai import OpenAI

client = OpenAI(api_key=${apiKey(hasKey)}, base_url=${python(`${url}/v1`)})
chunks = client.chat.completions.create(
${call(fields, 4)})
for chunk in chunks:
    for choice in chunk.choices:
        print(choice.delta.content or choice.delta.tool_calls or "", end="", flush=True)
`;
}

/** @param {boolean} hasKey */
const imports = hasKey => (hasKey ? "import os\n\n" : "");

/** @param {boolean} hasKey */
const apiKey = hasKey => (hasKey ? `os.environ["${KEY}"]` : '"none"');

/** @param {Body} fields @param {number} indent */
function call(fields, indent) {
  const space = " ".repeat(indent);
  return Object.entries(fields)
    .map(([name, value]) => `${space}${name}=${python(value, indent, name.length + 2)},\n`)
    .join("");
}

/**
 * Write a JSON value as a Python literal, on one line where it fits.
 *
 * @param {any} value
 * @param {number} [indent] Of the line that it begins on.
 * @param {number} [used] Columns of that line that are taken.
 * @returns {string}
 */
export function python(value, indent = 0, used = 0) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value === "string") return JSON.stringify(value);
  if (typeof value !== "object") return String(value);
  const isList = Array.isArray(value);
  const [open, close] = isList ? "[]" : "{}";
  /** @param {number} depth */
  const parts = depth =>
    isList
      ? value.map(item => python(item, depth))
      : Object.entries(value).map(([name, item]) => {
          const key = JSON.stringify(name);
          return `${key}: ${python(item, depth, key.length + 3)}`;
        });
  const short = `${open}${parts(0).join(", ")}${close}`;
  if (!short.includes("\n") && indent + used + short.length <= WIDTH) return short;
  const space = " ".repeat(indent + 4);
  return `${open}\n${parts(indent + 4)
    .map(part => `${space}${part},\n`)
    .join("")}${" ".repeat(indent)}${close}`;
}
