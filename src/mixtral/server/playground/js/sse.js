/**
 * Server-sent events out of pieces of text that are cut anywhere.
 *
 * Follows the WHATWG HTML standard, section 9.2.6: lines end with LF, CR or CRLF; a line that begins
 * with a colon is a comment; an empty line ends an event; several `data` lines are joined with LF.
 * Only `data` is given out, because the API uses nothing else. No DOM, no network.
 */

/**
 * @param {(data: string) => void} onData Called with the data of each event.
 * @returns {{push: (text: string) => void}} A parser; an event that was not ended is never given out.
 */
export function createSseParser(onData) {
  let rest = "";
  /** @type {string[]} */
  let data = [];

  /** @param {string} line */
  function take(line) {
    if (line === "") {
      if (data.length) onData(data.join("\n"));
      data = [];
    } else if (line === "data" || line.startsWith("data:")) {
      const value = line.slice(5);
      data.push(value.startsWith(" ") ? value.slice(1) : value);
    }
  }

  return {
    push(text) {
      rest += text;
      for (;;) {
        const end = rest.search(/[\r\n]/);
        // A CR at the very end may be half of a CRLF.
        if (end < 0 || (rest[end] === "\r" && end === rest.length - 1)) return;
        take(rest.slice(0, end));
        rest = rest.slice(end + (rest.startsWith("\r\n", end) ? 2 : 1));
      }
    },
  };
}
