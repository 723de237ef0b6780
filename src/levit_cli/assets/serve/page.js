"use strict";
const AT_ONCE = 4, THUMBNAIL = 480, MAX_TRIES = 60;
const $ = (id) => document.getElementById(id);
// A page at /prefix (without a slash at its end) has its routes below /prefix/.
const base = location.pathname.endsWith("/") ? "" : location.pathname.split("/").pop() + "/";
const state = {
  token: sessionStorage.getItem("levit-token"), maxBody: Infinity,
  round: 0,  // grows when the results are cleared, so that late answers are ignored
  waiting: [], running: 0, added: 0, done: 0, failed: 0, records: new Map(),
};

function ask(path, options = {}) {
  const headers = state.token ? { Authorization: `Bearer ${state.token}` } : {};
  return fetch(base + path, { ...options, headers, cache: "no-store", redirect: "error" });
}

function element(name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

async function start() {
  try {
    const response = await ask("info");
    if (response.status === 401) return askForToken(state.token ? "This token is wrong." : "");
    if (response.status === 503) {
      await pause(1);
      return start();
    }
    const info = await response.json();
    if (!response.ok) throw new Error(info.error);
    state.maxBody = info.max_body;
    $("model").textContent = `${info.model}: ${info.architecture}, ${info.classes.toLocaleString("en")} classes`;
    $("limit").textContent = `At most ${(info.max_body / 1048576).toLocaleString("en", { maximumFractionDigits: 1 })} MiB per image. Images stay on this server only while they are classified.`;
    $("login").hidden = true;
    $("work").hidden = false;
  } catch (error) {
    $("model").textContent = `The server does not answer: ${error.message}`;
  }
}

function askForToken(problem) {
  state.token = null;
  sessionStorage.removeItem("levit-token");
  $("model").textContent = "";
  $("work").hidden = true;
  $("login").hidden = false;
  $("login-error").textContent = problem;
  $("token").value = "";
  $("token").focus();
}

function add(files) {
  for (const file of files) {
    const card = element("li", "", "card"), content = element("div");
    content.append(element("h2", file.name || "pasted image"), element("p", "Waiting …", "note"));
    card.append(content);
    $("results").append(card);
    state.added += 1;
    state.waiting.push({ file, card, content, round: state.round });
    thumbnail(file, card);
  }
  show();
  run();
}

let drawing = Promise.resolve();
function thumbnail(file, card) {  // one after the other, so that the pixels of one image only are in memory
  drawing = drawing.then(async () => {
    if (!card.isConnected) return;
    const bitmap = await createImageBitmap(file).catch(() => null);  // a format that the browser does not know
    if (!bitmap) return;
    const scale = Math.min(1, THUMBNAIL / Math.max(bitmap.width, bitmap.height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    canvas.height = Math.max(1, Math.round(bitmap.height * scale));
    canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    bitmap.close();
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", file.name || "pasted image");
    card.prepend(canvas);
  }).catch(() => {});
}

function run() {
  while (state.running < AT_ONCE && state.waiting.length) {
    const job = state.waiting.shift();
    state.running += 1;
    classify(job).then((record) => finish(job, record)).finally(() => {
      state.running -= 1;
      run();
    });
  }
}

async function classify(job) {
  const failure = (kind, message) => ({ status: "error", error: { kind, message } });
  if (job.file.size > state.maxBody) return failure("too_large", `it has ${job.file.size.toLocaleString("en")} bytes, the server takes ${state.maxBody.toLocaleString("en")}`);
  job.content.lastChild.textContent = "Classifying …";
  for (let tries = 0; tries < MAX_TRIES && job.round === state.round; tries++) {
    let response, answer;
    try {
      response = await ask(`predict?top_k=${$("top").value}`, { method: "POST", body: job.file });
      answer = await response.json();
    } catch (error) {
      return failure("connection", `no answer from the server: ${error.message}`);
    }
    if (response.status === 401) {
      askForToken("The token is no longer valid.");
      return failure("unauthorized", "the token is no longer valid");
    }
    if (response.status !== 429 && response.status !== 503)
      return answer.status ? answer : failure(`HTTP ${response.status}`, answer.error);
    job.content.lastChild.textContent = "The server is busy; waiting …";
    await pause(Number(response.headers.get("Retry-After")) || 1);
  }
  return failure("busy", "the server was busy for too long");
}

function finish(job, record) {
  if (job.round !== state.round) return;
  state.done += 1;
  state.records.set(job, { ...record, path: job.file.name || "-" });
  job.content.lastChild.remove();
  if (record.status === "ok") {
    job.content.append(bars(record.top));
    if (record.accepted === false) job.content.append(element("p", "Uncertain: the first probability is below the threshold.", "note"));
  } else {
    state.failed += 1;
    job.content.append(element("p", `${record.error.kind}: ${record.error.message}`, "error"));
  }
  show();
}

function bars(top) {
  const list = element("ul");
  for (const { label, prob } of top) {
    const item = element("li"), bar = element("div", "", "bar"), filled = element("i");
    filled.style.width = `${100 * prob}%`;
    bar.append(filled);
    bar.setAttribute("aria-hidden", "true");
    item.append(element("span", label), element("span", `${(100 * prob).toFixed(1)} %`), bar);
    list.append(item);
  }
  return list;
}

function show() {
  const all = state.added;
  $("progress").hidden = state.done === all;
  $("progress").max = all || 1;
  $("progress").value = state.done;
  const failed = state.failed ? `, ${state.failed} failed` : "";
  $("status").textContent = all ? `${state.done} of ${all} ${all === 1 ? "image" : "images"} done${failed}` : "";
  $("save").disabled = !state.done;
  $("clear").disabled = !all;
}

function clear() {
  Object.assign(state, { waiting: [], added: 0, done: 0, failed: 0, records: new Map(), round: state.round + 1 });
  $("results").replaceChildren();
  show();
  $("choose").focus();
}

function save() {
  const lines = [...state.records.values()].map((record) => JSON.stringify(record) + "\n");
  const link = element("a");
  link.href = URL.createObjectURL(new Blob(lines, { type: "application/jsonl" }));
  link.download = "levit.jsonl";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

$("choose").addEventListener("click", () => $("files").click());
$("files").addEventListener("change", (event) => {
  add(event.target.files);
  event.target.value = "";  // so that the same file can be chosen again
});
$("clear").addEventListener("click", clear);
$("save").addEventListener("click", save);
$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  state.token = $("token").value.trim();
  if (!/^[\x21-\x7e]+$/.test(state.token)) return askForToken("A token has no spaces and no letters beyond ASCII.");
  sessionStorage.setItem("levit-token", state.token);
  start();
});
addEventListener("paste", (event) => {
  if (!$("work").hidden && event.clipboardData.files.length) add(event.clipboardData.files);
});
for (const name of ["dragenter", "dragover"])
  addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.add("over");
  });
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) $("drop").classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();  // else the browser would leave the page and open the file
  $("drop").classList.remove("over");
  if (!$("work").hidden) add(event.dataTransfer.files);
});
start();
