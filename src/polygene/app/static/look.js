// Looking: the map and its colours, the legend, the selected cells, and the table.

import { binary, column, job, json, post, result } from "./api.js";
import { $, amount, attempt, bars, capital, count, element, fill, many, option, percent, soon, warn, words } from "./page.js";
import { Scatter } from "./scatter.js";

// Okabe and Ito's colours, then Krzywinski's: told apart with any kind of colour vision; further labels are grey
const EIGHT = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a900", "#8c8c8c"];
const MANY = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a900", "#6a0dad", "#00b8a0", "#9c3a00", "#ff71a8", "#3f6f00", "#7c7cff", "#a3004f", "#5d8aa8", "#d4a6ff", "#6b5b00", "#00d4ff", "#b05cc6", "#2f4f8f"];
const VIRIDIS = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"], GREY = "#9aa4ae";
const PAGE = 50, TABS = ["look", "selected", "what-if", "table", "take"];
let scatter, state, colours = null, hidden = new Set(), selection = new Uint32Array(0), asked = 0, painted = 0, table = { columns: [], order: null, first: 0, by: null, down: false }, names = null;

export const selectedRows = () => selection;
export const selectedNames = async () => { names ??= await json("names"); return [...selection].map((row) => names[row]); };
export const picture = () => ({ scatter, colours, palette: colours?.labels ? hexes() : stops(), hidden });

export function leave() { selection = new Uint32Array(0); names = null; colours = null; hidden = new Set(); if (scatter?.n) scatter.setPoints(new Float32Array(0)); }
export function restyle() { if (!scatter) return; scatter.draw(); if (colours) { paint(); showLegend(); } }

export async function look(given) {
  state = given; scatter ??= new Scatter($("points"), $("over"), select);
  fill($("run-warnings"), ...state.run.notes.filter((text) => !state.file.notes.includes(text)).map((text) => element("li", { textContent: text }))); // those of the file were there before
  choices(state.run); showSelected();
  await showMap(state); await colourBy($("colour").value, "obs"); await showTable();
  const genes = await json("genes");
  fill($("gene-list"), ...genes.all.slice(0, 70_000).map((name) => option(name))); fill($("panel-list"), ...genes.panel.map((name) => option(name)));
}

export async function showMap(given) { // it comes later than all else, which stays as it is
  state = given; $("map-wait").hidden = Boolean(state.map); $("map-about").textContent = state.map ? `${capital(state.map)}.` : "";
  if (state.map) { scatter.setPoints(new Float32Array(await binary("map"))); scatter.setSelected(selection); paint(); }
}

function choices(run) {
  const described = run.columns, kept = $("colour").value, groups = [["Predicted", []], ["How sure", []], ["In the file", []]];
  for (const { name } of described) {
    if (name === "leiden" && !state.file.columns.some((one) => one.name === name)) groups[0][1].push([name, "clusters that PolyGene made"]);
    else if (!name.startsWith("polygene_")) groups[2][1].push([name, `${name}, of the file`]);
    else if (/_(probability|abstains|set_size|agree|error|novelty|unknown)$/.test(name)) groups[1][1].push([name, sure(name)]);
    else groups[0][1].push([name, byCluster(name) ?? `${words(name.replace(/(_set)?_term$/, "").replace(/_years$/, "_in_years"))}, ${name.endsWith("_set_term") ? "what its set has in common" : name.endsWith("_term") ? "broader" : "predicted"}`]);
  }
  fill($("colour"), element("option", { id: "colour-gene", value: "", hidden: true }), ...groups.filter(([, some]) => some.length).map(([label, some]) => element("optgroup", { label }, ...some.map(([name, text]) => option(name, text)))));
  const first = described.some((one) => one.name === kept) ? kept : run.predict.includes("cell_type") ? "polygene_cell_type" : `polygene_${run.predict[0]}`;
  $("colour").value = first;
}

function byCluster(name) { // the words for a column of a vote: polygene_<phenotype>_<column of the clusters>, with what follows
  const votes = state.run.columns.filter((one) => one.name.endsWith("_agree")).map((one) => one.name.slice(0, -"_agree".length));
  const vote = votes.sort((a, b) => b.length - a.length).find((one) => `${name}_`.startsWith(`${one}_`)), of = state.file.phenotypes.find((one) => vote?.startsWith(`polygene_${one.name}_`));
  if (!of) return null;
  const rest = name.slice(vote.length), by = rest.startsWith("_within") ? "within its cluster" : "by cluster";
  return `${words(of.name)} ${by} (${vote.slice(`polygene_${of.name}_`.length)})${words(rest.replace("_within", ""))}`;
}

