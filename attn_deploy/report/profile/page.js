"use strict";
const figures = JSON.parse(document.getElementById("figures").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)"), root = document.documentElement;
const merge = (a, b) => { for (const k in b) a[k] = b[k] && typeof b[k] === "object" && !Array.isArray(b[k]) ? merge(a[k] || {}, b[k]) : b[k]; return a; };

function theme(narrow) {
  const of = name => getComputedStyle(root).getPropertyValue(name).trim();
  const ground = { gridcolor: of("--line"), zerolinecolor: of("--line"), linecolor: of("--line") };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 56, r: 18, t: 12, b: 46 },
    font: { color: of("--ink"), size: narrow ? 11 : 12, family: getComputedStyle(document.body).fontFamily },
    xaxis: { ...ground, automargin: true }, yaxis: { ...ground, automargin: true }, hovermode: "closest",
    legend: { orientation: "h", y: 1, yanchor: "bottom", x: 0, xanchor: "left" },
    hoverlabel: { bgcolor: of("--card"), bordercolor: of("--line"), font: { color: of("--ink") } },
  };
}

function draw(place) {
  const figure = figures[place.id], layout = merge(theme(place.clientWidth < 480), structuredClone(figure.layout));
  layout.height = figure.height;
  // A legend of several lines stands above the chart, and takes its room from there.
  const named = figure.data.filter(t => t.showlegend !== false && t.type === "scatter");
  if (named.length > 1) {
    const across = Math.max(1, Math.floor(place.clientWidth / (44 + 7 * Math.max(...named.map(t => t.name.length)))));
    layout.margin.t = 16 + 20 * Math.ceil(named.length / across);
    layout.height += layout.margin.t - 12;
    place.style.height = layout.height + "px";
  } else layout.showlegend = false;
  const traces = structuredClone(figure.data);
  for (const trace of traces) if (trace.error_x) trace.error_x.color = layout.font.color;  // Plotly's own is dark on dark
  Plotly.newPlot(place, traces, layout, { displayModeBar: false, responsive: true });
}
const visible = () => [...document.querySelectorAll(".chart")].filter(c => c.closest("[hidden]") === null);
const drawn = new Set();
function drawVisible() { for (const place of visible()) if (!drawn.has(place.id)) { drawn.add(place.id); draw(place); } }
dark.addEventListener("change", () => { drawn.clear(); drawVisible(); });

const rows = [...document.querySelectorAll("#rows tbody tr")], search = document.getElementById("search"), run = document.getElementById("run");
const models = [...document.querySelectorAll("#models tbody tr")], wanted = document.getElementById("wanted"), every = document.getElementById("every");
const wordsOf = box => box.value.toLowerCase().split(/\s+/).filter(Boolean);
function filter() {
  const words = wordsOf(search), chosen = run ? run.value : "";
  let count = 0;
  for (const row of rows) {
    const text = (row.dataset.key + " " + row.textContent).toLowerCase();
    row.hidden = (chosen !== "" && row.dataset.run !== chosen) || !words.every(w => text.includes(w));
    count += row.hidden ? 0 : 1;
  }
  document.getElementById("shown").textContent = `${count} of ${rows.length} rows`;
}
function filterModels() {
  const words = wordsOf(wanted);
  for (const row of models) {
    const name = row.cells[0].textContent.toLowerCase();
    row.hidden = words.length > 0 && !words.some(w => name.includes(w));
  }
  document.getElementById("listed").textContent = `${models.filter(r => !r.hidden).length} of ${models.length} lines`;
}
if (wanted) { wanted.addEventListener("input", filterModels); filterModels(); }
function choose() {
  for (const section of document.querySelectorAll("section.run")) section.hidden = section.dataset.run !== run.value;
  const whole = document.querySelector("section.whole");
  if (whole) whole.hidden = run.value !== "";
  if (every) every.open = run.value !== "";
  drawVisible(); filter();
}
search.addEventListener("input", filter);
function go(value) {
  run.value = value;
  history.pushState(null, "", value === "" ? "#" : `#run-${value}`);
  choose();
  scrollTo(0, 0);
}
function follow() {
  const asked = location.hash.match(/^#run-(\d+)$/);
  run.value = asked && run.querySelector(`option[value="${asked[1]}"]`) ? asked[1] : "";
  choose();
}
if (run) {
  run.addEventListener("change", () => go(run.value));
  addEventListener("popstate", follow);
  for (const row of models) row.querySelector("button.open").addEventListener("click", () => go(row.dataset.run));
  follow();
} else { drawVisible(); filter(); }

function sortable(id, lines) {
  document.querySelectorAll(`#${id} th button`).forEach((button, column) => {
    let up = true;
    button.addEventListener("click", () => {
      const key = row => row.cells[column].dataset.v === undefined ? row.cells[column].textContent : +row.cells[column].dataset.v;
      const order = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : typeof a === "number" ? -1 : typeof b === "number" ? 1
        : a.localeCompare(b, undefined, { numeric: true });
      lines.sort((a, b) => (up ? 1 : -1) * order(key(a), key(b)));
      up = !up;
      document.querySelector(`#${id} tbody`).append(...lines);
    });
  });
}
sortable("rows", rows);
sortable("models", models);

// Paper: reasons and settings are open, and the charts are drawn at its width, in its light colours.
const closed = [];
addEventListener("beforeprint", () => {
  root.dataset.print = "";
  for (const part of document.querySelectorAll("details:not([open]):not(#every)")) { part.open = true; closed.push(part); }
  drawn.clear(); drawVisible();
});
addEventListener("afterprint", () => {
  delete root.dataset.print;
  for (const part of closed.splice(0)) part.open = false;
  drawn.clear(); drawVisible();
});
