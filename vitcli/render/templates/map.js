"use strict";
const $ = (id) => document.getElementById(id);
const make = (tag, props = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), props);
  element.append(...children);
  return element;
};
const settings = JSON.parse($("settings").textContent);
const count = settings.count;
function bytes(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const raw = atob(text), found = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) found[i] = raw.charCodeAt(i);
  return found;
}
const TYPES = { float32: Float32Array, int16: Int16Array, int32: Int32Array };
const arrays = {};
for (const script of document.querySelectorAll("script.array")) {
  arrays[script.id] = new TYPES[script.type](bytes(script.textContent).buffer);
  script.remove();
}
const { x: X, y: Y, cluster, distance, label } = arrays;
const paths = new Array(count);
{
  const lines = $("paths").textContent.split("\n");
  let before = "";
  for (let i = 0; i < count; i++) {
    const line = lines[i], space = line.indexOf(" ");
    let rest = line.slice(space + 1);
    if (rest.includes("\\")) rest = JSON.parse(`"${rest}"`);
    before = paths[i] = before.slice(0, +line.slice(0, space)) + rest;
  }
  $("paths").remove();
}
const number = (n) => n.toLocaleString("en");
const images = (n) => `${number(n)} ${settings.unit}${n === 1 ? "" : "s"}`;
const thumbnail = (row) => { const e = $(`t${row}`); return e && `data:image/jpeg;base64,${e.textContent}`; };
const thumbs = [...document.querySelectorAll("script.thumbnail")].map((e) => +e.id.slice(1));

// ---- colours: a hue for each group, by the golden angle, lighter on a dark page
const scheme = matchMedia("(prefers-color-scheme: dark)");
const FIRST = [[214, 78, 52], [24, 88, 50], [140, 60, 38], [350, 72, 52], [268, 60, 58], [185, 75, 36], [46, 92, 44], [318, 62, 52], [90, 60, 38], [12, 42, 42], [232, 55, 66], [170, 35, 50]];
function rgb(h, s, l) {
  s /= 100; l /= 100;
  const f = (n) => { const k = (n + h / 30) % 12; return Math.round(255 * (l - s * Math.min(l, 1 - l) * Math.max(-1, Math.min(k - 3, 9 - k, 1)))); };
  return [f(0), f(8), f(4)];
}
function colourOf(i) {
  if (i < 0) return scheme.matches ? [120, 120, 128] : [160, 160, 168];
  const [h, s, l] = FIRST[i] ?? [(i * 137.508) % 360, [65, 45, 80][i % 3], [45, 55, 38][(i >> 1) % 3]];
  return rgb(h, s, scheme.matches ? Math.min(74, l + 16) : l);
}
const RAMP = [[48, 18, 110], [130, 30, 120], [210, 60, 80], [250, 140, 40], [250, 220, 90]];
function ramp(t) {
  const at = Math.max(0, Math.min(0.9999, t)) * (RAMP.length - 1), i = Math.floor(at), f = at - i;
  return RAMP[i].map((v, c) => Math.round(v + (RAMP[i + 1][c] - v) * f));
}

// ---- what the dots are coloured and filtered by
const clusterName = (c) => `cluster ${c}`;
const kinds = {};
if (label) kinds[settings.what] = { codes: label, name: (c) => (c < 0 ? `no ${settings.what}` : settings.labels[c]), title: settings.what[0].toUpperCase() + settings.what.slice(1) };
if (cluster) kinds.cluster = { codes: cluster, name: clusterName, title: "Clusters" };
if (distance) kinds.distance = { codes: cluster, name: clusterName, title: "Clusters", ramp: true };
const one = { codes: new Int16Array(count), name: () => "all", title: "" };
for (const name of Object.keys(kinds)) $("colour").append(make("option", { value: name, textContent: name }));
$("colour").parentElement.hidden = Object.keys(kinds).length < 2;
let kind = Object.values(kinds)[0] ?? one;
const only = new Set(); // groups that the legend shows; empty: all
let lassoed = null; // a flag for each row, or null
let found = null; // the same for the search
let pinned = -1, hovered = -1;
const visible = new Uint8Array(count).fill(1);
let tints = new Uint32Array(0), codeOf = new Int32Array(count), byDistance = null, sizes = [];

