// The page: only the public API, only text nodes for what a model writes, nothing from any other host.
import { words } from "./words.js";

const $ = (id) => document.getElementById(id);
const models = new Map();
const messages = []; // the conversation, in the API's form
let language = "en";
let running = null; // the AbortController of the answer being written
let statusKey = null;

// ── what is kept between visits (a browser may forbid it, and the page works without) ──

function remember(name, value) {
  try { localStorage.setItem(`textus.${name}`, value); } catch { /* private window */ }
}

function recall(name) {
  try { return localStorage.getItem(`textus.${name}`); } catch { return null; }
}

// ── language ──

const say = (key, values = {}) => words[language][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
const number = (n, digits = 0) => n.toLocaleString(language, { maximumFractionDigits: digits });

function speak(chosen) {
  language = chosen;
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const each of document.querySelectorAll("[data-text]")) each.textContent = say(each.dataset.text);
  for (const each of document.querySelectorAll("[data-placeholder]")) each.placeholder = say(each.dataset.placeholder);
  for (const each of document.querySelectorAll("[data-title]")) each.title = say(each.dataset.title);
  for (const each of document.querySelectorAll("[data-label]")) each.setAttribute("aria-label", say(each.dataset.label));
  $("language").textContent = say("other");
  $("language").setAttribute("aria-label", say("otherLabel"));
  $("language").lang = language === "zh" ? "en" : "zh-CN";
  if (statusKey) status(statusKey);
  describe();
}

// ── what the page tells ──

function status(key) {
  statusKey = key;
  $("status").textContent = key ? say(key) : "";
}

function fail(message) {
  $("error").textContent = message;
  $("error").hidden = !message;
  if (!message) return;
  status(null);
  $("error").scrollIntoView({ block: "nearest" }); // on a phone it may be below the screen
}

function describe() {
  const model = models.get($("model").value);
  if (!model) return;
  const length = model.context_length;
  const context = length ? say("context", { n: number(length) }) : say("unlimited");
  $("about").textContent = `${say(model.chat ? "chat" : "base")} · ${context}`;
}

// Tokens a second from the first piece on: what came before it was waiting and reading the prompt.
function counter(started) {
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

class Refused extends Error {}

async function request(path, body, signal) {
  const options = body && { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  const response = await fetch(path, { ...options, signal });
  if (response.ok) return response;
  const answer = await response.json().catch(() => null);
  throw new Refused(answer?.error?.message ?? `HTTP ${response.status}`);
}

// The values of a stream of server-sent events, up to [DONE]; a stream that ends without it is an error.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const { value, done } = await reader.read();
    if (done) throw new Refused(say("broken"));
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const data = block.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Refused(event.error.message);
      yield event;
    }
  }
}

// Ask, and hand over each piece of text; true unless something failed (being stopped is no failure).
async function generate(path, asked, onText) {
  const controller = new AbortController();
  begin(controller);
  try {
    const count = counter(performance.now());
    const body = { ...asked, stream: true, stream_options: { include_usage: true, continuous_usage_stats: true } };
    const response = await request(path, body, controller.signal);
    for await (const event of events(response)) {
      if (event.usage) count(event.usage);
      const choice = event.choices[0];
      const text = choice?.text ?? choice?.delta?.content ?? "";
      if (text) { onText(text); status("writing"); }
      if (choice?.finish_reason) status(choice.finish_reason === "length" ? "length" : "ended");
    }
    return true;
  } catch (error) {
    if (error.name === "AbortError") { status("stopped"); return true; }
    fail(error instanceof Refused ? error.message : say("unreachable"));
    return false;
  } finally {
    end();
  }
}

function begin(controller) {
  running = controller;
  fail("");
  status("waiting");
  for (const id of ["prompt-tokens", "completion-tokens", "speed"]) $(id).textContent = "–";
  busy(true);
}

function end() {
  running = null;
  busy(false);
}

function busy(now) {
  for (const each of document.querySelectorAll(".go")) each.disabled = now || !models.size;
  for (const each of document.querySelectorAll(".stop")) each.disabled = !now;
  for (const id of ["output", "messages"]) $(id).setAttribute("aria-busy", String(now));
  for (const each of document.querySelectorAll("#model, #modes input")) each.disabled = now;
  $("keep").disabled = now || !$("written").textContent;
  $("anew").disabled = now || !messages.length;
}

// ── settings ──

