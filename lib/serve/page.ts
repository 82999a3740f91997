// GET /: a page to talk to the models, one HTML text that asks for nothing from elsewhere. page_script.ts is what it does.

import { createHash } from "node:crypto";
import { script } from "./page_script.ts";

const style = `
:root { color-scheme: light dark; --back: #fff; --fore: #1b1b1f; --soft: #5d5d66; --line: #d6d6dd; --mine: #eef2fb; --mark: #2456c5; --bad: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --back: #17171a; --fore: #ececf1; --soft: #a2a2ad; --line: #3a3a42; --mine: #23283a; --mark: #9db8ff; --bad: #ff9c94; }
}
* { box-sizing: border-box; }
html, body { height: 100%; margin: 0; }
body { display: flex; flex-direction: column; max-width: 52rem; margin: 0 auto; padding: 0 1rem; background: var(--back); color: var(--fore); font: 1rem/1.5 system-ui, sans-serif; }
header, form { display: flex; flex-wrap: wrap; gap: .5rem 1rem; align-items: end; padding: .75rem 0; }
header { border-bottom: 1px solid var(--line); }
h1 { margin: 0 auto 0 0; font-size: 1.1rem; align-self: center; }
label { display: flex; flex-direction: column; font-size: .8rem; color: var(--soft); }
details { flex-basis: 100%; }
details > div { display: flex; flex-wrap: wrap; gap: .5rem 1rem; padding-top: .5rem; }
summary { color: var(--soft); font-size: .85rem; cursor: pointer; width: max-content; }
input, select, textarea, button { font: inherit; color: inherit; background: var(--back); border: 1px solid var(--line); border-radius: .4rem; padding: .35rem .6rem; }
input[type=number] { width: 7rem; }
:focus-visible { outline: 2px solid var(--mark); outline-offset: 1px; }
button { cursor: pointer; }
button.main { background: var(--mark); border-color: var(--mark); color: var(--back); }
button:disabled { opacity: .45; cursor: default; }
main { flex: 1; overflow-y: auto; padding: 1rem 0; }
article { margin: 0 0 1rem; padding: .5rem .75rem; border-radius: .5rem; white-space: pre-wrap; overflow-wrap: anywhere; }
article > small { display: block; color: var(--soft); }
article.user { background: var(--mine); }
article.error { color: var(--bad); border: 1px solid currentColor; }
form { border-top: 1px solid var(--line); flex-wrap: nowrap; }
form label { flex: 1; }
textarea { width: 100%; resize: vertical; min-height: 3.2rem; max-height: 40vh; }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
`;

const html = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>esft</title>
<link rel="icon" href="data:,">
<style>${style}</style>
</head>
<body>
<header>
<h1>esft</h1>
<label>Model or adapter <select id="model"></select></label>
<button type="button" id="new">New chat</button>
<details id="settings"><summary>Settings</summary><div>
<label>Temperature <input id="temperature" type="number" min="0" max="2" step="0.1" value="0.7"></label>
<label>Most tokens <input id="tokens" type="number" min="1" step="1" value="512"></label>
<label>Seed <input id="seed" type="number" min="0" step="1" placeholder="random"></label>
<label>Token of the server <input id="token" type="password" autocomplete="off"></label>
</div></details>
</header>
<main id="log" role="log" aria-live="polite" aria-label="Conversation" tabindex="0"></main>
<form id="form">
<label><span class="hidden">Message</span><textarea id="text" rows="2" placeholder="Message: Enter sends, Shift+Enter is a new line, Esc stops" autofocus></textarea></label>
<button class="main" id="send">Send</button>
<button type="button" id="stop" disabled>Stop</button>
</form>
<script>${script}</script>
</body>
</html>
`;

const hash = (text: string): string => `'sha256-${createHash("sha256").update(text).digest("base64")}'`;

export const page = {
  html,
  /** Content-Security-Policy: this script and this style, and this server to talk to. */
  policy: `default-src 'none'; script-src ${hash(script)}; style-src ${hash(style)}; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'`,
} as const;