function settle() { // after another colouring or scheme
  const low = [], seen = new Map();
  for (let i = 0; i < count; i++) seen.set(kind.codes[i], (seen.get(kind.codes[i]) ?? 0) + 1);
  sizes = [...seen].sort((a, b) => b[1] - a[1] || a[0] - b[0]);
  const rank = new Map(sizes.filter(([c]) => c >= 0).map(([c], i) => [c, kind.codes === cluster ? c : i]));
  const pack = ([r, g, b]) => r | (g << 8) | (b << 16);
  tints = new Uint32Array(count);
  const table = new Map(sizes.map(([c]) => [c, pack(colourOf(rank.get(c) ?? -1))]));
  kind.tint = (c) => table.get(c);
  if (kind.ramp) {
    const sorted = Float32Array.from(distance).sort();
    const from = sorted[Math.floor(count * 0.02)], to = sorted[Math.min(count - 1, Math.floor(count * 0.99))];
    for (let i = 0; i < count; i++) tints[i] = pack(ramp((distance[i] - from) / (to - from || 1)));
  } else for (let i = 0; i < count; i++) tints[i] = table.get(kind.codes[i]);
}

// ---- the view: a point (x, y) of the data is at (x - cx) * scale + width / 2
const canvas = $("dots"), stage = $("stage"), context = canvas.getContext("2d");
let width = 1, height = 1, ratio = 1;
let minX = Infinity, maxX = -Infinity, minY = Infinity, maxY = -Infinity;
for (let i = 0; i < count; i++) {
  if (X[i] < minX) minX = X[i]; if (X[i] > maxX) maxX = X[i];
  if (Y[i] < minY) minY = Y[i]; if (Y[i] > maxY) maxY = Y[i];
}
const view = { x: 0, y: 0, scale: 1 };
let least = 1;
function fit() {
  const room = Math.min(width / (maxX - minX || 1), height / (maxY - minY || 1)) * 0.88;
  Object.assign(view, { x: (minX + maxX) / 2 || 0, y: (minY + maxY) / 2 || 0, scale: room });
  least = room / 4;
}
const toX = (i) => (X[i] - view.x) * view.scale + width / 2;
const toY = (i) => (view.y - Y[i]) * view.scale + height / 2;
function zoom(by, px = width / 2, py = height / 2) {
  const scale = Math.max(least, Math.min(least * 40000, view.scale * by));
  view.x += (px - width / 2) * (1 / view.scale - 1 / scale);
  view.y -= (py - height / 2) * (1 / view.scale - 1 / scale);
  view.scale = scale;
  draw();
}

let waiting = false;
function draw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; paint(); });
}
let buffer = null;
function paint() {
  const w = canvas.width, h = canvas.height;
  if (!buffer || buffer.width !== w || buffer.height !== h) buffer = new ImageData(w, h);
  const data = buffer.data;
  data.fill(0);
  const near = Math.sqrt(view.scale / (least * 4));
  const base = Math.max(1.1, Math.min(5, 60 / Math.sqrt(count) + 0.8)) * Math.min(3, Math.max(1, near ** 0.7));
  const isFiltered = only.size || lassoed || found;
  const stamps = [stampOf(base * ratio, count > 20000 ? 0.75 : 0.9), stampOf(Math.max(0.8, base * 0.75) * ratio, 0.22)];
  const grey = scheme.matches ? 0x707070 : 0xa0a0a0;
  for (let pass = isFiltered ? 0 : 1; pass < 2; pass++) {
    const stamp = stamps[1 - pass], size = stamp.size, half = size / 2;
    for (let i = 0; i < count; i++) {
      if (visible[i] !== pass) continue;
      const px = Math.round(toX(i) * ratio - half), py = Math.round(toY(i) * ratio - half);
      if (px < 0 || py < 0 || px + size >= w || py + size >= h) continue;
      const tint = pass ? tints[i] : grey, r = tint & 255, g = (tint >> 8) & 255, b = tint >> 16;
      for (let dy = 0, s = 0; dy < size; dy++) {
        let at = 4 * ((py + dy) * w + px);
        for (let dx = 0; dx < size; dx++, s++, at += 4) {
          const a = stamp.cover[s];
          if (!a) continue;
          const under = data[at + 3] / 255, sum = a + under * (1 - a), t = a / sum;
          data[at] += (r - data[at]) * t; data[at + 1] += (g - data[at + 1]) * t; data[at + 2] += (b - data[at + 2]) * t;
          data[at + 3] = 255 * sum;
        }
      }
    }
  }
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.putImageData(buffer, 0, 0);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  if ($("pictures").checked) pictures();
  for (const [row, line] of [[pinned, 2.5], [hovered, 1.5]]) {
    if (row < 0) continue;
    context.beginPath();
    context.arc(toX(row), toY(row), base + 4, 0, 7);
    context.lineWidth = line + 2; context.strokeStyle = scheme.matches ? "#000" : "#fff"; context.stroke();
    context.lineWidth = line; context.strokeStyle = scheme.matches ? "#fff" : "#000"; context.stroke();
  }
  place();
}
const stampCache = new Map();
function stampOf(radius, alpha) {
  const key = `${radius.toFixed(1)} ${alpha}`;
  if (!stampCache.has(key)) {
    const size = Math.ceil(2 * radius + 1), cover = new Float32Array(size * size), c = (size - 1) / 2;
    for (let y = 0; y < size; y++) for (let x = 0; x < size; x++) cover[y * size + x] = alpha * Math.max(0, Math.min(1, radius + 0.5 - Math.hypot(x - c, y - c)));
    stampCache.set(key, { size, cover });
  }
  return stampCache.get(key);
}

