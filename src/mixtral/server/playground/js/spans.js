/**
 * Where a citation stands in its document. The server counts characters as Python does, one for each
 * code point; JavaScript counts UTF-16 units, two for an emoji. No DOM.
 */

/**
 * Find a cited text in the text of its document.
 *
 * @param {string} text The document.
 * @param {{start: number, end: number, text: string}} citation Its span in code points, and its words. In a PDF
 *   the span is that of a page, so the words decide.
 * @returns {{before: string, cited: string, after: string}|null} null when the words are not there (any more).
 */
export function locate(text, citation) {
  const points = [...text];
  if (points.slice(citation.start, citation.end).join("") === citation.text)
    return cut(points.slice(0, citation.start).join("").length);
  const begin = text.indexOf(citation.text);
  return citation.text && begin >= 0 ? cut(begin) : null;

  /** @param {number} begin In UTF-16 units. */
  function cut(begin) {
    const end = begin + citation.text.length;
    return { before: text.slice(0, begin), cited: text.slice(begin, end), after: text.slice(end) };
  }
}

/**
 * Split a text at its marks of passages, such as [2] or [1, 3].
 *
 * @param {string} text
 * @param {ReadonlySet<number>} known Numbers that there are.
 * @returns {(string|number)[]} Texts and, in the places of known numbers, the numbers.
 */
export function splitMarks(text, known) {
  /** @type {(string|number)[]} */
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(/\[(\d{1,4}(?:\s*[,;]\s*\d{1,4})*)\]/g)) {
    const numbers = match[1].split(/[,;]/).map(Number);
    if (!numbers.every(number => known.has(number))) continue;
    parts.push(text.slice(end, match.index), ...numbers);
    end = match.index + match[0].length;
  }
  parts.push(text.slice(end));
  return parts.filter(part => part !== "");
}
