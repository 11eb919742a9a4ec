/**
 * The views as tabs (WAI-ARIA Authoring Practices, tabs with automatic activation). The name of the
 * view is in the address behind #, so a view can be linked and the back button works.
 */

import { byId } from "./dom.js";

export const VIEWS = ["chat", "documents", "experts", "settings"];

/**
 * @param {Record<string, {open?: () => void, close?: () => void}>} views Told when they are shown and left.
 */
export function mountTabs(views) {
  const tabs = VIEWS.map(name => byId(`tab-${name}`));
  let shown = "";

  /** @param {string} name */
  function show(name) {
    if (name === shown) return;
    views[shown]?.close?.();
    shown = name;
    VIEWS.forEach((other, i) => {
      const isShown = other === name;
      tabs[i].setAttribute("aria-selected", String(isShown));
      tabs[i].tabIndex = isShown ? 0 : -1;
      byId(`panel-${other}`).hidden = !isShown;
    });
    byId("main").scrollTop = 0;
    views[name]?.open?.();
  }

  // "Skip to the content" changes the address, too, and must not change the view.
  const named = () =>
    VIEWS.includes(location.hash.slice(1)) ? location.hash.slice(1) : shown || "chat";
  tabs.forEach((tab, i) => {
    tab.addEventListener("click", () => (location.hash = VIEWS[i]));
    tab.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      const places = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: VIEWS.length - 1 };
      const place = places[/** @type {keyof typeof places} */ (event.key)];
      if (place === undefined) return;
      event.preventDefault();
      const to = (place + VIEWS.length) % VIEWS.length;
      location.hash = VIEWS[to];
      tabs[to].focus();
    });
  });
  window.addEventListener("hashchange", () => show(named()));
  show(named());
}