// ---- thumbnails on the map, as far as they do not overlap
const loaded = new Map();
function pictures() {
  const side = Math.max(44, Math.min(96, width / 11)), cells = new Set();
  let room = 150;
  for (const row of thumbs) {
    if (!room) break;
    const px = toX(row), py = toY(row);
    if (!visible[row] || px < 0 || py < 0 || px > width || py > height) continue;
    const cx = Math.floor(px / side), cy = Math.floor(py / side), cell = cy * 4096 + cx;
    if (cells.has(cell)) continue;
    cells.add(cell);
    room--;
    let image = loaded.get(row);
    if (!image) { loaded.set(row, image = new Image()); image.onload = draw; image.src = thumbnail(row); }
    if (!image.complete || !image.naturalWidth) continue;
    const scale = (side - 8) / Math.max(image.naturalWidth, image.naturalHeight);
    const w = image.naturalWidth * scale, h = image.naturalHeight * scale;
    const t = tints[row];
    const left = Math.max(cx * side + 2, Math.min((cx + 1) * side - w - 2, px - w / 2)), top = Math.max(cy * side + 2, Math.min((cy + 1) * side - h - 2, py - h / 2));
    context.fillStyle = `rgb(${t & 255},${(t >> 8) & 255},${t >> 16})`;
    context.fillRect(left - 2, top - 2, w + 4, h + 4);
    context.drawImage(image, left, top, w, h);
    image.place = [left, top, w, h, view.scale, view.x, view.y];
  }
}
function pictureAt(px, py) {
  if (!$("pictures").checked) return -1;
  for (const [row, { place: p }] of loaded) if (p && visible[row] && p[4] === view.scale && p[5] === view.x && p[6] === view.y && px >= p[0] && py >= p[1] && px <= p[0] + p[2] && py <= p[1] + p[3]) return row;
  return -1;
}
function nearest(px, py, within) {
  const picture = pictureAt(px, py);
  if (picture >= 0) return picture;
  let best = -1, least = within * within;
  for (let i = 0; i < count; i++) {
    if (!visible[i]) continue;
    const dx = toX(i) - px, dy = toY(i) - py, d = dx * dx + dy * dy;
    if (d < least) { least = d; best = i; }
  }
  return best;
}

