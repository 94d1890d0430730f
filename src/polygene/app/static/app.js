// The page: which view is shown, opening a file, choosing what is predicted, and progress.

import { get, job, listen, post, result, settle, upload } from "./api.js";
import { startAsking, showPython } from "./ask.js";
import { leave, look, restyle, showMap } from "./look.js";
import { $, attempt, bars, count, duration, element, fill, many, option, percent, shorten, warn, words } from "./page.js";

let state = {}, view = "", shown = null, mapped = null, uploading = false, drawing = false;
const MOST_CLUSTERED = 50_000;
const VIEWS = ["token", "elsewhere", "open", "busy", "choose", "look"];
const TITLES = { read: "Reading the file", annotate: "Predicting", upload: "Taking the file in" };

const tabs = new BroadcastChannel("polygene"); // all tabs of a browser have one session: one of them is alive

tabs.onmessage = ({ data }) => {
  if (data === "is it here?") { if (view !== "elsewhere" && view !== "token") tabs.postMessage("it is here"); }
  else { listen.source?.close(); show("elsewhere"); }
};

function show(name) {
  if (view === "elsewhere") return; // until it is loaded again
  const before = view; view = name;
  for (const one of VIEWS) $(`${one}-view`).hidden = one !== name;
  $("another").hidden = name !== "choose" && name !== "look"; $("again").hidden = name !== "look"; $("back").hidden = name !== "choose" || !state.run;
  $("file-name").hidden = !state.file || name === "open"; $("file-name").textContent = state.file ? `${shorten(state.file.name)} · ${many(state.file.cells, "cell")}` : ""; $("file-name").title = state.file?.name ?? "";
  if (before && before !== name) document.querySelector(`#${name}-view h1`).focus(); // a reader of the screen is told
}

function settled() { // the view that the state asks for
  if (state.run) { show("look"); enterLook(); } else if (state.file) { showChoose(); } else { leave(); show("open"); }
}

function enterLook() {
  const key = JSON.stringify(state.run.options), before = mapped;
  mapped = state.map;
  if (shown !== key) { shown = key; attempt(() => look(state)); startAsking(state); } else if (mapped !== before) attempt(() => showMap(state));
  if (!state.map && !drawing) draw(job("draw"));
}

async function draw(drawn) { // the map comes after the predictions, which can be read before
  const wait = (text, action, name) => fill($("map-wait"), element("p", { id: "map-text", textContent: text }), element("button", { textContent: name, onclick: action }));
  drawing = true; $("map-wait").classList.add("drawing"); $("map-wait").hidden = false; wait("Drawing the map…", () => post("cancel"), "Cancel");
  try { await drawn; } catch (error) { if (!error.cancelled) warn(error.message); wait("There is no map.", () => draw(job("draw")), "Draw the map"); } finally { drawing = false; $("map-wait").classList.remove("drawing"); }
}

function onMessage(message) {
  if (message.kind === "state") {
    const ran = Boolean(state.run); state = message.state;
    if (state.run && (!ran || view === "look")) settled();
    if (view === "look") showPython();
  } else if (message.kind === "progress") { showProgress(message.progress);
  } else if (message.kind === "gone") { warn("The server is gone. Start it again with: polygene app");
  } else { settle(message); }
}

function showProgress(progress) {
  if (uploading) return;
  if (!progress) { if (view === "busy") settled(); return; }
  const done = progress.total ? `${count(Math.round(progress.n))} of ${count(progress.total)} cells` : "";
  if (done && progress.name === "draw" && $("map-text")) $("map-text").textContent = `Drawing the map: ${done} are ${progress.text}…`;
  if (done && progress.name.startsWith("change") && $("asking")) $("asking").textContent = `The model is asked: ${done}…`;
  if (!(progress.name in TITLES)) return;
  if (view !== "busy") show("busy");
  $("busy-title").textContent = TITLES[progress.name];
  bar(progress.total ? progress.n / progress.total : null);
  const left = progress.left > 1 ? `, ${duration(progress.left)} left` : "";
  $("busy-text").textContent = done && `${done}${left}`;
  $("live").hidden = !progress.live?.length;
  if (progress.live?.length) fill($("live-list"), ...bars(progress.live, progress.live[0][1], count));
}

