"use strict";
/* Shows the layer that is chosen; without this all layers stand one after the other. */
const layers = Array.from(document.querySelectorAll("section.layer"));
const choice = document.getElementById("layer");
const show = () => layers.forEach(
  (part) => { part.hidden = choice.value !== "all" && part.dataset.layer !== choice.value; });
choice.addEventListener("change", show);
document.getElementById("chooser").hidden = false;
show();
