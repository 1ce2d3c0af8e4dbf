"use strict";
// The search page: asks /v1/search and shows what comes back. Knows nothing that the API does not say.

const EXAMPLES = [
  "please help me find a photo of two red cats taken last month",
  "ähm, kannst du mir bitte ein Bild von drei blauen Booten in Berlin heraussuchen",
  "por favor, búscame una oferta de un pájaro verde por menos de 90 euros",
  "une description de quatre livres jaunes, merci",
  "помоги мне, пожалуйста, найти фото двух красных машин в Москве",
  "من فضلك ساعدني في أن أجد صورة قطتين سوداوين من الشهر الماضي",
  "请你帮我找一下上个月拍的两只白色小狗的照片",
  "すみませんが、先月撮った赤い車の写真を探してもらえますか",
];
const LIMIT = 24;

const $ = (id) => document.getElementById(id);
const query = $("query"), hits = $("hits"), chips = $("chips"), status = $("status"), picture = $("picture");
const asked = { image: null, id: null, ignore: new Set() };
let running = null;

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children.filter((child) => child !== null));
  return made;
}

function say(text, kind = "") {
  status.textContent = text;
  status.className = kind;
}

function body() {
  const said = query.value.trim();
  const parts = [];
  if (said) parts.push({ text: said });
  if (asked.image) parts.push({ image: asked.image });
  if (asked.id) parts.push({ id: asked.id });
  const wanted = { parts, limit: LIMIT, previews: true, explain: true, fusion: $("fusion").checked };
  if ($("modality").value) wanted.modality = $("modality").value;
  if (asked.ignore.size) wanted.ignore = [...asked.ignore];
  wanted.timezone = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
  if ($("now").value) wanted.now = $("now").value + "T12:00:00Z";
  return parts.length ? wanted : null;
}

async function search() {
  const wanted = body();
  if (!wanted) return;
  if (running) running.abort();
  running = new AbortController();
  const { signal } = running;
  say("Searching…");
  const headers = { "content-type": "application/json" };
  if (sessionStorage.key_) headers.authorization = "Bearer " + sessionStorage.key_;
  const started = performance.now();
  try {
    const answer = await fetch("/v1/search", { method: "POST", headers, body: JSON.stringify(wanted), signal });
    const found = await answer.json().catch(() => ({ code: "http_" + answer.status, detail: answer.statusText }));
    if (answer.ok) show(found, performance.now() - started);
    else fail(answer.status, found);
  } catch (error) {
    if (error.name !== "AbortError") fail(0, { code: "unreachable", detail: "The service cannot be reached." });
  }
}

function fail(code, problem) {
  hits.replaceChildren();
  chips.replaceChildren();
  if (code === 401) $("door").showModal();
  const again = code === 429 || code === 503 || code === 504 ? " Please try again in a moment." : "";
  say(`${problem.detail || "Something went wrong."}${again} (${problem.code})`, "wrong");
}

function show(found, took) {
  chips.replaceChildren(...understood(found));
  hits.replaceChildren(...found.hits.map(card));
  const stages = Object.entries(found.timings_ms).map(([name, ms]) => `${name} ${Math.round(ms)} ms`);
  if (found.no_match || !found.hits.length) {
    say("Nothing here fits. Take a chip away, or say it in another way.", "empty");
  } else {
    say(`${found.hits.length} results in ${Math.round(took)} ms (${stages.join(", ")})`);
  }
}

function understood(found) {
  const made = [];
  for (const parse of found.understanding) {
    if (found.understanding.length === 1) made.push(chip(parse.intent, percent(parse.intent_score), null));
    for (const slot of parse.slots) {
      if (!parse.filters.some((one) => one.slot === slot.label)) made.push(chip(slot.label, slot.text, null));
    }
  }
  const relaxed = new Set(found.filters_relaxed.map((one) => one.slot));
  for (const one of [...found.filters_applied, ...found.filters_relaxed]) {
    made.push(chip(one.field, meant(one), one.slot, relaxed.has(one.slot) ? "given up: nothing was left" : ""));
  }
  for (const label of asked.ignore) made.push(chip(label, "ignored", label, "click to use it again"));
  return made;
}

