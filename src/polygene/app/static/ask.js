// "What if", and what is taken away.

import { get, job } from "./api.js";
import { picture, selectedNames, selectedRows, showGene } from "./look.js";
import { $, amount, attempt, capital, count, download, element, fill, many, option, percent, soon, warn, words } from "./page.js";

const NS = "http://www.w3.org/2000/svg";
let state, asked = 0, about = selectedRows(); // of which cells the answer is

export function startAsking(given) {
  state = given;
  const able = state.file.phenotypes.filter((one) => one.known.length > 1);
  fill($("change-name"), ...able.map((one) => option(one.name, words(one.name)))); labels();
  const donors = state.file.columns.filter((one) => one.n_labels > 0);
  fill($("donor"), ...(donors.some((one) => one.name === "donor_id") ? [] : [option("donor_id", "no column")]), ...donors.map((one) => option(one.name)));
  $("donor").value = "donor_id"; forget(); showPython();
}

function labels() {
  const one = state.file.phenotypes.find(({ name }) => name === $("change-name").value);
  fill($("change-label"), ...(one?.known ?? []).map((label) => option(label)));
}

function forget() { asked += 1; about = selectedRows(); fill($("what-if-found")); sayOf(); }

function sayOf() {
  const n = selectedRows().length;
  $("what-if-of").textContent = n ? `About the ${n === 1 ? "selected cell" : `${count(n)} selected cells`}${n > 1000 ? "; 1,000 of them, evenly spread, are read" : ""}.` : "First select cells: draw around them on the map, or click a label of the legend.";
  for (const button of document.querySelectorAll(".ask button")) button.disabled = !n;
}

async function ask(body, draw) {
  const number = ++asked;
  fill($("what-if-found"), element("p", { id: "asking", className: "soft", textContent: soon("The model is asked…") }));
  const found = await attempt(() => job("what-if", { ...body, donor: $("donor").value }));
  if (number === asked) fill($("what-if-found"), ...(found ? draw(found) : [element("p", { className: "soft", textContent: "There is no answer. Ask again." })]));
}

function changed(found, name, to) { // as they were when it was asked: the menus may have moved on
  const unit = found.kind === "expression" ? "log1p counts per 10,000" : "probability of being expressed";
  const most = Math.max(...[...found.up, ...found.down].map(({ change, low, high }) => Math.max(Math.abs(change), Math.abs(low ?? 0), Math.abs(high ?? 0))), 1e-9);
  const donors = found.donors > 1 ? `a mean over ${count(found.donors)} donors, with 95 % intervals` : "without intervals, for which donors are needed";
  const taken = found.taken.length ? ` Their own ${words(found.taken[0])} is the predicted one.` : "";
  return [
    element("h2", { textContent: `If ${name} were ${to}` }),
    element("p", { className: "soft small", textContent: `${many(found.cells, "cell")} with another ${name}; ${unit}; ${donors}.${taken}` }),
    effects("Expected higher", found.up, "gene", most, (one) => signed(one.change), (one) => signed(one.half)), effects("Expected lower", found.down, "gene", most, (one) => signed(one.change), (one) => signed(one.half)),
    element("p", { className: "soft small", textContent: "By labels: the change where the model sees labels only. By half: the change where it also sees half of the cell's other genes, which often contradict the new label." }), keep(),
  ];
}

function moved(found) {
  const least = .005, first = [...found.phenotypes].sort((a, b) => (b.name === "cell_type") - (a.name === "cell_type"));
  const tables = first.map(({ name, rows }) => {
    const shown = rows.filter((one) => Math.abs(one.change) >= (name === "age" ? .5 : least)), most = Math.max(...shown.map((one) => Math.max(Math.abs(one.change), Math.abs(one.low ?? 0), Math.abs(one.high ?? 0))), .05);
    const text = (one) => (one.target === "years" ? `${signed(one.change)} years` : `${percent(one.before)} → ${percent(Math.max(0, one.before + one.change))}`);
    return shown.length ? effects(capital(words(name)), shown, "target", name === "age" ? Math.max(most, 5) : most, text) : null;
  }).filter(Boolean);
  const none = tables.length ? null : element("p", { textContent: "No probability moves by half a percent, and no age by half a year." });
  return [element("h2", { textContent: found.perturbation.replace(" KO", " removed").replace(" OE", " raised") }), element("p", { className: "soft small", textContent: `${count(found.cells)} of ${many(found.read, "cell")} ${found.cells === 1 ? "changes" : "change"}${found.donors > 1 ? `; a mean over ${found.donors} donors, with 95 % intervals` : ""}.` }), none, ...tables, keep()];
}

const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;
const keep = () => element("button", { textContent: "Download the whole table", onclick: () => save("what-if") });

function effects(title, rows, key, most, text, beside) {
  const name = (one) => (beside ? element("button", { className: "name", textContent: one[key], title: "Colour the map by this gene", onclick: () => showGene(one[key]) }) : one[key]);
  const line = (one) => element("tr", {}, element("th", { scope: "row" }, name(one)), element("td", {}, interval(one, most)), element("td", { className: "n", textContent: text(one) }), beside ? element("td", { className: "n soft", textContent: beside(one) }) : null);
  const head = beside ? element("thead", {}, element("tr", {}, ...["gene", "", "by labels", "by half"].map((each, i) => element("th", { scope: "col", className: i > 1 ? "n" : "", textContent: each })))) : null;
  return element("table", { className: "effects" }, element("caption", { textContent: title }), rows.length ? head : null, element("tbody", {}, ...(rows.length ? rows.map(line) : [element("tr", {}, element("td", { textContent: "none" }))])));
}

