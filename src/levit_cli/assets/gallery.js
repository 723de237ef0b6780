// The page of levit gallery: filter, sort and group the images, and show one of them enlarged.
// All text is set with textContent, so that no name or label becomes markup.
"use strict";
(() => {
const BINS = 20;
const MANY_CHOICES = 12; // from this number on, labels can be searched
const ROWS = 10; // of tiles in a chunk, which is filled when it comes near the window
const NEAR = "900px";
const WEBP = "UklG"; // how a WebP begins in Base64

const byId = id => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const thumbnails = byId("thumbnails").textContent.split("\n");
const number = new Intl.NumberFormat("en");
const count = (value, noun) => `${number.format(value)} ${noun}${value === 1 ? "" : "s"}`;
const percent = prob => `${(100 * prob).toFixed(1)}\u00a0%`;
const sortKey = text => text.toLowerCase().replace(/\d+/g, digits => digits.padStart(12, "0")); // 2.jpg before 10.jpg
const compare = (a, b) => (a < b ? -1 : Number(a > b));
const copyOf = id => byId(id).content.firstElementChild.cloneNode(true);

const images = data.images.map((image, order) => ({
  ...image, order, thumbnail: thumbnails[order], label: image.top[0][0], prob: image.top[0][1],
  text: image.path.toLowerCase(),
}));
const errors = data.errors.map(error => ({...error, text: `${error.path}\n${error.message}`.toLowerCase(), row: null}));
const labelOf = index => data.labels[index].name;
const statuses = {
  accepted: image => image.accepted === true, uncertain: image => image.accepted === false,
  problem: image => image.problem !== undefined, changed: image => image.changed === true,
};

// ---- what is chosen

const initial = {text: "", low: 0, high: 100, status: "", label: null, kind: null};
const state = {...initial, tab: "images", sort: "highest", grouped: true};
let shown = []; // the images that match, in the order of the page
let current = 0; // the position in `shown` of the image that has the focus or is enlarged

const inRange = prob => prob >= state.low / 100 - 1e-9 && prob <= state.high / 100 + 1e-9;
const hasStatus = image => !state.status || statuses[state.status](image);
const hasText = item => !state.text || item.text.includes(state.text);
const hasLabel = image => state.label === null || image.label === state.label;
const hasKind = error => state.kind === null || error.kind === state.kind;

const orders = {
  highest: (a, b) => b.prob - a.prob || a.order - b.order,
  lowest: (a, b) => a.prob - b.prob || a.order - b.order,
  name: (a, b) => compare(a.key ??= sortKey(a.name), b.key ??= sortKey(b.name)) || a.order - b.order,
  order: (a, b) => a.order - b.order,
};
const sorted = {}; // by the name of the order
const inOrder = name => sorted[name] ??= [...images].sort(orders[name]);

// ---- tiles: those near the window exist, all others are the space that their chunk keeps

const gallery = byId("images");
let chunks = []; // {element, start, size}: the places in `shown` that a chunk has
let columns = 1;

const observer = new IntersectionObserver(entries => {
  for (const {target, isIntersecting} of entries) {
    const chunk = chunks[target.dataset.chunk];
    if (chunk?.element !== target) continue; // it was replaced meanwhile
    if (isIntersecting) fill(chunk); else if (!holds(chunk, current)) target.replaceChildren();
  }
}, {rootMargin: NEAR});

const holds = (chunk, position) => position >= chunk.start && position < chunk.start + chunk.size;

function fill(chunk) {
  if (chunk.element.firstChild) return;
  chunk.element.append(...shown.slice(chunk.start, chunk.start + chunk.size).map((image, place) => tileOf(image, chunk.start + place)));
}

// The observer comes one frame later, in which the page would be empty.
function fillVisible() {
  const isVisible = ({top, bottom}) => bottom > 0 && top < window.innerHeight;
  chunks.filter(({element}) => isVisible(element.getBoundingClientRect())).forEach(fill);
}

function buttonAt(position) {
  const chunk = chunks.find(each => holds(each, position));
  if (!chunk) return null;
  fill(chunk);
  return chunk.element.children[position - chunk.start].firstElementChild;
}

function chunksOf(start, size) {
  const elements = [];
  for (let done = 0; done < size; done += ROWS * columns) {
    const chunk = {element: document.createElement("ul"), start: start + done, size: Math.min(size - done, ROWS * columns)};
    chunk.element.className = "grid";
    chunk.element.setAttribute("role", "list");
    chunk.element.style.setProperty("--rows", Math.ceil(chunk.size / columns));
    chunk.element.dataset.chunk = chunks.length;
    chunks.push(chunk);
    elements.push(chunk.element);
    observer.observe(chunk.element);
  }
  return elements;
}

const columnsNow = () => getComputedStyle(byId("probe")).gridTemplateColumns.split(" ").length;

new ResizeObserver(() => {
  if (gallery.hidden || columnsNow() === columns) return;
  const first = chunks.find(({element}) => element.getBoundingClientRect().bottom > 0);
  update();
  if (first?.start) buttonAt(first.start).scrollIntoView();
}).observe(gallery);
window.addEventListener("beforeprint", () => chunks.forEach(fill));

function showThumbnail(element, image) {
  element.hidden = !image.thumbnail;
  if (image.thumbnail) {
    element.src = `data:image/${image.thumbnail.startsWith(WEBP) ? "webp" : "jpeg"};base64,${image.thumbnail}`;
  } else {
    element.removeAttribute("src");
  }
}

function remarks(image) {
  const found = [];
  if (image.accepted === false) found.push("uncertain");
  if (image.changed) found.push("changed since");
  return found;
}

function tileOf(image, position) {
  const tile = copyOf("tile-template"), button = tile.firstElementChild;
  tile.dataset.position = position;
  tile.setAttribute("aria-setsize", shown.length);
  tile.setAttribute("aria-posinset", position + 1);
  tile.classList.toggle("uncertain", image.accepted === false);
  button.tabIndex = position === current ? 0 : -1;
  button.title = image.path;
  tile.querySelector(".label bdi").textContent = labelOf(image.label);
  tile.querySelector(".value").textContent = [percent(image.prob), ...remarks(image)].join(" · ");
  tile.querySelector(".meter i").style.setProperty("--share", image.prob);
  tile.querySelector(".file").textContent = image.name;
  tile.querySelector(".problem").textContent = image.problem ?? "";
  showThumbnail(tile.querySelector("img"), image);
  return tile;
}

// ---- the lists of labels and error kinds

function choicesOf(entries, choose) {
  return entries.map(([value, name]) => {
    const row = copyOf("choice-template"), button = row.firstElementChild;
    button.querySelector("bdi").textContent = name;
    button.title = name;
    button.addEventListener("click", () => choose(value));
    return {value, row, button, text: name.toLowerCase()};
  });
}

const numberOf = (items, key) => items.reduce((counts, item) => counts.set(item[key], (counts.get(item[key]) ?? 0) + 1), new Map());
const mostFirst = (items, key, nameOf) => [...numberOf(items, key)]
  .sort((a, b) => b[1] - a[1] || compare(sortKey(nameOf(a[0])), sortKey(nameOf(b[0])))).map(([value]) => [value, nameOf(value)]);

const labelChoices = choicesOf(mostFirst(images, "label", labelOf), value => {
  state.label = state.label === value ? null : value;
  updateFromTop();
});
const kindChoices = choicesOf(mostFirst(errors, "kind", kind => kind), value => {
  state.kind = state.kind === value ? null : value;
  updateFromTop();
});
const rankOf = new Map(labelChoices.map(({value}, rank) => [value, rank]));

function updateChoices(choices, chosen, counts) {
  const most = Math.max(1, ...counts.values());
  for (const {value, row, button} of choices) {
    const found = counts.get(value) ?? 0;
    row.classList.toggle("none", !found);
    button.setAttribute("aria-pressed", value === chosen);
    button.querySelector(".count").textContent = number.format(found);
    button.querySelector("i").style.setProperty("--share", found / most);
  }
  byId("all-choices").hidden = chosen === null;
}

function listChoices() {
  const isImages = state.tab === "images", choices = isImages ? labelChoices : kindChoices;
  const find = byId("find-choice"), text = find.value.trim().toLowerCase();
  byId("choices-name").textContent = isImages ? "Labels" : "Error kinds";
  find.hidden = !isImages || choices.length < MANY_CHOICES;
  byId("choices").replaceChildren(...choices.filter(choice => find.hidden || choice.text.includes(text)).map(choice => choice.row));
}

// ---- update the page

function update() {
  const start = performance.now();
  const isImages = state.tab === "images";
  if (isImages) updateImages(); else updateErrors();
  byId("reset").hidden = Object.keys(initial).every(key => state[key] === initial[key]);
  document.documentElement.dataset.updateMs = (performance.now() - start).toFixed(1);
}

// After the user changed a filter, the first image that matches is in the window.
function updateFromTop() {
  update();
  const {top} = document.querySelector("main").getBoundingClientRect();
  if (top < 0) {
    window.scrollBy(0, top);
    fillVisible();
  }
}

function updateImages() {
  const others = inOrder(state.sort).filter(image => hasText(image) && hasStatus(image));
  const ofLabel = others.filter(hasLabel), inside = others.filter(image => inRange(image.prob));
  const matching = ofLabel.filter(image => inRange(image.prob));
  updateHistogram(ofLabel);
  updateChoices(labelChoices, state.label, numberOf(inside, "label"));
  showGroups(state.grouped ? grouped(matching) : [[null, matching]]);
  report(shown.length, images.length, "image");
}

function showGroups(groups) {
  observer.disconnect();
  [chunks, current, columns] = [[], 0, columnsNow()];
  shown = groups.flatMap(([, members]) => members);
  let start = 0;
  gallery.replaceChildren(...groups.filter(([, members]) => members.length).map(([label, members]) => {
    const group = groupOf(label, members.length, start);
    start += members.length;
    return group;
  }));
  fillVisible();
}

function grouped(matching) {
  const groups = new Map();
  for (const image of matching) {
    if (!groups.has(image.label)) groups.set(image.label, []);
    groups.get(image.label).push(image);
  }
  return [...groups].sort((a, b) => rankOf.get(a[0]) - rankOf.get(b[0]));
}

function groupOf(label, size, start) {
  const group = copyOf("group-template"), heading = group.querySelector("h2");
  if (label === null) {
    heading.remove();
    group.setAttribute("aria-label", "All images");
  } else {
    heading.querySelector("bdi").textContent = labelOf(label);
    heading.querySelector(".count").textContent = count(size, "image");
    group.setAttribute("aria-label", labelOf(label));
  }
  group.dataset.start = start;
  group.dataset.size = size;
  group.append(...chunksOf(start, size));
  return group;
}

function updateErrors() {
  const others = errors.filter(hasText), matching = others.filter(hasKind);
  updateChoices(kindChoices, state.kind, numberOf(others, "kind"));
  byId("error-list").replaceChildren(...matching.map(rowOf));
  report(matching.length, errors.length, "error");
}

function rowOf(error) {
  if (error.row) return error.row;
  const row = error.row = copyOf("error-template");
  row.querySelector(".kind").textContent = error.kind;
  row.querySelector(".message").textContent = error.message;
  const path = row.querySelector(".path");
  if (isLocal(error.link)) {
    const link = document.createElement("a");
    setLink(link, error.link);
    link.textContent = error.path;
    path.append(link);
  } else {
    path.textContent = error.path;
  }
  return row;
}

// The program writes such links only; a page that was edited by hand must not lead elsewhere either.
const isLocal = link => /^(\.\.?\/|file:\/\/\/)/.test(link ?? "");

function setLink(element, link) {
  element.hidden = !isLocal(link);
  if (isLocal(link)) {
    Object.assign(element, {href: link, target: "_blank", rel: "noopener noreferrer"});
  } else {
    element.removeAttribute("href");
  }
}

function report(found, all, noun) {
  byId("found").textContent = found === all ? count(all, noun) : `${number.format(found)} of ${count(all, noun)}`;
  byId("nothing").hidden = found > 0;
  byId("nothing").textContent = all ? `No ${noun} matches these filters.` : noun === "error" ? "There are no errors." : "There are no images.";
}

const bins = Array.from({length: BINS}, () => byId("histogram").appendChild(document.createElement("i")));

function updateHistogram(found) {
  const counts = new Array(BINS).fill(0);
  for (const {prob} of found) counts[Math.min(BINS - 1, Math.floor(prob * BINS + 1e-9))] += 1;
  const most = Math.max(1, ...counts);
  bins.forEach((bin, place) => {
    bin.style.setProperty("--share", counts[place] / most);
    bin.classList.toggle("out", (place + 1) * 100 / BINS <= state.low || place * 100 / BINS >= state.high);
    bin.classList.toggle("some", counts[place] > 0);
  });
  byId("range").textContent = `${state.low} to ${state.high}\u00a0%`;
}

// ---- the focus: one image is in the tab order, and the arrow keys choose another one

function focusable(position) {
  buttonAt(current)?.setAttribute("tabindex", "-1");
  current = Math.max(0, Math.min(position, shown.length - 1));
  buttonAt(current)?.setAttribute("tabindex", "0");
}

function focusOn(position) {
  focusable(position);
  buttonAt(current)?.focus();
}

// Return the position below an image, or above it, in the same column. Groups begin in a new row.
function below(position, direction) {
  const groups = [...gallery.children].map(({dataset}) => ({start: Number(dataset.start), size: Number(dataset.size)}));
  const index = groups.findIndex(group => holds(group, position)), {start, size} = groups[index];
  const lastRow = Math.floor((size - 1) / columns), row = Math.floor((position - start) / columns) + direction;
  const column = (position - start) % columns;
  if (row >= 0 && row <= lastRow) return start + Math.min(row * columns + column, size - 1);
  const other = groups[index + direction];
  if (!other) return position;
  const otherRow = direction > 0 ? 0 : Math.floor((other.size - 1) / columns);
  return other.start + Math.min(otherRow * columns + column, other.size - 1);
}

const moves = {
  ArrowLeft: position => position - 1, ArrowRight: position => position + 1, Home: () => 0, End: () => shown.length - 1,
  ArrowUp: position => below(position, -1), ArrowDown: position => below(position, 1),
};

const positionOf = target => Number(target.closest(".tile")?.dataset.position ?? -1);
const hasModifier = event => event.ctrlKey || event.metaKey || event.altKey || event.shiftKey;

gallery.addEventListener("keydown", event => {
  const position = positionOf(event.target);
  if (position < 0 || !(event.key in moves) || hasModifier(event)) return;
  event.preventDefault();
  focusOn(moves[event.key](position));
});
gallery.addEventListener("click", event => {
  const position = positionOf(event.target);
  if (position >= 0) open(position);
});
gallery.addEventListener("focusin", event => {
  const position = positionOf(event.target);
  if (position >= 0 && !isEnlarged) focusable(position);
});

// ---- one image enlarged

const view = byId("view");
let isEnlarged = false; // until the close event, before which the browser moves the focus back

function open(position) {
  isEnlarged = true;
  focusable(position);
  const image = shown[current];
  showThumbnail(byId("view-image"), image);
  byId("view-image").alt = image.thumbnail ? image.name : "";
  byId("view-problem").textContent = image.thumbnail ? "" : image.problem;
  byId("view-label").textContent = labelOf(image.label);
  byId("view-path").textContent = image.path;
  byId("view-notes").textContent = viewNotes(image);
  byId("view-top").replaceChildren(...image.top.map(classRow));
  setLink(byId("view-link"), image.link);
  byId("position").textContent = `${number.format(current + 1)} of ${number.format(shown.length)}`;
  byId("previous").disabled = current === 0;
  byId("next").disabled = current === shown.length - 1;
  if (!view.open) view.showModal();
}

function viewNotes(image) {
  const notes = [];
  if (image.accepted !== undefined) notes.push(image.accepted ? "Accepted." : "Uncertain: below the threshold.");
  if (image.changed) notes.push("The file was changed after the results were written.");
  return notes.join(" ");
}

function classRow([label, prob]) {
  const row = copyOf("class-template"), {name, wnid} = data.labels[label];
  row.querySelector("bdi").textContent = name;
  row.querySelector(".value").textContent = percent(prob);
  row.querySelector(".meter i").style.setProperty("--share", prob);
  if (wnid) row.title = wnid;
  return row;
}

function step(by) {
  if (current + by >= 0 && current + by < shown.length) open(current + by);
}

view.addEventListener("keydown", event => {
  const by = {ArrowLeft: -1, ArrowRight: 1}[event.key];
  if (!by || hasModifier(event)) return;
  event.preventDefault();
  step(by);
});
view.addEventListener("click", event => {
  if (event.target === view) view.close(); // outside of its content
});
view.addEventListener("close", () => {
  isEnlarged = false;
  focusOn(current);
});
byId("close").addEventListener("click", () => view.close());
byId("previous").addEventListener("click", () => step(-1));
byId("next").addEventListener("click", () => step(1));

// ---- the controls

function onInput(id, change) {
  byId(id).addEventListener("input", event => {
    change(event.target.value, event.target);
    updateFromTop();
  });
}

onInput("search", value => { state.text = value.trim().toLowerCase(); });
onInput("low", (value, control) => { state.low = Math.min(Number(value), state.high); control.value = state.low; });
onInput("high", (value, control) => { state.high = Math.max(Number(value), state.low); control.value = state.high; });
onInput("status", value => { state.status = value; });
onInput("sort", value => { state.sort = value; });
onInput("grouped", (_, control) => {
  state.grouped = control.checked;
  gallery.classList.toggle("flat", !state.grouped);
});
byId("find-choice").addEventListener("input", listChoices);
byId("all-choices").addEventListener("click", () => {
  Object.assign(state, {label: null, kind: null});
  updateFromTop();
});
byId("reset").addEventListener("click", () => {
  Object.assign(state, initial);
  for (const id of ["low", "high", "status"]) byId(id).value = state[id];
  byId("search").value = "";
  updateFromTop();
  byId("search").focus();
});

const tabs = [byId("images-tab"), byId("errors-tab")];

function choose(tab) {
  state.tab = tab.getAttribute("aria-controls");
  for (const each of tabs) {
    const isChosen = each === tab;
    each.setAttribute("aria-selected", isChosen);
    each.tabIndex = isChosen ? 0 : -1;
    byId(each.getAttribute("aria-controls")).hidden = !isChosen;
  }
  byId("image-filters").hidden = state.tab !== "images";
  listChoices();
  update();
}

for (const [place, tab] of tabs.entries()) {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", event => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    tabs[1 - place].focus();
    choose(tabs[1 - place]);
  });
}
byId("toggle-filters").addEventListener("click", event => {
  const isOpen = document.body.classList.toggle("with-filters");
  event.currentTarget.setAttribute("aria-expanded", isOpen);
});
document.addEventListener("keydown", event => {
  if (event.key !== "/" || hasModifier(event) || view.open || event.target.matches("input, select")) return;
  event.preventDefault();
  if (!byId("search").offsetParent) byId("toggle-filters").click();
  byId("search").focus();
});

for (const option of [...byId("status").options]) {
  if (option.value && !images.some(statuses[option.value])) option.remove();
}
byId("status-field").hidden = byId("status").options.length === 1;
for (const id of ["search", "find-choice"]) byId(id).value = ""; // browsers restore values of a page that is loaded again
for (const id of ["low", "high", "status", "sort"]) byId(id).value = state[id];
byId("grouped").checked = state.grouped;
choose(images.length || !errors.length ? tabs[0] : tabs[1]);
document.documentElement.dataset.readyMs = performance.now().toFixed(0);
})();
