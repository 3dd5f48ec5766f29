"use strict";
// The filters of long tables. Everything recorded is written with textContent, never as markup, here and in browser.js.
const LONG = 20;

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined && text !== null) made.textContent = String(text);
  if (className) made.className = className;
  return made;
}

for (const table of document.querySelectorAll("table.filter")) {
  const rows = [...table.querySelectorAll("tbody tr")].filter((row) => !row.querySelector("th.group"));
  if (rows.length <= LONG) continue;
  let texts = null;
  const box = element("div", null, "filters");
  const label = element("label", "Filter ");
  const input = element("input");
  input.type = "search";
  const told = element("span", `${rows.length} rows`, "small");
  label.append(input);
  box.append(label, told);
  table.closest(".scroll").before(box);
  input.addEventListener("input", () => {
    const wanted = input.value.toLowerCase().trim();
    texts ??= rows.map((row) => row.textContent.toLowerCase());
    let shown = 0;
    rows.forEach((row, i) => {
      row.hidden = !texts[i].includes(wanted);
      shown += row.hidden ? 0 : 1;
    });
    for (const body of table.tBodies) {
      const group = body.querySelector("tr:has(th.group)");
      if (group) group.hidden = ![...body.rows].some((row) => row !== group && !row.hidden);
    }
    told.textContent = shown === rows.length ? `${shown} rows` : `${shown} of ${rows.length} rows`;
  });
}
