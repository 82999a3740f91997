// What the page of a report does by itself: it keeps the reader's choice of light or dark.

export const script = String.raw`
"use strict";
const root = document.documentElement;
const buttons = [...document.querySelectorAll(".themes button")];
// A page opened from a file may have no storage: the choice then holds as long as the page.
const kept = (value) => {
  try {
    if (value === undefined) return localStorage.getItem("esft-theme");
    localStorage.setItem("esft-theme", value);
  } catch {}
  return null;
};
function choose(theme) {
  if (theme === "light" || theme === "dark") root.dataset.theme = theme;
  else delete root.dataset.theme;
  for (const button of buttons) button.setAttribute("aria-pressed", String(button.value === (root.dataset.theme ?? "auto")));
}
for (const button of buttons)
  button.addEventListener("click", () => {
    choose(button.value);
    kept(button.value);
  });
document.querySelector(".themes").hidden = false;
choose(kept());
`;
