"use strict";

// A click on a heading sorts the rows: numbers from the best down first, words from a to z; what has no value comes last.
for (const table of document.querySelectorAll("table.sortable")) {
  table.tHead.addEventListener("click", (event) => {
    const header = event.target.closest("th");
    if (header) sort(table, header);
  });
}

function sort(table, header) {
  const number = header.classList.contains("number");
  const first = number ? "descending" : "ascending";
  const other = number ? "ascending" : "descending";
  const order = header.getAttribute("aria-sort") === first ? other : first;
  const sign = order === "ascending" ? 1 : -1;
  const value = (row) => row.cells[header.cellIndex].dataset.value;
  const rows = [...table.tBodies[0].rows].sort((one, two) => {
    const [a, b] = [value(one), value(two)];
    if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
    return sign * (number ? a - b : a.localeCompare(b));
  });
  table.tBodies[0].append(...rows);
  for (const cell of table.tHead.rows[0].cells) cell.setAttribute("aria-sort", cell === header ? order : "none");
}

// A word that is pointed at, tapped or focused shows on its photo where the model looked.
for (const card of document.querySelectorAll("article")) {
  const words = [...card.querySelectorAll(".word")];
  const shade = card.querySelector(".shade");
  const told = card.querySelector(".told");
  if (!words.length || !shade) continue;

  const show = (word) => {
    for (const each of words) each.classList.toggle("shown", each === word);
    shade.hidden = told.hidden = !word;
    if (word) {
      shade.src = word.dataset.shade;
      told.textContent = word.dataset.told;
    }
  };
  // One stop of the tab key for a caption; within it, arrow keys.
  const step = (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const next = by && words[words.indexOf(event.target) + by];
    if (event.key === "Escape") show(null);
    if (!next) return;
    event.preventDefault();
    next.focus();
  };
  for (const word of words) {
    for (const kind of ["pointerenter", "focus", "click"]) word.addEventListener(kind, () => show(word));
    word.addEventListener("focus", () => words.forEach((each) => (each.tabIndex = each === word ? 0 : -1)));
    word.addEventListener("blur", () => show(null));
    word.addEventListener("keydown", step);
  }
  card.addEventListener("pointerleave", () => show(words.find((word) => word === document.activeElement)));
}
