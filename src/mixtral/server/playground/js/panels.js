/**
 * The panels beside the chat: columns where there is room, sheets over it where there is not.
 *
 * Buttons open and close them and say so (aria-expanded); Escape closes a sheet and the focus goes back
 * to its button. On a wide window the settings are open at first, on a narrow one nothing is.
 */

import { byId } from "./dom.js";

const WIDE = "(min-width: 75rem)";
const NARROW = "(max-width: 52rem)";

/** Join the buttons with their panels. */
export function mountPanels() {
  const chat = byId("panel-chat");
  const narrow = window.matchMedia(NARROW);
  const pairs = [
    {
      button: byId("toggle-conversations"),
      panel: byId("conversations"),
      name: "shows-conversations",
    },
    { button: byId("toggle-options"), panel: byId("options"), name: "shows-options" },
  ];
  chat.classList.toggle("shows-options", window.matchMedia(WIDE).matches);

  function tell() {
    for (const { button, name } of pairs)
      button.setAttribute("aria-expanded", String(chat.classList.contains(name)));
  }

  for (const { button, panel, name } of pairs) {
    const close = () => {
      chat.classList.remove(name);
      button.focus();
    };
    button.addEventListener("click", () => {
      const isOpen = chat.classList.toggle(name);
      if (isOpen && narrow.matches) panel.querySelector("button, input, textarea, select").focus();
    });
    panel.querySelector(".close-panel").addEventListener("click", close);
    panel.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key !== "Escape" || !narrow.matches) return;
      event.stopPropagation(); // It would also stop an answer.
      close();
    });
  }
  new MutationObserver(tell).observe(chat, { attributeFilter: ["class"] });
  tell();
}
