/**
 * A conversation with all its branches: a tree of messages of which one path is shown.
 *
 * Each node remembers which of its children was chosen last, so going to another branch and back
 * shows the same messages again. Functions return a new tree and share what did not change: a node
 * that is the same object has the same content. No DOM.
 *
 *     n0 (no message)
 *      ├─ n1 user "Hi"            ← the first text
 *      │   ├─ n2 assistant "Hello"
 *      │   └─ n3 assistant "Hey"  ← regenerated: a sibling
 *      └─ n4 user "Good day"      ← edited: a sibling
 */

/** @typedef {{id: string, name: string, arguments: string}} ToolCall */
/** @typedef {{toolCallId: string, name: string, content: string}} ToolResult */
/** @typedef {{promptTokens: number, completionTokens: number}} Usage */
/** @typedef {{ttftMs: number, tokensPerS: number|null}} Timing */
/**
 * @typedef {object} Message
 * @property {"user"|"assistant"|"tool"} role
 * @property {string} content Empty for a round of tool results.
 * @property {ToolCall[]} [toolCalls] What an assistant wants called.
 * @property {ToolResult[]} [results] Of role tool: one result for each call before it.
 * @property {string} [model] Who answered.
 * @property {string} [finishReason] stop, length, tool_calls, error, or "stopped" by the user.
 * @property {string} [error] Why an answer is missing or incomplete.
 * @property {Usage} [usage]
 * @property {Timing} [timing]
 */
/** @typedef {{id: string, parent: string|null, children: string[], chosen: string|null, message: Message|null}} Node */
/** @typedef {{nextNumber: number, nodes: Record<string, Node>}} Tree */

export const ROOT = "n0";

/** @returns {Tree} A tree without messages. */
export function newTree() {
  const root = { id: ROOT, parent: null, children: [], chosen: null, message: null };
  return { nextNumber: 1, nodes: { [ROOT]: root } };
}

/**
 * Add a message below a node and choose it.
 *
 * @param {Tree} tree
 * @param {string} parentId
 * @param {Message} message
 * @returns {[Tree, string]} The new tree and the id of the new node.
 */
export function addMessage(tree, parentId, message) {
  const id = `n${tree.nextNumber}`;
  const parent = tree.nodes[parentId];
  const nodes = {
    ...tree.nodes,
    [id]: { id, parent: parentId, children: [], chosen: null, message },
    [parentId]: { ...parent, children: [...parent.children, id], chosen: id },
  };
  return [{ nextNumber: tree.nextNumber + 1, nodes }, id];
}

/**
 * Change fields of a message.
 *
 * @param {Tree} tree
 * @param {string} id
 * @param {Partial<Message>} fields
 * @returns {Tree}
 */
export function updateMessage(tree, id, fields) {
  const node = tree.nodes[id];
  if (!node?.message) return tree;
  const message = { ...node.message, ...fields };
  return { ...tree, nodes: { ...tree.nodes, [id]: { ...node, message } } };
}

/**
 * Show a node: choose it, and every node above it.
 *
 * @param {Tree} tree
 * @param {string} id
 * @returns {Tree}
 */
export function choose(tree, id) {
  const nodes = { ...tree.nodes };
  for (let child = id; nodes[child].parent !== null;) {
    const parentId = /** @type {string} */ (nodes[child].parent);
    nodes[parentId] = { ...nodes[parentId], chosen: child };
    child = parentId;
  }
  return { ...tree, nodes };
}

/**
 * Remove a node with everything below it; a neighbour is chosen in its place.
 *
 * @param {Tree} tree
 * @param {string} id Not the root.
 * @returns {Tree}
 */
export function removeBranch(tree, id) {
  const nodes = { ...tree.nodes };
  const parent = nodes[/** @type {string} */ (nodes[id].parent)];
  const place = parent.children.indexOf(id);
  const children = parent.children.filter(child => child !== id);
  const chosen = parent.chosen === id ? (children[Math.max(0, place - 1)] ?? null) : parent.chosen;
  nodes[parent.id] = { ...parent, children, chosen };
  const waiting = [id];
  while (waiting.length) {
    const gone = /** @type {string} */ (waiting.pop());
    waiting.push(...nodes[gone].children);
    delete nodes[gone];
  }
  return { ...tree, nodes };
}

/**
 * @param {Tree} tree
 * @returns {Node[]} The shown messages from the first to the last, without the root.
 */
export function activePath(tree) {
  const path = [];
  for (let id = tree.nodes[ROOT].chosen; id !== null; id = tree.nodes[id].chosen)
    path.push(tree.nodes[id]);
  return path;
}

/**
 * @param {Tree} tree
 * @param {string} id
 * @returns {Node[]} The messages from the first to this one, without the root.
 */
export function pathTo(tree, id) {
  const path = [];
  for (let node = tree.nodes[id]; node.parent !== null; node = tree.nodes[node.parent])
    path.unshift(node);
  return path;
}

/**
 * @param {Tree} tree
 * @param {string} id Not the root.
 * @returns {{ids: string[], index: number}} The branches at this place, and which one it is.
 */
export function branchesAt(tree, id) {
  const ids = tree.nodes[/** @type {string} */ (tree.nodes[id].parent)].children;
  return { ids, index: ids.indexOf(id) };
}
