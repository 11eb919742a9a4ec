/**
 * What the page knows, and who is told when it changes.
 *
 * `set` replaces fields of the state; whoever watches is called with the new and the old state and
 * compares what it shows. No DOM.
 */

/**
 * @template {object} State
 * @param {State} initial
 */
export function createStore(initial) {
  let state = initial;
  /** @type {Set<(state: State, before: State) => void>} */
  const watchers = new Set();
  return {
    get: () => state,
    /** @param {Partial<State>} fields */
    set(fields) {
      const before = state;
      state = { ...state, ...fields };
      for (const watcher of watchers) watcher(state, before);
    },
    /**
     * @param {(state: State, before: State) => void} watcher
     * @returns {() => void} Ends it.
     */
    watch(watcher) {
      watchers.add(watcher);
      return () => watchers.delete(watcher);
    },
  };
}
