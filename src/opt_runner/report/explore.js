// Charts by plotly, tables by DataTables; the numbers are in #content, see writers/explore.py.
const sections = JSON.parse(document.getElementById("content").textContent);
const at = id => document.getElementById(id);
// Both libraries read text as HTML.
const safe = text => String(text).replace(/[&<>"']/g, c => `&#${c.charCodeAt(0)};`);
const dark = matchMedia("(prefers-color-scheme: dark)");
const style = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
let section;

// What a reader chose: it stays when the page loads anew, as with --live, until its tab is closed.
const controls = document.querySelectorAll("select, input");
const memory = `explore ${location.pathname}`;
const chosen = JSON.parse(sessionStorage.getItem(memory) ?? '{"hidden": []}');

function remember() {
  for (const control of controls)
    chosen[control.id] = control.type === "checkbox" ? control.checked : control.selectedOptions[0]?.text;
  sessionStorage.setItem(memory, JSON.stringify(chosen));
}

function fill(select, names, first) {
  select.replaceChildren(...names.map((name, place) => new Option(name, place)));
  const again = names.indexOf(chosen[select.id]);
  select.value = again >= 0 ? again : Math.max(0, names.indexOf(first));
}

function list(place, tag, texts) {
  at(place).replaceChildren(...texts.map(text => {
    const line = document.createElement(tag);
    line.textContent = text;
    return line;
  }));
}

function draw(id, traces, x, y, logX, logY) {
  const axis = (title, log) => ({
    title: {text: safe(title)}, type: log ? "log" : "linear", gridcolor: style("--line"),
    zeroline: false, automargin: true, exponentformat: "power",
  });
  const narrow = innerWidth < 640;
  for (const trace of traces) trace.visible = chosen.hidden.includes(trace.name) ? "legendonly" : true;
  Plotly.react(id, traces, {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: {color: style("--text")},
    margin: {l: 55, r: 10, t: 30, b: 45}, hovermode: "closest", uirevision: section.title,
    xaxis: axis(x, logX), yaxis: axis(y, logY), hoverlabel: {align: "left", namelength: -1},
    showlegend: true, legend: narrow ? {orientation: "h", y: -0.3} : {},
    modebar: {bgcolor: "rgba(0,0,0,0)", color: style("--quiet"), orientation: "h"},
  }, {responsive: true, displaylogo: false});
  at(id).removeAllListeners("plotly_restyle");
  at(id).on("plotly_restyle", () => hide(at(id).data));
}

// A name that a click hides in one chart is hidden in both.
function hide(traces) {
  const names = traces.map(trace => trace.name);
  const hidden = traces.filter(trace => trace.visible === "legendonly").map(trace => trace.name);
  chosen.hidden = [...chosen.hidden.filter(name => !names.includes(name)), ...new Set(hidden)];
  remember();
  drawCurves();
  drawScatter();
}

// Labels may hold many settings: in lines of about 36 letters.
function wrapped(label) {
  const lines = [""];
  for (const word of label.split(" ")) {
    if (lines.at(-1) && lines.at(-1).length + word.length > 36) lines.push("");
    lines.push(`${lines.pop()} ${word}`.trim());
  }
  return lines.map(safe).join("<br>");
}

// A colour is made for white paper: on a dark ground it is mixed with white.
function ink(colour) {
  if (!dark.matches) return colour;
  const parts = colour.match(/[0-9a-f]{2}/gi).map(part => parseInt(part, 16));
  return `rgb(${parts.map(part => Math.round(part + (255 - part) * 0.45))})`;
}

function about(run) {
  const keys = section.keys.map((key, place) => run[4][place] && `${key}=${run[4][place]}`);
  return [`${section.rows[run[0]].label}, seed ${run[1]}: ${run[2]}`, ...keys.filter(Boolean)]
    .map(safe).join("<br>");
}

function drawCurves() {
  const names = Object.keys(section.curves);
  at("curves").hidden = !names.length;
  if (!names.length) return;
  const name = names[at("quantity").value], seconds = at("against").selectedOptions[0].text === "seconds";
  const traces = [], of = new Map(section.runs.map(run => [`${run[0]} ${run[1]}`, run]));
  for (const [place, runs] of Object.entries(section.curves[name])) {
    const row = section.rows[place];
    runs.filter(run => !seconds || run[3]).forEach(([seed, steps, values, times], number) => {
      traces.push({
        x: seconds ? times : steps, y: values, mode: values.length > 40 ? "lines" : "lines+markers",
        name: wrapped(row.label), legendgroup: place, showlegend: number === 0,
        line: {color: ink(row.colour), dash: row.dash, width: 1.5}, marker: {size: 4},
        hovertemplate: `%{y:.5g} at %{x:,.6~g}<br>${about(of.get(`${place} ${seed}`))}<extra></extra>`,
      });
    });
  }
  draw("curves-chart", traces, seconds ? "seconds" : "step", name, false, at("log-curves").checked);
}

function drawScatter() {
  const across = section.axes[at("x").value], up = section.axes[at("y").value];
  const traces = section.rows.map((row, place) => {
    const runs = section.runs.filter(run => run[0] === place);
    return {
      x: runs.map(across.of), y: runs.map(up.of), mode: "markers", type: "scatter",
      name: wrapped(row.label), marker: {color: ink(row.colour), size: 7}, text: runs.map(about),
      hovertemplate: "%{y:.5g} at %{x:.5g}<br>%{text}<extra></extra>",
    };
  }).filter(trace => trace.x.some((x, place) => x !== null && trace.y[place] !== null));
  draw("scatter-chart", traces, across.name, up.name, at("log-x").checked, at("log-y").checked);
}

// The number by which a cell sorts: of "43.0 ± 0.5" and "<0.001" the first, of "0.1 → 2.5" the last.
// Other texts sort by themselves, behind the numbers.
function order(text) {
  const found = /^<?([-+]?[\d,]*\.?\d+(?:e[-+]?\d+)?)/.exec(String(text).split(" → ").at(-1));
  return found ? parseFloat(found[1].replaceAll(",", "")) : text === "-" ? Infinity : text;
}

const number = text => Number.isFinite(order(text)) ? order(text) : null;

function show(place, headings, rows, link, best) {
  const table = document.createElement("table");
  table.className = "display compact";
  table.id = `${place} of ${section.title}`;
  at(place).replaceChildren(table);
  const columns = headings.map((title, column) => ({
    title: safe(title),
    data: null,
    render: (row, type) => {
      const value = row[column];
      if (type === "sort" || type === "type") return value === null ? Infinity : order(value);
      if (type === "display" && link(column, value)) return link(column, value);
      return value === null ? "" : safe(value);
    },
  }));
  const few = rows.length <= 25;
  new DataTable(table, {
    data: rows, columns, order: [], stateSave: true, stateDuration: -1, scrollX: true, autoWidth: true, deferRender: true,
    pageLength: 25, lengthMenu: [10, 25, 100, 1000],
    layout: {topStart: {buttons: ["colvis", "csv"]}, topEnd: "search",
             bottomStart: few ? null : "pageLength", bottom2Start: few ? null : "info", bottomEnd: few ? null : "paging"},
    columnControl: {target: 0, content: ["order", ["search"]]},
    ordering: {indicators: false, handler: false},
    createdRow: (element, row, number) => element.classList.toggle("best", number === best),
    language: {search: "Filter", buttons: {colvis: "Columns"}},
  });
}

function showTables() {
  show("means", section.headings, section.cells, () => "", section.best);
  list("notes", "li", section.notes);
  const headings = ["method", "seed", "status", ...section.numbers, ...section.keys, "record"];
  const urls = section.runs.some(run => run[6]);
  const rows = section.runs.map(run => [
    section.rows[run[0]].label, run[1], run[2], ...run[3], ...run[4], run[5], ...(urls ? [run[6]] : []),
  ]);
  const record = headings.length - 1;
  show("runs", urls ? [...headings, "W&B"] : headings, rows, (column, value) => {
    if (column < record || !value) return "";
    const target = column > record ? value : value.split("/").map(encodeURIComponent).join("/") + "/";
    return `<a href="${safe(target)}">${safe(value.split("/").at(-1))}</a>`;
  });
  at("config-of").textContent = section.config_of;
  at("config").textContent = section.config;
}

function choose() {
  section = sections[at("section").value];
  const numbers = section.numbers.map((name, place) => ({name, of: run => number(run[3][place])}));
  const keys = section.keys.map((name, place) => ({name, of: run => number(run[4][place])}));
  section.axes = [...numbers, {name: "seed", of: run => run[1]},
    ...keys.filter(key => section.runs.some(run => key.of(run) !== null))];
  const names = section.axes.map(axis => axis.name);
  fill(at("quantity"), Object.keys(section.curves));
  fill(at("x"), names, names.find(name => name.startsWith("train ")) && "seconds");
  fill(at("y"), names, names[0]);
  list("remarks", "p", section.remarks);
  drawCurves();
  drawScatter();
  showTables();
}

function colours() {
  set_or_remove_dark_class();
  if (section) { drawCurves(); drawScatter(); }
}

for (const control of controls) {
  control.addEventListener("change", remember);
  if (control.type === "checkbox") control.checked = chosen[control.id] ?? false;
}
for (const id of ["quantity", "against", "log-curves"]) at(id).addEventListener("change", drawCurves);
for (const id of ["x", "y", "log-x", "log-y"]) at(id).addEventListener("change", drawScatter);
at("section").addEventListener("change", choose);
dark.addEventListener("change", colours);
fill(at("section"), sections.map(one => one.title));
fill(at("against"), ["step", "seconds"]);
colours();
if (sections.length) choose();
