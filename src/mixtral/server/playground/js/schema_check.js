/**
 * What can be seen of a wrong JSON schema or list of tools while it is typed.
 *
 * The server has the last word (mixtral/structured); what is reported here it would refuse, too. The
 * opposite is not promised: patterns, for one, are left to it. A test holds both against each other.
 * Problems are lines of text; places are JSON pointers (RFC 6901). No DOM.
 */

const TYPES = ["null", "boolean", "integer", "number", "string", "array", "object"];
const NUMBERS = ["integer", "number"];

/** Keyword that cannot be enforced -> the types of answers for which that matters. */
const REFUSED = {
  not: TYPES,
  contains: ["array"],
  propertyNames: ["object"],
  dependencies: ["object"],
  dependentRequired: ["object"],
  dependentSchemas: ["object"],
  $dynamicRef: TYPES,
  $recursiveRef: TYPES,
};
const COUNTS = ["minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"];
const BOUNDS = ["minimum", "maximum"];
const SCHEMA_MAPS = ["properties", "patternProperties", "$defs", "definitions"];
const SCHEMA_LISTS = ["anyOf", "allOf", "oneOf", "prefixItems"];
const MAX_TOOLS = 128;

/** @param {unknown} value @returns {value is Record<string, any>} */
const isObject = value => typeof value === "object" && value !== null && !Array.isArray(value);

/** @param {string} name */
const escape = name => name.replaceAll("~", "~0").replaceAll("/", "~1");

/**
 * @param {unknown} schema
 * @returns {string[]} What is wrong; empty if nothing was found.
 */
export function checkSchema(schema) {
  /** @type {string[]} */
  const problems = [];
  if (schema === false) return ["The schema is false: no answer fits it."];
  if (schema !== true && !isObject(schema))
    return ['A schema is an object, such as {"type": "object"}.'];
  visit(schema, "#", schema, problems);
  return problems;
}

/**
 * @param {unknown} schema
 * @param {string} pointer
 * @param {unknown} root
 * @param {string[]} problems
 */
function visit(schema, pointer, root, problems) {
  if (typeof schema === "boolean") return;
  if (!isObject(schema)) {
    problems.push(`${pointer} must be a schema: an object, true or false.`);
    return;
  }
  const types = typesOf(schema, pointer, problems);
  checkValues(schema, pointer, types, problems);
  checkRefused(schema, pointer, types, problems);
  checkReference(schema, pointer, root, problems);
  for (const key of SCHEMA_MAPS) {
    if (!(key in schema)) continue;
    if (!isObject(schema[key])) problems.push(`${pointer}/${key} must be an object of schemas.`);
    else
      for (const [name, inner] of Object.entries(schema[key]))
        visit(inner, `${pointer}/${key}/${escape(name)}`, root, problems);
  }
  for (const key of SCHEMA_LISTS) {
    if (!(key in schema)) continue;
    if (!Array.isArray(schema[key]) || !schema[key].length)
      problems.push(`${pointer}/${key} must be a list of schemas.`);
    else schema[key].forEach((inner, i) => visit(inner, `${pointer}/${key}/${i}`, root, problems));
  }
  if ("additionalProperties" in schema)
    visit(schema.additionalProperties, `${pointer}/additionalProperties`, root, problems);
  if ("items" in schema && !Array.isArray(schema.items))
    visit(schema.items, `${pointer}/items`, root, problems);
}

/** @param {Record<string, any>} schema @param {string} pointer @param {string[]} problems */
function typesOf(schema, pointer, problems) {
  if (!("type" in schema)) return TYPES;
  const names = typeof schema.type === "string" ? [schema.type] : schema.type;
  if (Array.isArray(names) && names.length && names.every(name => TYPES.includes(name)))
    return names;
  problems.push(`${pointer}/type must be one or a list of ${TYPES.join(", ")}.`);
  return [];
}

/** @param {Record<string, any>} schema @param {string} pointer @param {string[]} types @param {string[]} problems */
function checkValues(schema, pointer, types, problems) {
  const { required } = schema;
  if (
    required !== undefined &&
    !(Array.isArray(required) && required.every(name => typeof name === "string"))
  )
    problems.push(`${pointer}/required must be a list of property names.`);
  if ("enum" in schema && !(Array.isArray(schema.enum) && schema.enum.length))
    problems.push(`${pointer}/enum must be a list of values.`);
  for (const key of COUNTS)
    if (key in schema && !(Number.isInteger(schema[key]) && schema[key] >= 0))
      problems.push(`${pointer}/${key} must be a whole number from 0.`);
  for (const key of BOUNDS)
    if (
      key in schema &&
      typeof schema[key] !== "number" &&
      NUMBERS.some(type => types.includes(type))
    )
      problems.push(`${pointer}/${key} must be a number.`);
  for (const key of ["pattern", "format"])
    if (key in schema && typeof schema[key] !== "string")
      problems.push(`${pointer}/${key} must be a text.`);
}

