// The page: uses only the public API, inserts model output as text nodes only, loads nothing from other hosts.
import { words } from "./words.js";

const $ = (id) => document.getElementById(id);
const models = new Map();
const messages = []; // the conversation, in the API's format
let language = "en";
let running = null; // the AbortController of the current request
let statusKey = null;

// ── what is stored between visits (optional: a browser may forbid it) ──

function remember(name, value) {
  try { localStorage.setItem(`textus.${name}`, value); } catch { /* private window */ }
}

function recall(name) {
  try { return localStorage.getItem(`textus.${name}`); } catch { return null; }
}

// ── language ──

const translate = (key, values = {}) => words[language][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
const number = (n, digits = 0) => n.toLocaleString(language, { maximumFractionDigits: digits });

function setLanguage(name) {
  language = name;
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = translate(element.dataset.text);
  for (const element of document.querySelectorAll("[data-placeholder]")) element.placeholder = translate(element.dataset.placeholder);
  for (const element of document.querySelectorAll("[data-title]")) element.title = translate(element.dataset.title);
  for (const element of document.querySelectorAll("[data-label]")) element.setAttribute("aria-label", translate(element.dataset.label));
  $("language").textContent = translate("other");
  $("language").setAttribute("aria-label", translate("otherLabel"));
  $("language").lang = language === "zh" ? "en" : "zh-CN";
  if (statusKey) showStatus(statusKey);
  showModel();
}

// ── status and errors ──

function showStatus(key) {
  statusKey = key;
  $("status").textContent = key ? translate(key) : "";
}

function showError(message) {
  $("error").textContent = message;
  $("error").hidden = !message;
  if (!message) return;
  showStatus(null);
  $("error").scrollIntoView({ block: "nearest" }); // on a phone it may be below the screen
}

function showModel() {
  const model = models.get($("model").value);
  if (!model) return;
  const length = model.context_length;
  const context = length ? translate("context", { n: number(length) }) : translate("unlimited");
  $("about").textContent = `${translate(model.chat ? "chat" : "base")} · ${context}`;
}

// Tokens per second from the first chunk on: queueing and prefill do not count.
function tokenCounter(started) {
  let first = null;
  return (usage) => {
    const now = performance.now();
    first ??= { time: now, tokens: usage.completion_tokens };
    const tokens = usage.completion_tokens - first.tokens;
    const speed = tokens > 0 ? tokens / (now - first.time) : usage.completion_tokens / (now - started);
    $("prompt-tokens").textContent = number(usage.prompt_tokens);
    $("completion-tokens").textContent = number(usage.completion_tokens);
    $("speed").textContent = number(speed * 1000, speed < 0.1 ? 1 : 0);
  };
}

// ── the API ──

class ApiError extends Error {}

async function request(path, body, signal) {
  const options = body && { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  const response = await fetch(path, { ...options, signal });
  if (response.ok) return response;
  const answer = await response.json().catch(() => null);
  throw new ApiError(answer?.error?.message ?? `HTTP ${response.status}`);
}

// The values of a stream of server-sent events until [DONE]; a stream that ends without it is an error.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const { value, done } = await reader.read();
    if (done) throw new ApiError(translate("broken"));
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const data = block.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new ApiError(event.error.message);
      yield event;
    }
  }
}

// Send a request and pass on each piece of text; true unless it failed (being stopped is no failure).
async function generate(path, fields, onText) {
  const controller = new AbortController();
  setRunning(controller);
  try {
    const count = tokenCounter(performance.now());
    const body = { ...fields, stream: true, stream_options: { include_usage: true, continuous_usage_stats: true } };
    const response = await request(path, body, controller.signal);
    for await (const event of events(response)) {
      if (event.usage) count(event.usage);
      const choice = event.choices[0];
      const text = choice?.text ?? choice?.delta?.content ?? "";
      if (text) { onText(text); showStatus("writing"); }
      if (choice?.finish_reason) showStatus(choice.finish_reason === "length" ? "length" : "ended");
    }
    return true;
  } catch (error) {
    if (error.name === "AbortError") { showStatus("stopped"); return true; }
    showError(error instanceof ApiError ? error.message : translate("unreachable"));
    return false;
  } finally {
    setRunning(null);
  }
}

function setRunning(controller) {
  running = controller;
  if (controller) {
    showError("");
    showStatus("waiting");
    for (const id of ["prompt-tokens", "completion-tokens", "speed"]) $(id).textContent = "–";
  }
  setBusy(Boolean(controller));
}

function setBusy(now) {
  for (const element of document.querySelectorAll(".go")) element.disabled = now || !models.size;
  for (const element of document.querySelectorAll(".stop")) element.disabled = !now;
  for (const id of ["output", "messages"]) $(id).setAttribute("aria-busy", String(now));
  for (const element of document.querySelectorAll("#model, #modes input")) element.disabled = now;
  $("keep").disabled = now || !$("written").textContent;
  $("new-chat").disabled = now || !messages.length;
}

// ── settings ──

// The settings in the API's format, or null after showing an error.
function readSettings() {
  const most = Number($("max-tokens").value), seed = $("seed").value.trim();
  const name = (id) => document.querySelector(`label[for=${id}]`).textContent;
  if (!Number.isInteger(most) || most < 1 || most > 8192) {
    showError(translate("range", { name: name("max-tokens"), low: 1, high: number(8192) }));
    return null;
  }
  if ($("seed").validity.badInput || !Number.isSafeInteger(Number(seed))) {
    showError(translate("seedRange", { name: name("seed") }));
    return null;
  }
  const used = seed === "" ? crypto.getRandomValues(new Uint32Array(1))[0] : Number(seed);
  $("used-seed").textContent = String(used);
  return { temperature: Number($("temperature").value), max_tokens: most, seed: used };
}

