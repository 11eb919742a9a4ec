/**
 * The settings of a conversation: system text, sampling, format of the answer, tools.
 *
 * What is typed is kept as it is and read at once, so the line below each field says what is wrong
 * while it is being typed.
 */

import { byId, fill, h, setText } from "./dom.js";
import { readFormat, readTools } from "./request.js";
import { SAMPLING_FIELDS, readField } from "./sampling.js";

/** @typedef {import("./conversation.js").Options} Options */

const EXAMPLE_SCHEMA = {
  type: "object",
  properties: {
    name: { type: "string" },
    age: { type: "integer", minimum: 0 },
    likes: { type: "array", items: { type: "string" } },
  },
  required: ["name", "age"],
  additionalProperties: false,
};
const EXAMPLE_TOOLS = [
  {
    type: "function",
    function: {
      name: "get_weather",
      description: "Weather of a city today",
      parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
    },
  },
];
const FORMATS = {
  text: "Free text",
  json_object: "A JSON object",
  json_schema: "JSON by a schema",
  regex: "A text that a pattern matches",
  choice: "One of a list",
};

/**
 * @param {object} app
 * @param {any} app.store
 * @param {any} app.chat
 */
export function mountOptions({ store, chat }) {
  /** @param {Partial<Options>} fields */
  const change = fields =>
    chat.change(chat.current().id, (/** @type {any} */ one) => ({
      options: { ...one.options, ...fields },
    }));
  const parts = [
    mountPrompt(change),
    mountSampling(chat, change),
    mountFormat(change),
    mountTools(change),
  ];
  let shown = "";
  /** @type {Options|null} */
  let drawn = null;

  /** Fill all fields when another conversation is shown, and only the verdicts otherwise: the cursor stays. */
  function draw() {
    const { id, options } = chat.current();
    if (options === drawn && id === shown) return; // An answer grows.
    drawn = options;
    for (const part of parts) part(options, id !== shown);
    shown = id;
  }

  store.watch((/** @type {any} */ state, /** @type {any} */ before) => {
    if (state.conversations !== before.conversations || state.currentId !== before.currentId)
      draw();
  });
  draw();
}

/** @typedef {(fields: Partial<Options>) => void} Change */
/** @typedef {(options: Options, isOther: boolean) => void} Draw */

/** @param {Change} change @returns {Draw} */
function mountPrompt(change) {
  const system = byId("system-text");
  const safe = byId("safe-prompt");
  system.addEventListener("input", () => change({ system: system.value }));
  safe.addEventListener("change", () => change({ safePrompt: safe.checked }));
  return (options, isOther) => {
    if (!isOther) return;
    system.value = options.system;
    safe.checked = options.safePrompt;
  };
}

/** @param {any} chat @param {Change} change @returns {Draw} */
function mountSampling(chat, change) {
  const rows = SAMPLING_FIELDS.map(field => {
    const id = `field-${field.name}`;
    const props = {
      id,
      testid: id,
      "aria-describedby": `${id}-meaning ${id}-problem`,
      autocomplete: "off",
    };
    const input =
      field.kind === "boolean"
        ? h("input", { ...props, type: "checkbox" })
        : field.kind === "texts" || field.kind === "bias"
          ? h("textarea", { ...props, rows: "2", placeholder: field.fallback, spellcheck: "false" })
          : h("input", {
              ...props,
              type: "text",
              inputmode: field.kind === "integer" ? "numeric" : "decimal",
              placeholder: field.fallback,
            });
    const problem = h("p", {
      id: `${id}-problem`,
      class: "verdict wrong",
      role: "status",
      testid: `${id}-problem`,
    });
    input.addEventListener("input", () => {
      const text =
        input instanceof HTMLInputElement && input.type === "checkbox"
          ? input.checked
            ? "true"
            : ""
          : input.value;
      change({ sampling: { ...chat.current().options.sampling, [field.name]: text } });
    });
    const label = h("label", { for: id }, field.label, " ", h("code", {}, field.name));
    const meaning = h("p", { id: `${id}-meaning`, class: "meaning" }, field.meaning);
    const row = h(
      "div",
      { class: field.kind === "boolean" ? "field check" : "field" },
      label,
      input,
      meaning,
      problem,
    );
    return { field, input, problem, row };
  });
  fill(byId("sampling-common"), ...rows.filter(({ field }) => field.common).map(({ row }) => row));
  fill(byId("sampling-more"), ...rows.filter(({ field }) => !field.common).map(({ row }) => row));
  return (options, isOther) => {
    for (const { field, input, problem } of rows) {
      const text = options.sampling[field.name] ?? "";
      if (isOther && field.kind === "boolean")
        /** @type {HTMLInputElement} */ (input).checked = text === "true";
      else if (isOther) input.value = text;
      const wrong = readField(field, text).problem ?? "";
      setText(problem, wrong);
      input.setAttribute("aria-invalid", String(wrong !== ""));
    }
  };
}

