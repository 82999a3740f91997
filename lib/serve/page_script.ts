// What the built-in page does: it keeps the conversation, sends it, and shows the answer while it comes. Texts are only ever set as text.

export const script = String.raw`
"use strict";
const at = (id) => document.getElementById(id);
const [log, form, text, model, send, stop] = ["log", "form", "text", "model", "send", "stop"].map(at);
let messages = [];
let running = null;

const headers = () => {
  const token = at("token").value.trim();
  return { "Content-Type": "application/json", ...(token ? { Authorization: "Bearer " + token } : {}) };
};

function show(kind, who, words) {
  const article = document.createElement("article");
  article.className = kind;
  const name = document.createElement("small");
  name.textContent = who;
  const body = document.createElement("span");
  body.textContent = words;
  article.append(name, body);
  log.append(article);
  log.scrollTop = log.scrollHeight;
  return body;
}

function fail(error) {
  show("error", "error", error.message).parentElement.setAttribute("role", "alert");
}

async function checked(response) {
  if (response.ok) return response;
  const told = await response.json().catch(() => null);
  if (response.status === 401) at("settings").open = true;
  throw new Error(told?.error?.message ?? "the server answered " + response.status);
}

async function listModels() {
  try {
    const { data } = await (await checked(await fetch("v1/models", { headers: headers() }))).json();
    const chosen = model.value;
    model.replaceChildren(...data.map(({ id, parent }) => new Option(parent ? id : id + " (base)", id)));
    if (data.some(({ id }) => id === chosen)) model.value = chosen;
  } catch (error) {
    fail(error);
  }
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      if (!part.startsWith("data: ")) continue;
      const data = part.slice(6);
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

async function answer(conversation, signal) {
  const number = (id) => (at(id).value === "" ? undefined : Number(at(id).value));
  const body = { model: model.value, messages: conversation, stream: true, temperature: number("temperature"), max_tokens: number("tokens"), seed: number("seed") };
  const response = await checked(await fetch("v1/chat/completions", { method: "POST", headers: headers(), body: JSON.stringify(body), signal }));
  const shown = show("assistant", model.value, "");
  const message = { role: "assistant", content: "" };
  try {
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      const near = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
      shown.textContent = message.content += event.choices[0]?.delta.content ?? "";
      if (event.choices[0]?.finish_reason === "length") shown.previousSibling.textContent += " (cut at the most tokens)";
      if (near) log.scrollTop = log.scrollHeight;
    }
  } finally {
    if (signal.aborted) shown.previousSibling.textContent += " (stopped)";
    conversation.push(message);
  }
}

async function submit() {
  const words = text.value;
  if (running || words.trim() === "") return;
  running = new AbortController();
  const conversation = messages; // "New chat" begins another
  const before = conversation.length;
  conversation.push({ role: "user", content: words });
  const asked = show("user", "you", words).parentElement;
  text.value = "";
  send.disabled = !(stop.disabled = false);
  try {
    await answer(conversation, running.signal);
  } catch (error) {
    if (!running.signal.aborted) {
      fail(error);
      // what was refused is no part of the conversation, and can be changed
      if (conversation.length === before + 1) {
        conversation.length = before;
        asked.remove();
        text.value = words;
      }
    }
  } finally {
    running = null;
    send.disabled = !(stop.disabled = true);
    text.focus();
  }
}

const halt = () => running?.abort();
form.addEventListener("submit", (event) => {
  event.preventDefault();
  void submit();
});
text.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  void submit();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") halt();
});
stop.addEventListener("click", halt);
at("new").addEventListener("click", () => {
  halt();
  messages = [];
  log.replaceChildren();
  text.focus();
});
at("token").addEventListener("change", listModels);
void listModels();
`;