function sure(name) {
  if (name === "polygene_unknown") return "unlike the training cells";
  return (byCluster(name) ?? words(name)).replace("term probability", "broader type: probability").replace(/(.*) probability$/, "$1: probability").replace(/(.*) error$/, "$1: probability of being wrong").replace(/(.*) agree$/, "$1: share of the cluster that agrees").replace(/(.*) abstains$/, "$1: not sure of one label").replace(/(.*) set size$/, "$1: labels in the set");
}

async function colourBy(name, kind) {
  if (!name) return;
  const number = ++painted, next = await column(name, kind);
  if (number !== painted) return;
  colours = { ...next, name, isGene: kind === "gene", title: kind === "gene" ? name : [...$("colour").options].find((one) => one.value === name).textContent };
  if (colours.labels) colours.labels = colours.labels.map((label) => label || (name.endsWith("_abstains") ? "sure of one label" : "(empty)")); hidden = new Set();
  paint(); showLegend();
}

const isNone = (value) => Number.isNaN(value) || (colours.kind === "labels" && value < 0), none = () => (isDark() ? "#9a6458" : "#c98c7d"); // a brown that no ramp has
const isDark = () => document.documentElement.dataset.theme === "dark";
const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)), hex = (parts) => `#${parts.map((part) => Math.round(part).toString(16).padStart(2, "0")).join("")}`;
const stops = () => (isDark() ? VIRIDIS.slice(3) : ["#d8dfe3", ...VIRIDIS.slice(0, 7).reverse()]); // what is high stands out from the page

function hexes() {
  const few = colours.labels.length <= EIGHT.length ? EIGHT : MANY;
  return colours.labels.map((label, i) => visible(label.startsWith("all other labels") ? GREY : few[i] ?? GREY));
}

function visible(colour) { // a colour that the page would swallow, moved away from it until the contrast is 3:1
  const light = (parts) => parts.map((part) => (part / 255 <= .04045 ? part / 255 / 12.92 : ((part / 255 + .055) / 1.055) ** 2.4)).reduce((all, part, i) => all + part * [.2126, .7152, .0722][i], .05);
  const back = light(rgb(isDark() ? "#191f26" : "#fbfcfd")), to = isDark() ? 255 : 0;
  let parts = rgb(colour);
  while ((isDark() ? light(parts) / back : back / light(parts)) < 3.05) parts = parts.map((part) => part + (to - part) * .03);
  return hex(parts);
}

function paint() {
  if (!scatter.n || !colours) return;
  const palette = new Uint8Array(1024).fill(255), index = new Uint8Array(scatter.n), values = colours.values;
  palette.set([...rgb(none()), 160], 4 * 255);
  if (colours.kind === "labels") {
    hexes().forEach((hex, i) => palette.set([...rgb(hex), 255], 4 * Math.min(i, 254)));
    for (let i = 0; i < scatter.n; i++) index[i] = isNone(values[i]) ? 255 : Math.min(values[i], 254);
  } else {
    for (let i = 0; i < 255; i++) palette.set([...ramp(i / 254), 255], 4 * i);
    const { low, high } = colours, wide = high - low || 1;
    for (let i = 0; i < scatter.n; i++) index[i] = isNone(values[i]) ? 255 : Math.max(0, Math.min(254, Math.round(254 * (values[i] - low) / wide)));
  }
  scatter.setVisible((i) => !hidden.has(values[i])); scatter.setColours(index, palette, centres());
}

function ramp(share) {
  const some = stops(), at = share * (some.length - 1), i = Math.min(Math.floor(at), some.length - 2), [a, b] = [rgb(some[i]), rgb(some[i + 1])];
  return a.map((value, k) => Math.round(value + (b[k] - value) * (at - i)));
}

const SQUARES = 40; // of the map, on a side