/** @param {Change} change @returns {Draw} */
function mountFormat(change) {
  const kind = byId("format-kind");
  const editors = {
    json_schema: byId("schema-text"),
    regex: byId("regex-text"),
    choice: byId("choice-text"),
  };
  const names = { json_schema: "jsonSchema", regex: "regex", choice: "choices" };
  fill(kind, ...Object.entries(FORMATS).map(([value, label]) => h("option", { value }, label)));
  kind.addEventListener("change", () => change({ format: kind.value }));
  for (const [format, editor] of Object.entries(editors))
    editor.addEventListener("input", () =>
      change({ [names[/** @type {keyof typeof names} */ (format)]]: editor.value }),
    );
  byId("schema-example").addEventListener("click", () => {
    editors.json_schema.value = JSON.stringify(EXAMPLE_SCHEMA, null, 2);
    change({ jsonSchema: editors.json_schema.value });
    editors.json_schema.focus();
  });
  return (options, isOther) => {
    if (isOther) {
      kind.value = options.format;
      editors.json_schema.value = options.jsonSchema;
      editors.regex.value = options.regex;
      editors.choice.value = options.choices;
    }
    for (const [format, editor] of Object.entries(editors))
      editor.closest(".field").hidden = format !== options.format;
    const { fields, problems } = readFormat(options);
    const isWritten = options.format in editors;
    showVerdict(
      byId("format-verdict"),
      problems,
      isWritten && fields.response_format ? "This can be sent." : "",
    );
    for (const editor of Object.values(editors))
      editor.setAttribute("aria-invalid", String(problems.length > 0));
  };
}

/** @param {Change} change @returns {Draw} */
function mountTools(change) {
  const editor = byId("tools-text");
  const choice = byId("tool-choice");
  const parallel = byId("parallel-calls");
  editor.addEventListener("input", () => change({ tools: editor.value }));
  choice.addEventListener("change", () => change({ toolChoice: choice.value }));
  parallel.addEventListener("change", () => change({ parallelToolCalls: parallel.checked }));
  byId("tools-example").addEventListener("click", () => {
    editor.value = JSON.stringify(EXAMPLE_TOOLS, null, 2);
    change({ tools: editor.value });
    editor.focus();
  });
  return (options, isOther) => {
    if (isOther) editor.value = options.tools;
    parallel.checked = options.parallelToolCalls;
    const { fields, problems } = readTools({ ...options, toolChoice: "auto" });
    const names = (fields.tools ?? []).map((/** @type {any} */ tool) => tool.function.name);
    drawChoices(choice, names, options.toolChoice);
    const chosen = problems.length ? problems : readTools(options).problems;
    showVerdict(
      byId("tools-verdict"),
      chosen,
      names.length ? `This can be sent: ${names.join(", ")}.` : "",
    );
    editor.setAttribute("aria-invalid", String(problems.length > 0));
  };
}

/** @param {HTMLSelectElement} choice @param {string[]} names @param {string} chosen */
function drawChoices(choice, names, chosen) {
  const options = { auto: "The model decides", none: "Never", any: "At least one call" };
  /** @type {[string, string][]} */
  const rows = [
    ...Object.entries(options),
    ...names.map(name => /** @type {[string, string]} */ ([name, `Always ${name}`])),
  ];
  if (!rows.some(([value]) => value === chosen)) rows.push([chosen, `${chosen} (not in the list)`]);
  const text = JSON.stringify(rows);
  if (choice.dataset.rows !== text)
    fill(choice, ...rows.map(([value, label]) => h("option", { value }, label)));
  choice.dataset.rows = text;
  choice.value = chosen;
}

/** @param {HTMLElement} element @param {string[]} problems @param {string} praise */
function showVerdict(element, problems, praise) {
  const text = problems.length ? problems.slice(0, 5).join("\n") : praise;
  setText(element, text);
  element.classList.toggle("wrong", problems.length > 0);
}
