/**
 * JSON as an editor needs it: the first mistake with its line and column, in words.
 *
 * JSON.parse is not enough: browsers word and place its errors differently, and it lets a key stand
 * twice in one object, which the server refuses (RFC 8259, section 4). It also changes what JavaScript
 * cannot hold: large numbers, and the order of names that are whole numbers. Both are mistakes here,
 * because what is sent must be what was written. No DOM.
 */

const MAX_DEPTH = 64; // As the server's max_json_depth.
const ESCAPES = { '"': '"', "\\": "\\", "/": "/", b: "\b", f: "\f", n: "\n", r: "\r", t: "\t" };

/** A mistake in a text that should be JSON. */
export class JsonMistake extends Error {
  /**
   * @param {string} what
   * @param {string} text
   * @param {number} position Where in the text, in UTF-16 units.
   */
  constructor(what, text, position) {
    const before = text.slice(0, position).split("\n");
    const line = before.length;
    const column = before[line - 1].length + 1;
    super(`Line ${line}, column ${column}: ${what}.`);
    this.line = line;
    this.column = column;
  }
}

/**
 * Parse JSON.
 *
 * @param {string} text
 * @returns {unknown}
 * @throws {JsonMistake} The text is not JSON, a key stands twice, it nests over 64 levels, or
 *   JavaScript would change it.
 */
export function parseJson(text) {
  const reader = new Reader(text);
  const value = reader.value(0);
  reader.skip();
  if (reader.at < text.length) reader.fail("there is text behind the end of the value");
  return value;
}

class Reader {
  /** @param {string} text */
  constructor(text) {
    this.text = text;
    this.at = 0;
  }

  /** @param {string} what @param {number} [position] @returns {never} */
  fail(what, position = this.at) {
    throw new JsonMistake(what, this.text, position);
  }

  skip() {
    while (" \t\r\n".includes(this.text[this.at] ?? "x")) this.at += 1;
  }

  /** @param {string} mark @returns {boolean} Whether it stood here; it is then behind us. */
  take(mark) {
    this.skip();
    const isHere = this.text.startsWith(mark, this.at);
    if (isHere) this.at += mark.length;
    return isHere;
  }

  /** @param {number} depth @returns {unknown} */
  value(depth) {
    if (depth > MAX_DEPTH) this.fail(`it nests more than ${MAX_DEPTH} levels deep`);
    this.skip();
    const first = this.text[this.at];
    if (first === undefined) this.fail("a value is missing");
    if (first === "{") return this.object(depth);
    if (first === "[") return this.array(depth);
    if (first === '"') return this.string();
    for (const [word, value] of /** @type {[string, unknown][]} */ ([
      ["true", true],
      ["false", false],
      ["null", null],
    ]))
      if (this.take(word)) return value;
    return this.number();
  }

  /** @param {number} depth */
  object(depth) {
    /** @type {[string, unknown][]} */
    const entries = [];
    /** @type {Map<string, number>} Where each of them stands. */
    const names = new Map();
    this.take("{");
    if (this.take("}")) return {};
    do {
      this.skip();
      const place = this.at;
      if (this.text[this.at] !== '"') this.fail("a name in double quotes is missing");
      const name = this.string();
      if (names.has(name))
        this.fail(`the name ${JSON.stringify(name)} stands twice in one object`, place);
      names.set(name, place);
      if (!this.take(":")) this.fail("a colon is missing behind the name");
      entries.push([name, this.value(depth + 1)]);
    } while (this.take(","));
    if (!this.take("}")) this.fail("a comma or } is missing");
    const result = Object.fromEntries(entries); // Makes own properties, also of "__proto__".
    const moved = Object.keys(result).find((name, i) => name !== entries[i][0]);
    if (moved !== undefined)
      this.fail(
        `the browser would move the name ${JSON.stringify(moved)} forward; names that are whole numbers must stand first, in rising order`,
        names.get(moved),
      );
    return result;
  }

  /** @param {number} depth */
  array(depth) {
    /** @type {unknown[]} */
    const items = [];
    this.take("[");
    if (this.take("]")) return items;
    do items.push(this.value(depth + 1));
    while (this.take(","));
    if (!this.take("]")) this.fail("a comma or ] is missing");
    return items;
  }

  string() {
    const begin = this.at;
    let result = "";
    for (this.at += 1; ; this.at += 1) {
      const character = this.text[this.at];
      if (character === undefined) this.fail("the closing quote of this text is missing", begin);
      if (character === '"') break;
      if (character < " ")
        this.fail("a line break or control character stands inside a text; write \\n");
      result += character === "\\" ? this.escape() : character;
    }
    this.at += 1;
    return result;
  }

  escape() {
    this.at += 1;
    const mark = this.text[this.at];
    if (mark === "u") {
      const digits = this.text.slice(this.at + 1, this.at + 5);
      if (!/^[0-9a-fA-F]{4}$/.test(digits)) this.fail("\\u needs four hexadecimal digits");
      this.at += 4;
      return String.fromCharCode(parseInt(digits, 16));
    }
    if (!Object.hasOwn(ESCAPES, mark ?? "")) this.fail(`\\${mark ?? ""} is no escape of JSON`);
    return ESCAPES[/** @type {keyof typeof ESCAPES} */ (mark)];
  }

  number() {
    const match = /^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/.exec(this.text.slice(this.at));
    if (!match)
      this.fail(`${JSON.stringify(this.text[this.at])} begins no value; texts need double quotes`);
    const [text, , fraction, exponent] = match;
    const value = Number(text);
    if (!Number.isFinite(value))
      this.fail(`the browser cannot hold the number ${text}; the largest is ${Number.MAX_VALUE}`);
    if (!fraction && !exponent && !Number.isSafeInteger(value))
      this.fail(
        `the browser cannot hold the number ${text} exactly; whole numbers go up to ${Number.MAX_SAFE_INTEGER}`,
      );
    this.at += text.length;
    return value;
  }
}