// ---- the card of the image under the pointer, or of the pinned one
function card(row) {
  const box = $("card");
  if (row < 0) { box.hidden = true; box.row = -1; return; }
  box.hidden = false;
  box.classList.toggle("pinned", row === pinned);
  if (box.row === row && box.isPinned === (row === pinned)) { place(); return; }
  Object.assign(box, { row, isPinned: row === pinned });
  const facts = make("dl"), url = thumbnail(row);
  const fact = (name, value) => facts.append(make("dt", { textContent: name }), make("dd", { textContent: value }));
  if (label) fact(settings.what, kinds[settings.what].name(label[row]));
  if (cluster) { fact("cluster", cluster[row]); fact("distance", distance[row].toFixed(4)); }
  fact("row", number(row));
  const close = make("button", { type: "button", textContent: "✕", ariaLabel: "unpin" });
  close.setAttribute("aria-label", "unpin");
  close.onclick = () => pin(-1);
  box.replaceChildren(...(url ? [make("img", { src: url, alt: "", onload: place })] : []), make("b", { textContent: paths[row] }), facts, ...(row === pinned ? [close] : []));
  place();
}
function place() {
  const box = $("card");
  if (box.hidden) return;
  const px = toX(box.row), py = toY(box.row), w = box.offsetWidth, h = box.offsetHeight;
  const left = px + 14 + w > width ? px - 14 - w : px + 14;
  box.style.left = `${Math.max(4, Math.min(width - w - 4, left))}px`;
  box.style.top = `${Math.max(4, Math.min(height - h - 4, py - h / 3))}px`;
}
function hover(row) {
  if (row === hovered) return;
  hovered = row;
  card(row >= 0 ? row : pinned);
  draw();
}
function pin(row, into = false) {
  pinned = row;
  if (row >= 0 && into && !(toX(row) > 40 && toX(row) < width - 40 && toY(row) > 40 && toY(row) < height - 40)) { view.x = X[row]; view.y = Y[row]; }
  if (row >= 0 && into) hovered = -1;
  card(row);
  for (const button of $("rows").querySelectorAll("button")) button.setAttribute("aria-current", button.row === row);
  draw();
}

// ---- pointers: one drags or chooses, two pinch
let mode = "move";
function setMode(name) {
  stage.dataset.mode = mode = name;
  for (const button of document.querySelectorAll("[data-mode]")) if (button !== stage) button.setAttribute("aria-pressed", button.dataset.mode === name);
}
const down = new Map();
let loop = null, moved = 0, pinch = null;
const at = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
canvas.onpointerdown = (event) => {
  if (event.button) return;
  canvas.setPointerCapture(event.pointerId);
  down.set(event.pointerId, at(event));
  moved = 0;
  if (down.size === 2) { loop = null; shape(); pinch = spread(); moved = 99; }
  else if (down.size === 1 && (mode !== "move" || event.shiftKey)) loop = [at(event)];
  else canvas.classList.add("grabbing");
};
const spread = () => { const [[ax, ay], [bx, by]] = [...down.values()]; return { gap: Math.hypot(ax - bx, ay - by), x: (ax + bx) / 2, y: (ay + by) / 2 }; };
canvas.onpointermove = (event) => {
  const [px, py] = at(event), last = down.get(event.pointerId);
  if (!last) { hover(nearest(px, py, 14)); canvas.style.cursor = hovered >= 0 && mode === "move" ? "pointer" : ""; return; }
  moved += Math.hypot(px - last[0], py - last[1]);
  down.set(event.pointerId, [px, py]);
  if (down.size === 2) {
    const now = spread();
    view.x -= (now.x - pinch.x) / view.scale; view.y += (now.y - pinch.y) / view.scale;
    zoom(now.gap / (pinch.gap || 1), now.x, now.y);
    pinch = now;
  } else if (loop) {
    if (mode === "box") loop = [loop[0], [px, loop[0][1]], [px, py], [loop[0][0], py]]; else loop.push([px, py]);
    shape();
  } else { view.x -= (px - last[0]) / view.scale; view.y += (py - last[1]) / view.scale; draw(); }
};
canvas.onpointerup = canvas.onpointercancel = (event) => {
  if (!down.has(event.pointerId)) return;
  const [px, py] = at(event);
  down.delete(event.pointerId);
  canvas.classList.remove("grabbing");
  if (event.type === "pointercancel") { loop = null; shape(); return; }
  if (moved < 5) { loop = null; shape(); hovered = -1; pin(nearest(px, py, event.pointerType === "touch" ? 24 : 14)); }
  else if (loop) { choose(loop); loop = null; shape(); }
};
canvas.onpointerleave = () => { if (!down.size) hover(-1); };
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016)), ...at(event));
}, { passive: false });
canvas.ondblclick = (event) => zoom(2, ...at(event));
function shape() { $("loop").setAttribute("points", (loop ?? []).map((p) => p.join(",")).join(" ")); }
function choose(points) {
  const flags = new Uint8Array(count);
  let left = Infinity, right = -Infinity, top = Infinity, bottom = -Infinity;
  for (const [a, b] of points) { left = Math.min(left, a); right = Math.max(right, a); top = Math.min(top, b); bottom = Math.max(bottom, b); }
  for (let i = 0; i < count; i++) {
    const px = toX(i), py = toY(i);
    if (px < left || px > right || py < top || py > bottom) continue;
    let inside = false;
    for (let a = 0, b = points.length - 1; a < points.length; b = a++) {
      const [ax, ay] = points[a], [bx, by] = points[b];
      if (ay > py !== by > py && px < ((bx - ax) * (py - ay)) / (by - ay) + ax) inside = !inside;
    }
    if (inside) flags[i] = 1;
  }
  lassoed = flags.includes(1) ? flags : null;
  update();
}