function interval({ change, low, high }, most) {
  const svg = document.createElementNS(NS, "svg"), x = (value) => 50 + 48 * value / most;
  svg.setAttribute("viewBox", "0 0 100 16"); svg.setAttribute("preserveAspectRatio", "none"); if (low === null) svg.setAttribute("aria-hidden", "true"); else { svg.setAttribute("role", "img"); svg.setAttribute("aria-label", `95 % interval ${signed(low)} to ${signed(high)}`); }
  const add = (tag, facts) => { const made = document.createElementNS(NS, tag); for (const [name, value] of Object.entries(facts)) made.setAttribute(name, value); svg.append(made); };
  add("rect", { x: Math.min(50, x(change)), y: 4, width: Math.max(.7, Math.abs(x(change) - 50)), height: 8, fill: change > 0 ? "#d55e00" : "#0072b2" });
  add("line", { x1: 50, x2: 50, y1: 0, y2: 16, stroke: "currentColor", "stroke-width": .4 });
  if (low !== null) add("line", { x1: x(low), x2: x(high), y1: 8, y2: 8, stroke: "currentColor", "stroke-width": 1.4 });
  return svg;
}

export async function showPython() {
  const answer = await get("take/py").catch(() => null);
  if (answer) $("python").textContent = await answer.text();
}

async function save(what) {
  if (what === "png" || what === "svg") { await savePicture(what); return; }
  if (what === "cells") {
    if (!selectedRows().length) { warn("No cell is selected."); return; }
    download(new Blob([(await selectedNames()).join("\n")], { type: "text/plain" }), "selected-cells.txt"); return;
  }
  if (["csv", "parquet", "html"].includes(what)) await job(`take/${what}`);
  element("a", { href: `/api/take/${what}`, download: "" }).click();
}

const NAMED = 40; // labels in the legend of a picture

async function savePicture(what) {
  const { scatter, colours, palette, hidden } = picture();
  if (!scatter?.n || !colours) { warn("There is no map yet."); return; }
  scatter.paint();
  const { width, height } = scatter.points, ratio = window.devicePixelRatio || 1, style = getComputedStyle(document.documentElement), ink = style.getPropertyValue("--ink"), back = style.getPropertyValue("--card");
  const labelled = (colours.labels || []).map((label, i) => [label, palette[i], colours.counts[i]]).filter((_, i) => !hidden.has(i)), more = labelled.length - NAMED;
  if (more > 0) labelled.splice(NAMED, more, [`and ${more} more`, "transparent", null]);
  const rows = colours.kind === "labels" ? labelled : palette.map((colour, i) => [i ? (i === palette.length - 1 ? `${amount(colours.high)}, ${colours.title}` : "") : amount(colours.low), colour, null]);
  const canvas = element("canvas"), context = canvas.getContext("2d"), font = `${13 * ratio}px system-ui, sans-serif`, said = ([label, , n]) => `${label}${n === null ? "" : ` (${count(n)})`}`;
  context.font = font; // of an empty canvas, to measure
  const wide = width + 36 * ratio + Math.max(0, ...rows.map((row) => context.measureText(said(row)).width)), high = Math.max(height, (rows.length + 2) * 22 * ratio);
  if (what === "svg") {
    const escape = (text) => text.replace(/[&<>"]/g, (one) => `&#${one.charCodeAt(0)};`), at = (i) => (i + 1.4) * 22 * ratio;
    const legend = rows.map((row, i) => `<circle cx="${width + 12 * ratio}" cy="${at(i) - 4 * ratio}" r="${5 * ratio}" fill="${row[1]}"/><text x="${width + 24 * ratio}" y="${at(i)}">${escape(said(row))}</text>`).join("");
    const names = scatter.named.map(([x, y, , text]) => `<text x="${x}" y="${y}" text-anchor="middle" dominant-baseline="central" font-weight="600" stroke="${back}" stroke-width="${4 * ratio}" paint-order="stroke">${escape(text)}</text>`).join("");
    const svg = `<svg xmlns="${NS}" viewBox="0 0 ${wide} ${high}" font-family="system-ui, sans-serif" font-size="${13 * ratio}" fill="${ink}"><rect width="100%" height="100%" fill="${back}"/><image width="${width}" height="${height}" href="${scatter.points.toDataURL()}"/>${names}${legend}</svg>`;
    download(new Blob([svg], { type: "image/svg+xml" }), "map.svg"); return;
  }
  Object.assign(canvas, { width: wide, height: high }); context.fillStyle = back; context.fillRect(0, 0, wide, high); context.drawImage(scatter.points, 0, 0); context.drawImage(scatter.over, 0, 0); context.font = font;
  rows.forEach((row, i) => {
    const y = (i + 1.4) * 22 * ratio; context.fillStyle = row[1]; context.beginPath(); context.arc(width + 12 * ratio, y - 4 * ratio, 5 * ratio, 0, 7); context.fill();
    context.fillStyle = ink; context.fillText(said(row), width + 24 * ratio, y);
  });
  canvas.toBlob((blob) => download(blob, "map.png"));
}

document.addEventListener("selected", () => { if (about !== selectedRows()) forget(); });
$("change-name").onchange = labels;
$("change-form").onsubmit = (event) => { event.preventDefault(); const [name, to] = [$("change-name").value, $("change-label").value]; ask({ changes: { [name]: to } }, (found) => changed(found, words(name), to)); };
$("knock-form").onsubmit = (event) => { event.preventDefault(); const gene = $("knock-gene").value.trim(); if (gene) ask({ [$("knock-how").value]: [gene] }, moved); };
for (const button of document.querySelectorAll("[data-take]")) button.onclick = () => attempt(() => save(button.dataset.take));
$("copy").onclick = () => navigator.clipboard.writeText($("python").textContent).then(() => { $("copy").textContent = "Copied"; }, () => warn("Copying is not allowed here: select the text."));
