"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (name) => document.getElementById(name);

function element(tag, text, parent) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

// counts are whole; of measures, -1 stands where there is nothing to measure
const shownAs = (x, whole) =>
  x === undefined ? "" : x === -1 ? "-" : whole ? String(x) : x.toFixed(3);

function columnsOf(rows) {
  const names = new Set();
  for (const row of rows) for (const name of Object.keys(row)) names.add(name);
  const main = names.delete(data.main) ? [data.main] : [];
  return [...main, ...names];
}

// rows: [{name, metrics}]; open: what a click on a name does, if anything
function table(place, head, rows, open) {
  const columns = columnsOf(rows.map((row) => row.metrics));
  const valuesOf = (column) => rows.map((row) => row.metrics[column]).filter((x) => x !== undefined);
  const counts = new Set(
    columns.filter((name) => valuesOf(name).every(Number.isInteger) && Math.max(...valuesOf(name)) > 1)
  );
  const made = element("table", undefined, place);
  const heads = element("tr", undefined, element("thead", undefined, made));
  const body = element("tbody", undefined, made);
  const cells = rows.map((row) => {
    const line = element("tr", undefined, body);
    const first = element("td", undefined, line);
    if (open && row.frames.length) {
      element("button", row.name, first).addEventListener("click", () => open(row, line));
    } else {
      first.textContent = row.name;
    }
    for (const column of columns) {
      const value = row.metrics[column];
      const cell = element("td", shownAs(value, counts.has(column)), line);
      if (column === data.main && value >= 0 && value <= 1) {
        cell.className = "bar";
        cell.style.setProperty("--share", `${100 * value}%`);
      }
    }
    return { row, line };
  });
  for (const [index, column] of [head, ...columns].entries()) {
    const cell = element("th", undefined, heads);
    cell.scope = "col";
    element("button", column, cell).addEventListener("click", () => {
      const up = cell.getAttribute("aria-sort") !== "ascending";
      for (const other of heads.children) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = ({ row }) => (index ? row.metrics[column] ?? Infinity : row.name);
      const order = (a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0);
      cells.sort((a, b) => (up ? order(a, b) : order(b, a)));
      body.append(...cells.map(({ line }) => line));
    });
  }
  return made;
}

let shown = null;

function show(index) {
  const last = shown.frames.length - 1;
  const at = Math.min(Math.max(index, 0), last);
  byId("slider").value = at;
  byId("frame").src = shown.frames[at];
  byId("frame").alt = `overlay ${at + 1} of ${shown.name}`;
  byId("place").textContent = `${at + 1} / ${last + 1}`;
}

function open(row, line) {
  shown = row;
  for (const other of document.querySelectorAll("tr.open")) other.classList.remove("open");
  if (line) line.classList.add("open");
  byId("viewer").hidden = false;
  byId("shown").textContent = row.name;
  byId("slider").max = row.frames.length - 1;
  show(0);
}

byId("slider").addEventListener("input", (event) => show(Number(event.target.value)));
document.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!shown || !step || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  show(Number(byId("slider").value) + step);
});

function fold(title, content) {
  if (content === null || !Object.keys(content).length) return;
  const details = element("details", undefined, byId("details"));
  element("summary", title, details);
  element("pre", JSON.stringify(content, null, 2), details);
}

byId("title").textContent = `${data.run}: ${data.protocol}`;
document.title = byId("title").textContent;
const withFrames = data.sequences.filter((row) => row.frames.length);
const frames = withFrames.reduce((sum, row) => sum + row.frames.length, 0);
byId("about").textContent =
  `${data.sequences.length} sequences` +
  (data.main ? `, the worst by ${data.main} first` : "") +
  (frames ? `; ${frames} overlay frames of ${withFrames.length}, at most ${data.most_frames} of each` : "");
const rowsOf = (found) => Object.entries(found).map(([name, metrics]) => ({ name, metrics }));
table(byId("methods"), "method", rowsOf(data.methods));
for (const [name, found] of Object.entries(data.groups)) {
  const title = name.replace("per_", "");
  element("h2", `Each ${title}`, byId("groups"));
  const place = element("div", undefined, byId("groups"));
  place.className = "wide";
  table(place, title, rowsOf(found));
}
table(byId("sequences"), "sequence", data.sequences, open);
fold("What was counted", data.settings);
fold("Versions", data.versions);
fold("Config", data.config);