function showTemperature() {
  $("temperature-shown").textContent = Number($("temperature").value).toFixed(2);
}

// ── continuing a text ──

function follow(box, change) {
  const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
  change();
  if (atEnd) box.scrollTop = box.scrollHeight;
}

async function write() {
  const options = readSettings();
  if (running || !models.size || !options) return;
  const prompt = $("prompt").value;
  $("given").textContent = prompt;
  $("written").textContent = "";
  $("output").scrollTop = $("output").scrollHeight;
  const text = $("written").appendChild(document.createTextNode(""));
  await generate("/v1/completions", { model: $("model").value, prompt, ...options }, (piece) => {
    follow($("output"), () => text.appendData(piece));
  });
}

function keep() {
  $("prompt").value = $("given").textContent + $("written").textContent;
  $("given").textContent = $("written").textContent = "";
  $("keep").disabled = true;
  remember("prompt", $("prompt").value);
  $("prompt").focus();
  $("prompt").scrollTop = $("prompt").scrollHeight;
}

// ── chat ──

// Add a message to the page; returns its text node.
function bubble(role, content) {
  const item = document.createElement("li");
  item.className = role;
  const who = document.createElement("b");
  who.dataset.text = role === "user" ? "you" : "assistant";
  who.textContent = translate(who.dataset.text);
  const body = document.createElement("div");
  const text = body.appendChild(document.createTextNode(content));
  item.append(who, body);
  $("messages").append(item);
  $("messages").scrollTop = $("messages").scrollHeight;
  return text;
}

async function send() {
  const options = readSettings(), content = $("message").value;
  if (running || !models.size || !options) return;
  if (!content.trim()) return showError(translate("empty"));
  messages.push({ role: "user", content });
  bubble("user", content);
  draft("");
  const text = bubble("assistant", "");
  const good = await generate("/v1/chat/completions", { model: $("model").value, messages, ...options }, (piece) => {
    follow($("messages"), () => text.appendData(piece));
  });
  if (text.data) messages.push({ role: "assistant", content: text.data });
  else text.parentNode.parentNode.remove();
  if (!good && !text.data) unsend(content);
  setBusy(false);
}

// No response: put the message back into the box, before what was typed meanwhile.
function unsend(content) {
  messages.pop();
  $("messages").lastElementChild.remove();
  draft($("message").value ? `${content}\n${$("message").value}` : content);
}

function draft(text) {
  $("message").value = text;
  remember("message", text);
}

function newChat() {
  messages.length = 0;
  $("messages").replaceChildren();
  showError("");
  showStatus(null);
  setBusy(false);
  $("message").focus();
}

// ── which model, which mode ──

function choose() {
  const model = models.get($("model").value);
  const mode = model.chat ? recall("mode") ?? "chat" : "write";
  $("modes").hidden = !model.chat;
  for (const element of document.querySelectorAll("#modes input")) element.checked = element.value === mode;
  $("write").hidden = mode !== "write";
  $("talk").hidden = mode !== "chat";
  showModel();
}

async function load() {
  showStatus("loading");
  try {
    const { data } = await (await request("/v1/models")).json();
    for (const model of data) {
      models.set(model.id, model);
      $("model").append(new Option(model.id, model.id));
    }
    const last = recall("model");
    if (models.has(last)) $("model").value = last;
    choose();
    showStatus(null);
  } catch (error) {
    showError(error instanceof ApiError ? error.message : translate("unreachable"));
  }
  setBusy(false);
}

function listen() {
  $("write").addEventListener("submit", (event) => { event.preventDefault(); write(); });
  $("talk").addEventListener("submit", (event) => { event.preventDefault(); send(); });
  for (const element of document.querySelectorAll(".stop")) element.addEventListener("click", () => running?.abort());
  $("keep").addEventListener("click", keep);
  $("new-chat").addEventListener("click", newChat);
  $("model").addEventListener("change", () => { remember("model", $("model").value); choose(); });
  $("modes").addEventListener("change", (event) => { remember("mode", event.target.value); choose(); });
  $("language").addEventListener("click", () => {
    setLanguage(language === "en" ? "zh" : "en");
    remember("language", language);
  });
  $("temperature").addEventListener("input", showTemperature);
  for (const id of ["prompt", "message", "temperature", "max-tokens", "seed"]) {
    $(id).addEventListener("input", () => remember(id, $(id).value));
  }
  document.addEventListener("keydown", key);
}

// Enter while an input method (Chinese) is composing only selects a candidate.
function key(event) {
  if (event.key === "Escape") running?.abort();
  if (event.key !== "Enter" || event.isComposing) return;
  const sends = event.target === $("message") && !event.shiftKey;
  if (!sends && !(event.target === $("prompt") && (event.ctrlKey || event.metaKey))) return;
  event.preventDefault();
  event.target.form.requestSubmit();
}

function start() {
  for (const id of ["prompt", "message", "temperature", "max-tokens", "seed"]) {
    const value = recall(id);
    if (value !== null) $(id).value = value;
  }
  if (matchMedia("(max-width: 820px)").matches) $("settings").open = false;
  setLanguage(recall("language") ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en"));
  showTemperature();
  listen();
  setBusy(false);
  load();
}

start();