// ---- legend and list
const MOST_GROUPS = 200, MOST_ROWS = 100;
function legend() {
  $("legend").hidden = kind === one;
  $("groups").textContent = `${kind.title} (${number(sizes.length)})`;
  $("find").hidden = sizes.length <= 30;
  const words = $("find").value.trim().toLowerCase();
  const shown = sizes.filter(([c]) => !words || kind.name(c).toLowerCase().includes(words));
  const items = shown.slice(0, MOST_GROUPS).map(([c, n]) => {
    const t = kind.tint(c), swatch = make("i", { className: "swatch" });
    swatch.style.background = kind.ramp ? "none" : `rgb(${t & 255},${(t >> 8) & 255},${t >> 16})`;
    if (kind.ramp) swatch.style.border = "1px solid var(--faint)";
    const button = make("button", { type: "button", title: kind.name(c) }, swatch, make("span", { textContent: kind.name(c) }), make("small", { textContent: number(n) }));
    button.setAttribute("aria-pressed", only.has(c));
    button.onclick = () => { if (!only.delete(c)) only.add(c); button.setAttribute("aria-pressed", only.has(c)); update(); };
    return make("li", {}, button);
  });
  if (shown.length > MOST_GROUPS) items.push(make("li", {}, make("small", { textContent: `and ${number(shown.length - MOST_GROUPS)} more: type to find them` })));
  $("list").replaceChildren(...items);
}
let rows = [], listed = 0;
function update() {
  let left = 0;
  for (let i = 0; i < count; i++) left += visible[i] = (!only.size || only.has(kind.codes[i])) && (!lassoed || lassoed[i]) && (!found || found[i]) ? 1 : 0;
  if (pinned >= 0 && !visible[pinned]) pin(-1);
  const isAll = left === count;
  $("count").textContent = isAll ? images(count) : `${number(left)} of ${images(count)}`;
  $("chosen").textContent = isAll ? `All ${images(count)}` : `${images(left)} chosen`;
  $("clear").hidden = !(only.size || lassoed || found);
  const order = $("order").value;
  if (order !== "input" && !byDistance) byDistance = Uint32Array.from({ length: count }, (_, i) => i).sort((a, b) => distance[b] - distance[a] || a - b);
  rows = [];
  if (order === "input") for (let i = 0; i < count; i++) { if (visible[i]) rows.push(i); }
  else for (const i of byDistance) if (visible[i]) rows.push(i);
  if (order === "typical") rows.reverse();
  listed = 0;
  $("rows").replaceChildren();
  $("rows").scrollTop = 0;
  more();
  draw();
}
function more() {
  for (const row of rows.slice(listed, listed + MOST_ROWS)) {
    const url = thumbnail(row), t = tints[row], swatch = make("i", { className: "swatch" });
    swatch.style.background = `rgb(${t & 255},${(t >> 8) & 255},${t >> 16})`;
    const picture = make("span", { className: "thumb" }, url ? make("img", { src: url, alt: "", loading: "lazy", decoding: "async" }) : swatch);
    const button = make("button", { type: "button", row, title: paths[row] }, picture, make("span", { className: "name" }, make("bdi", { textContent: paths[row] })), make("small", { textContent: distance ? distance[row].toFixed(3) : "" }));
    button.onclick = () => pin(row, true);
    button.setAttribute("aria-current", row === pinned);
    $("rows").append(make("li", {}, button));
  }
  listed = Math.min(rows.length, listed + MOST_ROWS);
  $("more").hidden = listed >= rows.length;
  $("more").textContent = `more (${number(rows.length - listed)})`;
}
const text = () => rows.map((row) => `${paths[row]}\n`).join("");
let quiet = 0;
function say(words) { $("said").textContent = words; clearTimeout(quiet); quiet = setTimeout(() => { $("said").textContent = ""; }, 2500); }
$("copy").onclick = async () => {
  try { await navigator.clipboard.writeText(text()); }
  catch {
    const area = make("textarea", { value: text() });
    document.body.append(area); area.select(); document.execCommand("copy"); area.remove();
  }
  say(`${number(rows.length)} path${rows.length === 1 ? "" : "s"} copied`);
};
$("save").onclick = () => {
  const link = make("a", { href: URL.createObjectURL(new Blob([text()], { type: "text/plain" })), download: "paths.txt" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
};
function clear() { only.clear(); lassoed = found = null; $("search").value = ""; legend(); update(); }
$("clear").onclick = clear;
$("more").onclick = more;
$("order").onchange = update;
$("find").oninput = legend;
let typing = 0;
$("search").oninput = () => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    const words = $("search").value.trim().toLowerCase();
    found = words ? Uint8Array.from(paths, (path) => (path.toLowerCase().includes(words) ? 1 : 0)) : null;
    update();
  }, 120);
};
$("colour").onchange = () => { kind = kinds[$("colour").value]; only.clear(); $("find").value = ""; settle(); legend(); update(); };
$("pictures").onchange = draw;
$("in").onclick = () => zoom(1.6);
$("out").onclick = () => zoom(1 / 1.6);
$("home").onclick = () => { fit(); draw(); };
for (const button of document.querySelectorAll("button[data-mode]")) button.onclick = () => setMode(button.dataset.mode);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const active = document.activeElement, isTyping = active.matches("input[type=search],select");
  if (event.key === "Escape") { if (isTyping) active.blur(); if (pinned >= 0) pin(-1); else clear(); return; }
  if (isTyping) return;
  const modes = { m: "move", l: "lasso", b: "box" };
  if (event.key === "/") { event.preventDefault(); $("search").focus(); }
  else if (modes[event.key]) setMode(modes[event.key]);
  else if (event.key === "+" || event.key === "=") zoom(1.4);
  else if (event.key === "-") zoom(1 / 1.4);
  else if (event.key === "0") $("home").onclick();
  else if (active === canvas && event.key.startsWith("Arrow")) {
    event.preventDefault();
    const by = 60 / view.scale;
    view.x += { ArrowLeft: -by, ArrowRight: by }[event.key] ?? 0;
    view.y += { ArrowUp: by, ArrowDown: -by }[event.key] ?? 0;
    draw();
  } else if (active === canvas && event.key === "Enter") pin(nearest(width / 2, height / 2, Math.max(width, height)));
  else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && active.closest?.("aside li")) {
    const item = active.closest("li"), next = event.key === "ArrowDown" ? item.nextElementSibling : item.previousElementSibling;
    event.preventDefault();
    next?.querySelector("button")?.focus();
  }
});
function resize() {
  const box = stage.getBoundingClientRect(), isFirst = width === 1, across = width;
  ratio = Math.min(2, devicePixelRatio || 1);
  width = Math.max(1, box.width); height = Math.max(1, box.height);
  canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
  if (isFirst) fit(); else view.scale *= width / across;
  draw();
}
new ResizeObserver(resize).observe(stage);
scheme.onchange = () => { settle(); legend(); update(); };
if (!distance) { for (const option of [...$("order").options]) if (option.value !== "input") option.remove(); }
$("pictures").checked = thumbs.length > 0 && count <= 400;
$("pictures").parentElement.hidden = !thumbs.length;
setMode("move");
settle();
legend();
resize();
update();
