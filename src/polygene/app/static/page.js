// Small helpers for the page. Text from files only ever goes in as text.

export const $ = (id) => document.getElementById(id);
export const count = (n) => n.toLocaleString("en-US");
export const amount = (value) => value.toLocaleString("en-US", { maximumSignificantDigits: 3 });
export const many = (n, one) => `${count(n)} ${one}${n === 1 ? "" : "s"}`;
export const shorten = (name) => (name.length > 60 ? `${name.slice(0, 38)}…${name.slice(-20)}` : name);
export const percent = (share) => `${(100 * share).toFixed(share > 0 && share < .1 ? 1 : 0)} %`;
export const capital = (text) => text[0].toUpperCase() + text.slice(1);
export const words = (name) => name.replace(/^polygene_/, "").replaceAll("_", " ");

export function element(tag, facts = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(facts)) {
    if (key in made) made[key] = value; else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const fill = (parent, ...children) => parent.replaceChildren(...children.filter(Boolean));
export const option = (value, text, selected = false) => element("option", { value, textContent: text ?? value, selected });

export function bars(pairs, most, shown) { // [label, value] as bars
  return pairs.map(([label, value]) => {
    const bar = element("i"); bar.style.width = `${100 * Math.min(1, value / (most || 1))}%`;
    return element("li", {}, element("span", { textContent: label }), element("b", { textContent: shown(value) }), bar);
  });
}

export function warn(text) {
  const close = element("button", { className: "quiet", textContent: "Close", onclick: () => { $("alert").hidden = true; } });
  fill($("alert"), element("span", { textContent: text }), close); $("alert").hidden = false;
}

// a session computes one thing after the other
export const soon = (text) => ($("map-wait").classList.contains("drawing") ? `${text.slice(0, -1)} after the map is drawn, which you can cancel on the left…` : text);

export function duration(seconds) {
  if (seconds < 5) return "a few seconds";
  if (seconds < 90) return `${Math.round(seconds)} seconds`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} minutes` : `${(seconds / 3600).toFixed(1)} hours`;
}

export function download(blob, name) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click(); setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

export async function attempt(work) { // show what goes wrong, but not a cancel
  try { return await work(); } catch (error) { if (!error.cancelled) warn(error.message); return null; }
}