function centres() { // where the names of labels stand: where most cells are theirs, by a sample; at their middle if it is so there
  const { labels, values } = colours, { xy, n } = scatter;
  if (colours.kind !== "labels" || labels.length < 2) return [];
  const all = new Map(), own = labels.map(() => new Map()), places = labels.map(() => [[], []]), step = Math.max(1, Math.floor(n / 60_000));
  const square = (x, y) => 1000 * Math.round(x * SQUARES / 2) + Math.round(y * SQUARES / 2), add = (some, at) => some.set(at, (some.get(at) ?? 0) + 1);
  for (let i = 0; i < n; i += step) {
    const code = values[i], x = xy[2 * i], y = xy[2 * i + 1];
    if (hidden.has(code)) continue;
    add(all, square(x, y));
    if (code >= 0) { add(own[code], square(x, y)); places[code][0].push(x); places[code][1].push(y); }
  }
  const around = (some, at) => [-1001, -1000, -999, -1, 0, 1, 999, 1000, 1001].reduce((sum, by) => sum + (some.get(at + by) ?? 0), 0);
  const middle = (some) => Float32Array.from(some).sort()[some.length >> 1];
  return places.map(([xs, ys], code) => {
    const is = (at) => 2 * around(own[code], at) > around(all, at), at = square(middle(xs), middle(ys)), facts = { text: short(labels[code]), n: xs.length };
    if (is(at)) return { ...facts, x: middle(xs), y: middle(ys) };
    const best = [...own[code].keys()].filter(is).sort((a, b) => around(own[code], b) - around(own[code], a))[0];
    const column = Math.round(best / 1000);
    return best === undefined ? { n: 0 } : { ...facts, x: column * 2 / SQUARES, y: (best - 1000 * column) * 2 / SQUARES };
  }).filter((one) => one.n > 2).slice(0, 24);
}

const short = (label) => { const text = label.replace("-positive", "+").replace("-negative", "−").replace("-positive", "+").replace("-negative", "−").replace(", alpha-beta", "").replace(" thymus-derived", "").replace(", human", ""); return text.length > 40 ? `${text.slice(0, 39)}…` : text; };

function showLegend() {
  const isLabels = colours.kind === "labels", n = colours.values.reduce((all, value) => all + isNone(value), 0), dot = element("i");
  $("ramp").hidden = isLabels || n === colours.values.length; $("legend-tools").hidden = !isLabels;
  $("legend-about").textContent = isLabels ? `${capital(colours.title)}: ${many(colours.labels.length, "label")}${colours.labels.length > MANY.length ? `, of which the ${MANY.length} most frequent have a colour of their own` : ""}. Untick one to hide its cells, click its name to select them.` : colours.isGene ? `${colours.name}: log1p counts per 10,000` : capital(colours.title);
  dot.style.background = none();
  const absent = n ? element("li", {}, element("span"), dot, element("span", { textContent: "no value" }), element("b", { textContent: count(n) })) : null;
  fill($("legend"), ...(isLabels ? colours.labels.map(legendRow) : []), absent);
  if (isLabels) return;
  const [strip, low, high] = $("ramp").children;
  strip.style.background = `linear-gradient(to right, ${stops().join(", ")})`; low.textContent = amount(colours.low); high.textContent = amount(colours.high);
}

function legendRow(label, i) {
  const dot = element("i"), palette = hexes(); dot.style.background = palette[i];
  const box = element("input", { type: "checkbox", checked: !hidden.has(i), "aria-label": `Show ${label}` });
  box.onchange = () => { if (box.checked) hidden.delete(i); else hidden.add(i); paint(); };
  const name = element("button", { textContent: label, title: "Select these cells", onclick: () => select(rowsWhere((row) => colours.values[row] === i), false) });
  return element("li", {}, box, dot, name, element("b", { textContent: count(colours.counts[i]) }));
}

function rowsWhere(test) { const rows = []; for (let i = 0; i < colours.values.length; i++) if (test(i)) rows.push(i); return Uint32Array.from(rows); }

function select(rows, adds) {
  const here = document.activeElement;
  if (adds) rows = Uint32Array.from(new Set([...selection, ...rows]));
  selection = rows.sort(); if (scatter.n) scatter.setSelected(selection);
  $("n-selected").hidden = !selection.length; $("n-selected").textContent = count(selection.length);
  if (selection.length && $("tab-look").ariaSelected === "true") tab("selected");
  showSelected();
  if (!here.checkVisibility()) $("tab-selected").focus(); // the button that was pressed is gone
}