// The settings in the API's form, or null (and a line that says why).
function settings() {
  const most = Number($("max-tokens").value), seed = $("seed").value.trim();
  const name = (id) => document.querySelector(`label[for=${id}]`).textContent;
  if (!Number.isInteger(most) || most < 1 || most > 8192) {
    fail(say("range", { name: name("max-tokens"), low: 1, high: number(8192) }));
    return null;
  }
  if ($("seed").validity.badInput || !Number.isSafeInteger(Number(seed))) {
    fail(say("seedRange", { name: name("seed") }));
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
  const asked = settings();
  if (running || !models.size || !asked) return;
  const prompt = $("prompt").value;
  $("given").textContent = prompt;
  $("written").textContent = "";
  $("output").scrollTop = $("output").scrollHeight;
  const text = $("written").appendChild(document.createTextNode(""));
  await generate("/v1/completions", { model: $("model").value, prompt, ...asked }, (piece) => {
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

// A message on the page; returns the text node its words go into.
function bubble(role, content) {
  const item = document.createElement("li");
  item.className = role;
  const who = document.createElement("b");
  who.dataset.text = role === "user" ? "you" : "it";
  who.textContent = say(who.dataset.text);
  const body = document.createElement("div");
  const text = body.appendChild(document.createTextNode(content));
  item.append(who, body);
  $("messages").append(item);
  $("messages").scrollTop = $("messages").scrollHeight;
  return text;
}

async function send() {
  const asked = settings(), content = $("message").value;
  if (running || !models.size || !asked) return;
  if (!content.trim()) return fail(say("empty"));
  messages.push({ role: "user", content });
  bubble("user", content);
  draft("");
  const text = bubble("assistant", "");
  const good = await generate("/v1/chat/completions", { model: $("model").value, messages, ...asked }, (piece) => {
    follow($("messages"), () => text.appendData(piece));
  });
  if (text.data) messages.push({ role: "assistant", content: text.data });
  else text.parentNode.parentNode.remove();
  if (!good && !text.data) unsend(content);
  busy(false);
}

// Nothing came back: the question returns to the box, before whatever was typed meanwhile.
function unsend(content) {
  messages.pop();
  $("messages").lastElementChild.remove();
  draft($("message").value ? `${content}\n${$("message").value}` : content);
}

function draft(text) {
  $("message").value = text;
  remember("message", text);
}

function anew() {
  messages.length = 0;
  $("messages").replaceChildren();
  fail("");
  status(null);
  busy(false);
  $("message").focus();
}

// ── which model, which mode ──

function choose() {
  const model = models.get($("model").value);
  const mode = model.chat ? recall("mode") ?? "chat" : "write";
  $("modes").hidden = !model.chat;
  for (const each of document.querySelectorAll("#modes input")) each.checked = each.value === mode;
  $("write").hidden = mode !== "write";
  $("talk").hidden = mode !== "chat";
  describe();
}

async function load() {
  status("loading");
  try {
    const { data } = await (await request("/v1/models")).json();
    for (const each of data) {
      models.set(each.id, each);
      $("model").append(new Option(each.id, each.id));
    }
    const last = recall("model");
    if (models.has(last)) $("model").value = last;
    choose();
    status(null);
  } catch (error) {
    fail(error instanceof Refused ? error.message : say("unreachable"));
  }
  busy(false);
}

function listen() {
  $("write").addEventListener("submit", (event) => { event.preventDefault(); write(); });
  $("talk").addEventListener("submit", (event) => { event.preventDefault(); send(); });
  for (const each of document.querySelectorAll(".stop")) each.addEventListener("click", () => running?.abort());
  $("keep").addEventListener("click", keep);
  $("anew").addEventListener("click", anew);
  $("model").addEventListener("change", () => { remember("model", $("model").value); choose(); });
  $("modes").addEventListener("change", (event) => { remember("mode", event.target.value); choose(); });
  $("language").addEventListener("click", () => {
    speak(language === "en" ? "zh" : "en");
    remember("language", language);
  });
  $("temperature").addEventListener("input", showTemperature);
  for (const id of ["prompt", "message", "temperature", "max-tokens", "seed"]) {
    $(id).addEventListener("input", () => remember(id, $(id).value));
  }
  document.addEventListener("keydown", key);
}

// Enter while an input method is composing (Chinese) only chooses a word.
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
    const kept = recall(id);
    if (kept !== null) $(id).value = kept;
  }
  if (matchMedia("(max-width: 820px)").matches) $("settings").open = false;
  speak(recall("language") ?? (navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en"));
  showTemperature();
  listen();
  busy(false);
  load();
}

start();
