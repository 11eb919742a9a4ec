import assert from "node:assert/strict";
import test from "node:test";
import {
  ROOT,
  activePath,
  addMessage,
  branchesAt,
  choose,
  newTree,
  pathTo,
  removeBranch,
  updateMessage,
} from "../../src/mixtral/server/playground/js/tree.js";

const user = content => ({ role: "user", content });
const shown = tree =>
  activePath(tree)
    .map(node => node.message.content)
    .join(" > ");

function grown() {
  let [tree, first] = addMessage(newTree(), ROOT, user("a"));
  let second, third;
  [tree, second] = addMessage(tree, first, user("b"));
  [tree, third] = addMessage(tree, first, user("c"));
  [tree] = addMessage(tree, third, user("d"));
  return { tree, first, second, third };
}

test("the newest branch is shown, and the older one is kept", () => {
  const { tree, second, third } = grown();
  assert.equal(shown(tree), "a > c > d");
  assert.equal(shown(choose(tree, second)), "a > b");
  assert.deepEqual(branchesAt(tree, third), { ids: [second, third], index: 1 });
});

test("going to another branch and back shows what was shown before", () => {
  const { tree, second, third } = grown();
  assert.equal(shown(choose(choose(tree, second), third)), shown(tree));
});

test("choosing a node deep inside another branch shows its whole way", () => {
  const { tree, first } = grown();
  const [other, id] = addMessage(tree, ROOT, user("z"));
  assert.equal(shown(other), "z");
  assert.equal(shown(choose(other, first)), "a > c > d");
  assert.equal(pathTo(other, id).length, 1);
});

test("removing a branch removes all below it and shows its neighbour", () => {
  const { tree, third } = grown();
  const rest = removeBranch(tree, third);
  assert.equal(shown(rest), "a > b");
  assert.deepEqual(Object.keys(rest.nodes).length, 3);
});

test("removing the last child leaves nothing chosen", () => {
  const [tree, id] = addMessage(newTree(), ROOT, user("a"));
  assert.equal(shown(removeBranch(tree, id)), "");
  assert.equal(removeBranch(tree, id).nodes[ROOT].chosen, null);
});

test("a change leaves the old tree and all other nodes as they were", () => {
  const { tree, first, second } = grown();
  const before = structuredClone(tree);
  const next = updateMessage(tree, second, { content: "B" });
  choose(tree, second);
  removeBranch(tree, second);
  addMessage(tree, second, user("e"));
  assert.deepEqual(tree, before);
  assert.equal(next.nodes[first], tree.nodes[first]);
  assert.equal(next.nodes[second].message.content, "B");
});

test("ids are not used again after a removal", () => {
  const { tree, third } = grown();
  const [, id] = addMessage(removeBranch(tree, third), ROOT, user("e"));
  assert.equal(tree.nodes[id], undefined);
});