async function showSelected() {
  const about = $("selected"), number = ++asked, n = selection.length;
  document.dispatchEvent(new CustomEvent("selected"));
  if (!n) { fill(about, element("h2", { textContent: "No cell is selected" }), element("p", { className: "soft", textContent: "Draw around cells on the map, click a cell, or click a label of the legend." })); return; }
  fill(about, element("h2", { textContent: `${count(n)} selected ${n === 1 ? "cell" : "cells"}` }), element("p", { className: "soft", textContent: soon("Reading…") }));
  try {
    const ids = await post("selection", selection, "application/octet-stream"), genes = result(ids.markers).catch((error) => ({ genes: [], why: error.message }));
    const found = await result(ids.id);
    if (number !== asked) return;
    const marks = element("div", {}, element("p", { className: "soft", textContent: "Comparing genes…" }));
    const clear = element("button", { className: "quiet", textContent: "Clear", onclick: () => select(new Uint32Array(0), false) });
    fill(about, element("div", { className: "row head" }, element("h2", { textContent: `${count(n)} selected ${n === 1 ? "cell" : "cells"}` }), clear), numbers(found), ...found.phenotypes.flatMap(probabilities), element("h2", { textContent: "Genes higher here than elsewhere" }), marks);
    const { genes: rows, why, read } = await genes;
    if (number === asked) fill(marks, why ? element("p", { className: "soft", textContent: why }) : markers(rows, read));
  } catch (error) {
    if (number !== asked) return;
    if (error.cancelled) { showSelected(); return; } // with the map, behind which it waited
    warn(error.message); fill(about, element("p", { className: "soft", textContent: "These cells could not be read." }));
  }
}

function numbers(found) {
  const unsure = found.by_sets ? `not sure of one ${words(found.of)}` : `${words(found.of)} below 50 % probable`, shown = [[percent(found.cells / state.file.cells), "of all cells"], [percent(found.unsure), unsure]];
  if ("wrong" in found) shown.push([percent(found.wrong), "of these labels are expected to be wrong"]);
  if ("unknown" in found) shown.push([percent(found.unknown), "unlike the training cells"]);
  return element("div", { className: "numbers" }, ...shown.map(([value, text]) => element("div", {}, element("b", { textContent: value }), text)));
}

function probabilities({ name, labels, years }) {
  const [middle, low, high] = (years ?? []).map(Math.round), range = low === high ? "" : ` at the median, 90 % of the cells between ${low} and ${high}`;
  if (years) return [element("h2", { textContent: "Age" }), element("p", { textContent: `${middle} years${range}; off by 8 to 15 years on a new study.` })];
  return [element("h2", { textContent: capital(words(name)) }), element("ul", { className: "bars" }, ...bars(labels.filter(([, p], i) => i === 0 || p >= .01), 1, percent))];
}

function markers(rows, read) {
  const line = (row) => element("tr", {}, element("th", { scope: "row" }, element("button", { className: "name", textContent: row.gene, title: "Colour the map by this gene", onclick: () => showGene(row.gene) })),
    element("td", { className: "n", textContent: row.change.toFixed(1) }), element("td", { className: "n", textContent: percent(row.here) }), element("td", { className: "n", textContent: percent(row.elsewhere) }));
  const head = element("tr", {}, ...["gene", "log₂ fold", "here", "elsewhere"].map((text, i) => element("th", { scope: "col", className: i ? "n" : "", textContent: text })));
  return element("div", {}, element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows.map(line))), element("p", { className: "soft small", textContent: `Share of cells that express it; t-test of ${count(read[0])} selected and ${count(read[1])} other cells.` }));
}

export async function showGene(name) {
  if (!name.trim()) return;
  $("legend-about").textContent = soon("Reading the gene…");
  const found = await attempt(() => job("gene", { name: name.trim() }));
  if (!found) { if (colours) showLegend(); return; }
  $("gene").value = found.gene; $("colour-gene").hidden = false; $("colour-gene").textContent = `expression of ${found.gene}`; $("colour").value = ""; await colourBy(found.gene, "gene"); $("map").scrollIntoView({ block: "nearest" });
}

async function showTable() {
  const run = state.run, wanted = run.predict.flatMap((name) => [`polygene_${name}`, ...(name === "cell_type" ? ["polygene_cell_type_probability", "polygene_cell_type_abstains"] : [])]);
  const there = [...wanted.filter((name) => name.startsWith("polygene_cell_type")), "polygene_novelty", ...wanted].filter((name, i, all) => all.indexOf(name) === i && run.columns.some((one) => one.name === name));
  table = { columns: await Promise.all(there.map(async (name) => ({ ...(await column(name)), name }))), order: null, first: 0, by: null, down: false };
  names ??= await json("names"); sortTable();
}

