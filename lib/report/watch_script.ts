// What the page of a run that is watched does: it asks its server every other second whether there is something new, and puts it in the
// place of the old without closing tables or moving what is scrolled.

export const watchScript = String.raw`
"use strict";
const EVERY = 2000;
const content = document.getElementById("content");
const state = document.getElementById("live");
let version = content.dataset.version;

function say(words, lost) {
  if (state.textContent !== words) state.textContent = words;
  state.classList.toggle("lost", lost);
}

function replace(html) {
  const key = (element) => element.closest("figure").id + " " + element.className;
  const open = new Map([...content.querySelectorAll("details")].map((d) => [key(d), d.open]));
  const scrolling = () => [...content.querySelectorAll(".table, .chart")];
  const scrolled = new Map(scrolling().map((s) => [key(s), [s.scrollLeft, s.scrollTop]]));
  const focused = document.activeElement?.closest("#content figure")?.id;
  const kind = ["summary", ".table", ".chart"].find((k) => document.activeElement?.matches(k));
  content.innerHTML = html;
  for (const d of content.querySelectorAll("details")) if (open.has(key(d))) d.open = open.get(key(d));
  for (const s of scrolling()) [s.scrollLeft, s.scrollTop] = scrolled.get(key(s)) ?? [0, 0];
  if (focused && kind) document.getElementById(focused)?.querySelector(kind)?.focus({ preventScroll: true });
  document.title = content.querySelector("h1").textContent;
}

async function look() {
  let response = null;
  let html = "";
  try {
    response = await fetch("content", { cache: "no-store", headers: { "If-None-Match": version } });
    html = await response.text();
  } catch {
    response = null;
  }
  setTimeout(look, EVERY);
  if (response === null) return say("Not connected: esft watch has ended, or cannot be reached", true);
  if (response.status === 200) {
    version = response.headers.get("ETag");
    replace(html);
  } else if (response.status !== 304) return say("The report cannot be made now: the terminal of esft watch says why", true);
  say("Live", false);
}
say("Live", false);
setTimeout(look, EVERY);
`;