function bar(share) {
  $("bar").classList.toggle("unknown", share === null); $("bar").firstElementChild.style.width = share === null ? "" : `${100 * share}%`;
  if (share === null) $("bar").removeAttribute("aria-valuenow"); else $("bar").setAttribute("aria-valuenow", Math.round(100 * share));
}

async function working(name, begin) {
  $("alert").hidden = true; if (name === "annotate") { shown = null; leave(); }
  $("busy-title").textContent = TITLES[name]; $("busy-text").textContent = ""; $("live").hidden = true; bar(null); show("busy");
  // the state has come as a message before the end of the job: one that is asked for could be older, without the map
  try { await result((await begin()).id); } catch (error) { if (!error.cancelled) warn(error.message); }
  settled();
}

// what was predicted goes only when a file has been read, and when its reader says so
const leaves = () => !state.run || confirm("Leave these results? What you have not taken away is lost.");

async function take(file) {
  $("file").value = "";
  if (!file || !leaves()) return;
  await working("upload", async () => {
    uploading = true;
    try {
      return await upload(file, (done, all) => { bar(done / all); $("busy-text").textContent = `${(done / 1e6).toFixed(0)} of ${(all / 1e6).toFixed(0)} MB`; });
    } finally { uploading = false; $("busy-title").textContent = TITLES.read; $("busy-text").textContent = ""; bar(null); }
  });
}

function showChoose() {
  const file = state.file, able = (file.models || []).filter((one) => !one.problem);
  $("choose-title").textContent = shorten(file.name); $("choose-title").title = file.name;
  fact([["Cells", count(file.cells)], ["Genes", count(file.genes)], ["Values", file.scale ? file.scale.split(" ")[0] : "not readable", file.scale?.split(" ").slice(1).join(" ")]], able[0]);
  $("problem").hidden = !file.problem; $("problem").textContent = file.problem || "";
  fill($("warnings"), ...file.notes.map((text) => element("li", { textContent: text })));
  fill($("model"), ...able.map((one) => option(one.name, `${one.name}: ${count(one.measured)} of its ${count(one.panel)} genes`)));
  fill($("plane"), ...file.maps.map((name) => option(name, `${name} of the file`)), option("", "make a new UMAP"));
  fill($("vote"), ...votes(file));
  fill($("layer"), option("", "X"), ...file.layers.map((name) => option(name)));
  $("layer").value = file.layer || ""; $("layer-label").hidden = !file.layers.length; if (file.problem) document.querySelector("details").open = true;
  fill($("predict"), ...[...file.phenotypes].sort((a, b) => (b.name === "cell_type") - (a.name === "cell_type")).map(phenotype));
  $("run").disabled = !able.length;
  show("choose");
}

function votes(file) { // columns that may hold clusters; where one is called so, it is chosen
  const some = file.columns.filter((one) => one.n_labels > 1 && one.n_labels <= 300 && one.name !== "leiden"), made = file.cells <= MOST_CLUSTERED || file.columns.some((one) => one.name === "leiden");
  const likely = file.columns.find((one) => one.n_labels > 1 && /^(leiden|louvain|seurat_clusters|clusters?)$/i.test(one.name))?.name;
  return [option("", "none: each cell decides by itself"), made && option("leiden", file.columns.some((one) => one.name === "leiden") ? "leiden" : "clusters that PolyGene makes (Leiden)", likely === "leiden"), ...some.map((one) => option(one.name, `${one.name} (${count(one.n_labels)} groups)`, one.name === likely))];
}

function fact(facts, model) {
  if (model) {
    const least = model.lowest_share_of_macro_f1, [low, high] = [percent(least), percent(model.expected_share_of_macro_f1)];
    facts.push(["Genes the model reads", `${count(model.measured)} of ${count(model.panel)}`, least > .995 ? "all that it needs" : `accuracy: ${low} to ${high} of what all of them give`]);
  }
  fill($("facts"), ...facts.map(([name, value, more]) => element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value }, more ? element("small", { textContent: more }) : null))));
}