const cellText = (one, row) => (one.kind === "labels" ? one.labels[one.values[row]] ?? "" : Number.isNaN(one.values[row]) ? "" : one.values[row].toFixed(2));

function sortTable() {
  const text = $("filter").value.trim().toLowerCase(), n = names.length, sign = table.down ? -1 : 1;
  const matching = table.columns.map((one) => (one.kind === "labels" ? one.labels.map((label) => label.toLowerCase().includes(text)) : null));
  const rows = []; for (let i = 0; i < n; i++) if (!text || names[i].toLowerCase().includes(text) || table.columns.some((one, c) => matching[c]?.[one.values[i]])) rows.push(i);
  if (table.by) {
    const rank = table.by.kind === "labels" ? table.by.labels.map((label, i) => [label, i]).sort((a, b) => a[0].localeCompare(b[0])).reduce((all, [, i], place) => { all[i] = place; return all; }, []) : null;
    const value = (row) => (rank ? rank[table.by.values[row]] ?? Infinity : table.by.values[row]);
    rows.sort((a, b) => sign * (value(a) - value(b)) || a - b);
  }
  table.order = rows; table.first = 0; drawTable();
}

function drawTable() {
  const head = (one) => element("th", { scope: "col", className: one.kind === "numbers" ? "n" : "", ariaSort: table.by === one ? (table.down ? "descending" : "ascending") : "none" },
    element("button", { textContent: `${heading(one.name)}${table.by === one ? (table.down ? " ↓" : " ↑") : ""}`, onclick: () => { table.down = table.by === one ? !table.down : one.kind === "numbers"; table.by = one; sortTable(); } }));
  fill($("table-head"), element("th", { scope: "col", textContent: "cell" }), ...table.columns.map(head));
  const shown = table.order.slice(table.first, table.first + PAGE);
  fill($("table-body"), ...shown.map((row) => element("tr", {}, element("th", { scope: "row" }, element("button", { className: "name", textContent: names[row], title: names[row], onclick: () => select(Uint32Array.of(row), false) })), ...table.columns.map((one) => element("td", { className: one.kind === "numbers" ? "n" : "", textContent: cellText(one, row) })))));
  $("table-at").textContent = table.order.length ? `${count(table.first + 1)} to ${count(table.first + shown.length)} of ${count(table.order.length)}` : "no cell";
  $("table-back").disabled = !table.first; $("table-on").disabled = table.first + PAGE >= table.order.length;
}

const heading = (name) => words(name).replace("cell type probability", "probability").replace("cell type abstains", "not sure");

function tab(name) {
  for (const one of TABS) { const button = $(`tab-${one}`); button.ariaSelected = String(one === name); button.tabIndex = one === name ? 0 : -1; $(one).hidden = one !== name; }
}

for (const [i, one] of TABS.entries()) {
  $(`tab-${one}`).onclick = () => tab(one);
  $(`tab-${one}`).onkeydown = (event) => { const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key]; if (by) { const next = TABS[(i + by + TABS.length) % TABS.length]; tab(next); $(`tab-${next}`).focus(); } };
}
$("colour").onchange = () => attempt(() => colourBy($("colour").value, "obs"));
$("gene-form").onsubmit = (event) => { event.preventDefault(); showGene($("gene").value); };
$("legend-all").onclick = () => { hidden = new Set(); paint(); showLegend(); };
$("legend-none").onclick = () => { hidden = new Set(colours.labels.keys()); paint(); showLegend(); };
$("legend-select").onclick = () => select(rowsWhere((row) => !hidden.has(colours.values[row])), false);
let typing; $("filter").oninput = () => { clearTimeout(typing); typing = setTimeout(sortTable, 200); };
$("table-back").onclick = () => { table.first = Math.max(0, table.first - PAGE); drawTable(); };
$("table-on").onclick = () => { table.first += PAGE; drawTable(); };
for (const mode of ["pan", "lasso"]) $(`tool-${mode}`).onclick = () => {
  scatter.mode = mode; $("points").classList.toggle("lasso", mode === "lasso"); for (const one of ["pan", "lasso"]) $(`tool-${one}`).ariaPressed = String(one === mode);
};
$("zoom-in").onclick = () => scatter.move({ zoom: scatter.zoom * 1.4 }); $("zoom-out").onclick = () => scatter.move({ zoom: scatter.zoom / 1.4 }); $("zoom-all").onclick = () => scatter.reset();
