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
  const key = (element) => element.closest("figure").id;
  const open = new Map([...content.querySelectorAll("details")].map((d) => [key(d), d.open]));
  const scrolled = new Map([...content.querySelectorAll(".table")].map((t) => [key(t), [t.scrollLeft, t.scrollTop]]));
  const focused = document.activeElement?.closest("#content figure")?.id;
  const kind = document.activeElement?.matches("summary") ? "summary" : ".table, .chart";
  content.innerHTML = html;
  for (const d of content.querySelectorAll("details")) if (open.has(key(d))) d.open = open.get(key(d));
  for (const t of content.querySelectorAll(".table")) [t.scrollLeft, t.scrollTop] = scrolled.get(key(t)) ?? [0, 0];
  if (focused) document.getElementById(focused)?.querySelector(kind)?.focus({ preventScroll: true });
  document.title = content.querySelector("h1").textContent;
}

async function look() {
  try {
    const response = await fetch("content", { cache: "no-store", headers: { "If-None-Match": version } });
    if (response.status === 200) {
      version = response.headers.get("ETag");
      replace(await response.text());
    } else if (response.status !== 304) throw new Error();
    say("Live", false);
  } catch {
    say("Not connected: esft watch has ended, or cannot be reached", true);
  }
  setTimeout(look, EVERY);
}
say("Live", false);
setTimeout(look, EVERY);
`;