function phenotype(one) {
  const check = (kind, checked, text) => element("label", {}, element("input", { type: "checkbox", name: kind, value: one.name, checked, ariaLabel: kind === "given" ? `${words(one.name)}: known` : null, disabled: kind === "given" && !one.labels.length }), text);
  const there = one.labels.length ? `in the file: ${one.labels.map(([label, n]) => `${label} (${count(n)})`).join(", ")}${one.n_labels > one.labels.length ? ", …" : ""}` : "not in the file";
  const row = element("div", { className: "check" }, check("predict", true, words(one.name)), one.labels.length ? check("given", false, "known") : element("span"), element("span", { className: "soft", textContent: there, title: there }));
  row.onchange = (event) => { for (const box of row.querySelectorAll("input")) if (box !== event.target && event.target.checked) box.checked = false; };
  return row;
}

function run(event) {
  event.preventDefault();
  const chosen = (kind) => [...document.querySelectorAll(`#predict input[name="${kind}"]:checked`)].map((box) => box.value);
  const predict = chosen("predict"), number = (id) => ($(id).value ? Number($(id).value) : null);
  if (!predict.length) { warn("Choose at least one thing to predict."); return; }
  const types = predict.includes("cell_type"), back_off = types ? number("back-off") : null, vote = types && $("vote").value ? { cell_type: $("vote").value } : null;
  working("annotate", () => post("run", { model: $("model").value, given: chosen("given"), predict, coverage: number("coverage"), back_off, vote, plane: $("plane").value || null }));
}

function theme(name) { document.documentElement.dataset.theme = name; restyle(); }

function wire() {
  for (const [kind, of] of [["click", "button, canvas"], ["change", "select, [type=checkbox]"], ["submit", "form"], ["drop", "*"]]) { // a message is of the action before
    document.addEventListener(kind, (event) => { if (event.target.closest?.(of)) $("alert").hidden = true; }, true);
  }
  const drop = $("drop");
  $("file").onchange = () => take($("file").files[0]);
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.toggle("over", kind === "dragover" && view === "open"); });
  }
  document.addEventListener("drop", (event) => { if (!["busy", "elsewhere", "token"].includes(view)) take(event.dataTransfer.files[0]); });
  $("example").onclick = () => working("read", () => post("open", {}));
  $("path-form").onsubmit = (event) => { event.preventDefault(); if ($("path").value.trim()) working("read", () => post("open", { path: $("path").value })); };
  $("layer").onchange = () => { if (!leaves()) { $("layer").value = state.file.layer || ""; return; } working("read", () => post("open", { again: true, layer: $("layer").value || null })); };
  $("run-form").onsubmit = run;
  $("cancel").onclick = () => { upload.request?.abort(); post("cancel"); };
  $("another").onclick = async () => { if (!leaves()) return; await post("close"); state = {}; shown = null; settled(); };
  $("again").onclick = showChoose; $("back").onclick = settled;
  $("here").onclick = () => { tabs.postMessage("it is here"); location.reload(); };
  $("theme").onclick = () => { const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark"; localStorage.setItem("theme", next); theme(next); };
  $("token-form").onsubmit = (event) => { event.preventDefault(); attempt(() => enter($("token").value.trim())); };
}

async function enter(token) { await post("token", { name: token }); await start(); }

async function start() {
  let all;
  try { all = await get("state"); } catch { show("token"); return; }
  state = all.state; if (view === "elsewhere") return;
  listen(all.last, onMessage);
  if (all.progress?.name === "draw") draw(result(all.progress.id));
  if (all.progress?.name in TITLES) { show("busy"); result(all.progress.id).catch((error) => { if (!error.cancelled) warn(error.message); }).then(settled); }
  else { settled(); }
}

const dark = matchMedia("(prefers-color-scheme: dark)"), token = location.hash.slice(1);
theme(localStorage.getItem("theme") || (dark.matches ? "dark" : "light"));
dark.onchange = () => { if (!localStorage.getItem("theme")) theme(dark.matches ? "dark" : "light"); };
wire(); tabs.postMessage("is it here?");
if (token) { history.replaceState(null, "", "/"); enter(token).catch(start); } else { start(); }
