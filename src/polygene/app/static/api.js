// Talks to the server: requests, jobs that end with a message, and columns as typed arrays.

const waiting = new Map(), early = new Map();
const TYPES = { labels: Int16Array, numbers: Float32Array };

export async function post(path, body, type = "application/json") {
  const answer = await fetch(`/api/${path}`, { method: "POST", headers: { "content-type": type, "x-polygene": "1" }, body: type === "application/json" ? JSON.stringify(body ?? {}) : body });
  return checked(answer);
}

async function checked(answer) {
  if (answer.ok) return (answer.headers.get("content-type") || "").includes("json") ? answer.json() : answer;
  const text = await answer.text();
  let detail = text;
  try { detail = JSON.parse(text).detail; } catch { /* plain text */ }
  throw new Error(typeof detail === "string" ? detail : "The server did not understand the request.");
}

export async function get(path) { return checked(await fetch(`/api/${path}`)); }

export function result(id) { // of the job with this number
  return new Promise((resolve, reject) => { waiting.set(id, { resolve, reject }); if (early.has(id)) settle(early.get(id)); });
}

export function settle(message) {
  const one = waiting.get(message.id);
  if (!one) { early.set(message.id, message); return; }
  waiting.delete(message.id); early.delete(message.id);
  if (message.kind === "done") one.resolve(message.result); else one.reject(Object.assign(new Error(message.text), { cancelled: message.cancelled }));
}

export async function job(path, body, type) { return result((await post(path, body, type)).id); }

export function listen(last, onMessage) {
  const source = new EventSource(`/api/events?last=${last}`);
  source.onmessage = (event) => onMessage(JSON.parse(event.data));
  listen.source = source;
  source.onerror = () => { if (source.readyState === EventSource.CLOSED) onMessage({ kind: "gone" }); };
}

export function upload(file, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `/api/upload?name=${encodeURIComponent(file.name)}`);
    request.setRequestHeader("x-polygene", "1"); request.setRequestHeader("content-type", "application/octet-stream");
    request.upload.onprogress = (event) => onProgress(event.loaded, event.total);
    request.onload = () => {
      let body = {}; try { body = JSON.parse(request.responseText); } catch { body = { detail: request.responseText }; }
      if (request.status === 200) resolve(body); else reject(new Error(body.detail || "The file was not taken."));
    };
    request.onerror = () => reject(new Error("The server stopped the upload: the file may be too large, or the server is gone."));
    request.onabort = () => reject(Object.assign(new Error("Cancelled."), { cancelled: true }));
    upload.request = request; request.send(file);
  });
}

export async function column(name, kind = "obs") {
  const bytes = await (await get(`column?kind=${kind}&name=${encodeURIComponent(name)}`)).arrayBuffer();
  const size = new Uint32Array(bytes, 0, 1)[0], facts = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 4, size)));
  return { ...facts, values: new TYPES[facts.kind](bytes, 4 + size, facts.n) };
}

export async function binary(what) { return (await get(`read/${what}`)).arrayBuffer(); }
export async function json(what) { return JSON.parse(new TextDecoder().decode(await binary(what))); }