/** @param {Record<string, any>} schema @param {string} pointer @param {string[]} types @param {string[]} problems */
function checkRefused(schema, pointer, types, problems) {
  for (const [key, matters] of Object.entries(REFUSED)) {
    if (!(key in schema) || !matters.some(type => types.includes(type))) continue;
    const demandsNothing = JSON.stringify(schema[key]) === "{}" || typeof schema[key] === "boolean";
    if (!demandsNothing)
      problems.push(`${pointer}/${key} cannot be enforced; use anyOf, enum or const instead.`);
  }
  if ("if" in schema && ("then" in schema || "else" in schema))
    problems.push(`${pointer}/if cannot be enforced; write the cases with anyOf.`);
  if (schema.uniqueItems === true && types.includes("array") && !(schema.maxItems <= 1))
    problems.push(`${pointer}/uniqueItems cannot be enforced; leave it out and check the answer.`);
  if (schema.format === "regex" && types.includes("string"))
    problems.push(`${pointer}/format regex cannot be enforced; leave it out.`);
}

/** @param {Record<string, any>} schema @param {string} pointer @param {unknown} root @param {string[]} problems */
function checkReference(schema, pointer, root, problems) {
  const reference = schema.$ref;
  if (reference === undefined || reference === "#") return;
  if (typeof reference !== "string") problems.push(`${pointer}/$ref must be a text.`);
  else if (reference.startsWith("#/") && !isThere(root, reference))
    problems.push(`${pointer}/$ref is ${reference}, which is not in the schema.`);
}

/** @param {any} value @param {string} reference */
function isThere(value, reference) {
  for (const part of reference.slice(2).split("/")) {
    const name = decodePart(part);
    if (value === null || typeof value !== "object" || !Object.hasOwn(value, name)) return false;
    value = value[name];
  }
  return true;
}

/** @param {string} part */
function decodePart(part) {
  try {
    return decodeURIComponent(part).replaceAll("~1", "/").replaceAll("~0", "~");
  } catch {
    return part;
  }
}

/**
 * @param {unknown} tools The parsed list.
 * @returns {string[]} What is wrong; empty if nothing was found.
 */
export function checkTools(tools) {
  if (!Array.isArray(tools))
    return ['Tools are a list: [{"type": "function", "function": {...}}].'];
  if (tools.length > MAX_TOOLS)
    return [`There are ${tools.length} tools; up to ${MAX_TOOLS} are allowed.`];
  /** @type {string[]} */
  const problems = [];
  const names = new Set();
  tools.forEach((tool, i) => {
    checkTool(tool, `Tool ${i + 1}`, problems);
    const name = tool?.function?.name;
    if (name !== undefined && names.has(name))
      problems.push(`Tool ${i + 1}: the name ${JSON.stringify(name)} stands twice.`);
    names.add(name);
  });
  return problems;
}

/** @param {any} tool @param {string} place @param {string[]} problems */
function checkTool(tool, place, problems) {
  if (!isObject(tool) || !isObject(tool.function)) {
    problems.push(
      `${place} must be {"type": "function", "function": {"name": ..., "parameters": ...}}.`,
    );
    return;
  }
  const { name, description, parameters } = tool.function;
  if (tool.type !== undefined && tool.type !== "function")
    problems.push(`${place}: type must be "function".`);
  if (typeof name !== "string" || !/^[a-zA-Z0-9_-]{1,64}$/.test(name))
    problems.push(`${place}: name must have 1 to 64 of the characters a-z A-Z 0-9 _ -.`);
  if (description !== undefined && description !== null && typeof description !== "string")
    problems.push(`${place}: description must be a text.`);
  for (const key of unknown(tool, ["type", "function"]))
    problems.push(`${place}: ${key} is no field of a tool.`);
  for (const key of unknown(tool.function, ["name", "description", "parameters", "strict"]))
    problems.push(`${place}: ${key} is no field of a function.`);
  if (parameters === undefined || parameters === null) return;
  if (!isObject(parameters))
    problems.push(`${place}: parameters must be a JSON schema of an object.`);
  else problems.push(...checkSchema(parameters).map(problem => `${place}: parameters: ${problem}`));
}

/** @param {Record<string, any>} value @param {string[]} known */
const unknown = (value, known) => Object.keys(value).filter(key => !known.includes(key));
