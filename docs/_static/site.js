// Tables that sort and filter, figures that open large, and curves that readers pick from. Without it, all is readable.
"use strict";

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// A cell sorts by its first number if its column is one of numbers, and else by its text.
function key(cell) {
  const text = cell.textContent.trim().replace(/[−–]/g, "-");
  if (!cell.classList.contains("n")) return text.toLowerCase();
  const number = parseFloat(text.replace(/^[<>≤≥±\s]+/, "").replace(/,/g, ""));
  return Number.isNaN(number) ? Infinity : number;
}

function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = element("button", { type: "button" }, ...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down < 0 ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows].map((row) => [key(row.cells[column]), row]);
      rows.sort(([a], [b]) => down * (a < b ? -1 : a > b ? 1 : 0));
      table.tBodies[0].append(...rows.map(([, row]) => row));
    });
  });
}

function filterable(box, table) {
  const rows = [...table.tBodies[0].rows];
  if (rows.length < 8) return;
  const input = element("input", { type: "search", placeholder: "Filter rows" });
  input.setAttribute("aria-label", `Filter: ${box.getAttribute("aria-label")}`);
  const count = element("output", {}, `${rows.length} rows`);
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/);
    for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
    count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
  });
  box.before(element("p", { className: "filter" }, input, count));
}

function zoom(link) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    const image = element("img", { src: link.href, alt: link.firstElementChild.alt });
    const close = element("button", { type: "button" }, "Close");
    const dialog = element("dialog", { className: "zoomed", ariaLabel: "Figure" }, close, element("div", { tabIndex: 0 }, image));
    for (const each of [close, image]) each.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => { dialog.remove(); link.focus(); });
    document.body.append(dialog);
    dialog.showModal();
  });
}

// The library is a file beside the page, and large: it is loaded when a reader opens the curves.
const here = new URL(".", document.currentScript.src);
let library;
function plotly() {
  library ??= new Promise((resolve, reject) => {
    document.head.append(element("script", { src: new URL("plotly.min.js", here).href, onload: resolve, onerror: reject }));
  });
  return library;
}

function curves(details) {
  const { x, y, labels, lines, panels } = JSON.parse(details.querySelector("script").textContent);
  const plot = element("div", { className: "plot" });
  const panel = element("select", { ariaLabel: "Panel" }, ...Object.keys(panels).map((name) => element("option", {}, name)));
  const boxes = Object.keys(labels).map((name) => element("input", { type: "checkbox", checked: true, value: name }));
  const picks = boxes.map((box) => {
    const swatch = element("i");
    swatch.style.background = lines[box.value].color;
    return element("label", {}, box, swatch, labels[box.value]);
  });
  const draw = () => {
    const shown = boxes.filter((box) => box.checked && panels[panel.value][box.value]).map((box) => box.value);
    const traces = shown.map((name) => ({
      ...panels[panel.value][name], name: labels[name], mode: "lines+markers", line: lines[name],
    }));
    const layout = {
      xaxis: { title: { text: x } }, yaxis: { title: { text: y } }, margin: { t: 20, r: 20 }, showlegend: false,
      hovermode: "closest", paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", uirevision: panel.value,
    };
    Plotly.react(plot, traces, layout, { responsive: true, displaylogo: false });
  };
  details.append(element("p", {}, panel), element("fieldset", { ariaLabel: "Curves" }, ...picks), plot);
  for (const input of [panel, ...boxes]) input.addEventListener("change", draw);
  plotly().then(draw);
}

for (const box of document.querySelectorAll(".numbers")) {
  const table = box.querySelector("table");
  sortable(table);
  filterable(box, table);
}
document.querySelectorAll("a.zoom").forEach(zoom);
document.querySelectorAll("details.curves").forEach((each) => {
  each.addEventListener("toggle", () => curves(each), { once: true });
});
// What scrolls is reached by the keyboard, and the headings of the menu say their level.
for (const box of document.querySelectorAll("pre, .table-wrapper, .math-wrapper")) {
  if (box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight) box.tabIndex = 0;
}
document.querySelectorAll("p.caption[role=heading]").forEach((each) => { each.ariaLevel = 2; });
// What is printed is unfolded.
addEventListener("beforeprint", () => document.querySelectorAll("article details").forEach((each) => { each.open = true; }));
