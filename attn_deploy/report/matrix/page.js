"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const detail = document.getElementById("detail"), rows = [...document.querySelectorAll("#grid tbody tr")];
const words = {passed: "passed", failed: "failed", skipped: "does not apply"};
let pinned = null;

function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}
function fill(button) {
  const cell = data.cells[button.id.slice(1)], text = index => data.texts[index];
  detail.replaceChildren(element("h3", cell.name), element("div", words[button.className.split(" ")[0]] + (cell.seconds ? " in " + cell.seconds + " s" : ""), "soft"));
  if (cell.reason !== undefined) {
    const reason = element("div", text(cell.reason), "reason " + button.className.split(" ")[0]);
    if (cell.rule) reason.append(element("div", "rule " + cell.rule, "soft"));
    detail.append(reason);
  }
  const table = element("table"), marks = {passed: "\u2713", failed: "\u2715", skipped: "\u2013"};
  for (const [check, status, said] of cell.checks || []) {
    const row = element("tr");
    row.append(element("td", marks[status], status === "passed" ? "ok" : status === "failed" ? "bad" : "soft"), element("td", check),
               element("td", status === "failed" ? "see above" : text(said), "soft"));
    table.append(row);
  }
  detail.append(table);
}
function show(button) {
  fill(button);
  detail.hidden = false;
  const at = button.getBoundingClientRect(), box = detail.getBoundingClientRect();
  const left = Math.min(Math.max(12, at.left + at.width / 2 - box.width / 2), innerWidth - box.width - 12);
  const below = at.bottom + 10 + box.height < innerHeight;
  detail.style.left = left + "px";
  detail.style.top = Math.max(8, below ? at.bottom + 10 : at.top - box.height - 10) + "px";
}
function unpin() {
  if (pinned) pinned.classList.remove("open");
  pinned = null;
  detail.hidden = true;
}
function pin(button) {
  const same = pinned === button;
  unpin();
  if (same) return;
  pinned = button;
  button.classList.add("open");
  show(button);
}
const grid = document.getElementById("grid");
grid.addEventListener("mouseover", e => { if (!pinned && e.target.matches("td button")) show(e.target); });
grid.addEventListener("focusin", e => { if (!pinned && e.target.matches("td button")) show(e.target); });
grid.addEventListener("mouseout", () => { if (!pinned) detail.hidden = true; });
grid.addEventListener("click", e => {
  if (!e.target.matches("td button")) return;
  pin(e.target);
  history.replaceState(null, "", pinned ? "#cell-" + pinned.id.slice(1) : location.pathname);
});
addEventListener("keydown", e => { if (e.key === "Escape") unpin(); });
addEventListener("scroll", () => { if (pinned) show(pinned); else detail.hidden = true; }, {passive: true});
addEventListener("resize", () => { if (pinned) show(pinned); });

const search = document.getElementById("search"), columns = document.getElementById("columns");
let wanted = "";
function matcher(text) {
  const parts = text.toLowerCase().split(/[\s,]+/).filter(Boolean);
  const tests = parts.map(p => p.includes("*")
    ? new RegExp("^" + p.split("*").map(s => s.replace(/[.+?^{}()|[\]\\]/g, "\\$&")).join(".*") + "$") : {test: n => n.includes(p)});
  return name => !tests.length || tests.some(t => t.test(name));
}
function filter() {
  const matches = matcher(search.value), group = columns.value;
  let count = 0;
  for (const row of rows) {
    let hit = false;
    for (const button of row.querySelectorAll("button")) {
      const inColumn = !group || button.parentNode.dataset.g === group;
      const on = inColumn && (!wanted || button.classList.contains(wanted));
      button.style.opacity = on ? "" : ".18";
      hit = hit || on;
    }
    row.hidden = !(hit && matches(row.dataset.model));
    count += !row.hidden;
  }
  for (const head of document.querySelectorAll("#grid [data-g]")) head.hidden = Boolean(group) && head.dataset.g !== group;
  document.getElementById("shown").textContent = count + " of " + rows.length + " models";
}
search.addEventListener("input", filter);
columns.addEventListener("change", filter);
document.getElementById("status").addEventListener("click", e => {
  if (e.target.dataset.status === undefined) return;
  wanted = e.target.dataset.status;
  for (const b of e.currentTarget.children) b.setAttribute("aria-pressed", b === e.target);
  filter();
});
filter();
const address = location.hash.match(/^#cell-(\d+)$/), linked = address && document.getElementById("c" + address[1]);
if (linked) { linked.scrollIntoView({block: "nearest"}); pin(linked); }
