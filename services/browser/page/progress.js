// How much of the model is here, below the place for photos, until all of it is.

import { mebibytes } from "./sentences.js";

const STEP = 2 ** 19; // bytes; the words do not flicker

let line = null;

/** {loaded, total} in bytes; null when nothing more comes. */
export function progress(now) {
  if (!now) {
    line?.remove();
    line = null;
    return;
  }
  line ??= add();
  const bar = line.querySelector("progress");
  [bar.max, bar.value] = [now.total, now.loaded];
  const rounded = (bytes) => mebibytes(Math.round(bytes / STEP) * STEP);
  line.querySelector("span").textContent = `${rounded(now.loaded)} of ${rounded(now.total)}`;
}

function add() {
  const paragraph = document.getElementById("loading-template").content.firstElementChild.cloneNode(true);
  document.getElementById("add").after(paragraph);
  return paragraph;
}