function chip(name, text, label, off = "") {
  const inside = [element("b", { textContent: name + " " }), element("bdi", { textContent: text })];
  if (label === null) return element("span", { className: "chip" }, ...inside);
  const again = asked.ignore.has(label);
  const made = element("button", { type: "button", className: off ? "chip off" : "chip" }, ...inside);
  if (!off) made.append(" ×");
  made.title = off || "Do not filter by this";
  made.dataset.slot = label;
  made.onclick = () => {
    if (again) asked.ignore.delete(label);
    else asked.ignore.add(label);
    search();
  };
  return made;
}

function meant(one) {
  const { equals, at_least, below, unit } = one.value;
  if (equals !== undefined) return String(equals);
  const day = (end) => (typeof end === "string" ? end.slice(0, 10) : String(Math.round(end * 100) / 100));
  const range = at_least !== undefined && below !== undefined ? `${day(at_least)} to ${day(below)}`
    : at_least !== undefined ? `from ${day(at_least)}` : `below ${day(below)}`;
  return unit ? `${range} ${unit}` : range;
}

function percent(share) {
  return Math.round(100 * share) + " %";
}

function card(hit) {
  const facts = [hit.captured_at && hit.captured_at.slice(0, 10), hit.place];
  if (hit.price !== null) facts.push(`${hit.price} ${hit.extra.currency || ""}`.trim());
  const title = element("h2", { textContent: hit.title || hit.id, dir: "auto", lang: hit.lang });
  const like = element("button", { type: "button", className: "like", textContent: "more like this" });
  like.onclick = () => {
    query.value = "";
    setPicture(null);
    asked.id = hit.id;
    asked.ignore.clear();
    search();
  };
  const score = element("span", { className: "score", textContent: hit.score.toFixed(3) });
  if (hit.explain) score.title = `with fusion ${hit.explain.fused.toFixed(3)}, without ${hit.explain.plain.toFixed(3)}`;
  const shown = hit.preview ? element("img", { src: "data:image/webp;base64," + hit.preview, alt: hit.title }) : null;
  return element("li", { className: "card" }, shown, element("div", { className: "body" }, title,
    element("p", { textContent: hit.text, dir: "auto", lang: hit.lang }),
    element("div", { className: "facts", textContent: facts.filter(Boolean).join(" · ") }),
    element("div", { className: "tail" }, score, element("span", { textContent: hit.modality === "image" ? "picture" : "text" }),
      element("span", { textContent: hit.lang }), like)));
}

function setPicture(encoded, url = "") {
  asked.image = encoded;
  picture.hidden = !encoded;
  if (encoded) picture.querySelector("img").src = url;
}

function take(file) {
  if (!file || !file.type.startsWith("image/")) return;
  const reader = new FileReader();
  reader.onload = () => {
    setPicture(reader.result.split(",", 2)[1], reader.result);
    asked.id = null;
    search();
  };
  reader.readAsDataURL(file);
}

$("search").onsubmit = (event) => {
  event.preventDefault();
  asked.id = null;
  asked.ignore.clear();
  search();
};
$("file").onchange = (event) => take(event.target.files[0]);
picture.querySelector("button").onclick = () => { setPicture(null); search(); };
for (const id of ["modality", "fusion", "now"]) $(id).onchange = search;
$("door").onclose = () => { sessionStorage.key_ = $("key").value; search(); };
addEventListener("paste", (event) => take([...event.clipboardData.files][0]));
addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("over"); });
addEventListener("dragleave", () => document.body.classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  take(event.dataTransfer.files[0]);
});
addEventListener("keydown", (event) => {
  if (event.key === "/" && document.activeElement !== query) { event.preventDefault(); query.focus(); query.select(); }
  if (event.key === "Escape" && document.activeElement === query) query.value = "";
});
$("examples").append(...EXAMPLES.map((text) => {
  const made = element("button", { type: "button", textContent: text, dir: "auto", title: text });
  made.onclick = () => { query.value = text; $("search").requestSubmit(); };
  return made;
}));
