const rows = [...document.querySelectorAll("script.row")].map((script, index) => ({
  ...parsed(script), index, script: script.nextElementSibling, ratio: script.dataset.ratio ?? 1.333,
}));
const images = rows.filter((row) => !row.error);
const failures = rows.filter((row) => row.error);
const settings = parsed($("settings"));
document.title = $("title").textContent = settings.title;
$("about").textContent = settings.about;
const colours = Object.fromEntries(Object.entries(settings.colours).map(([n, t]) => [n, bytes(t)]));
const best = (row) => row.class ?? row.predictions?.[0];
const scored = (p) => (settings.bars && p.score >= 0 && p.score <= 1 ? p.score : 0);

// The data of an image is parsed when it comes near the screen.
const dataOf = (row) => parsed(row.script);
const has = (name) => images.some((row) => row[name]?.length);
const first = images.length ? dataOf(images[0]) : {};
const layers = first.layers ?? [];
const hasMaps = layers.length > 0;

// The values are spread over the picture first, and coloured then, as in the files of --out.
function paint(canvas, layer) {
  const number = Math.min(Number($("head").value) || 0, layer.heads.length - 1);
  const [h, w] = layer.grid, table = colours[$("colours").value];
  const levels = layer.maps.subarray(number * h * w, (number + 1) * h * w);
  const small = new ImageData(w, h);
  levels.forEach((v, i) => small.data.set([v, v, v, 255], 4 * i));
  const source = make("canvas", { width: w, height: h });
  source.getContext("2d").putImageData(small, 0, 0);
  const context = canvas.getContext("2d", { willReadFrequently: true }), [top, left, bottom, right] = layer.box;
  context.imageSmoothingQuality = "high";
  context.drawImage(source, left * canvas.width, top * canvas.height, (right - left) * canvas.width, (bottom - top) * canvas.height);
  const spread = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let i = 0; i < spread.data.length; i += 4) {
    const at = 3 * spread.data[i];
    spread.data[i] = table[at]; spread.data[i + 1] = table[at + 1]; spread.data[i + 2] = table[at + 2];
  }
  context.putImageData(spread, 0, 0);
}

function show(view, row) {
  const data = dataOf(row);
  const image = make("img", { alt: row.path, decoding: "async" });
  const frame = make("div", { className: "frame" }, image);
  view.replaceChildren(frame);
  image.onload = () => {
    const room = view.getBoundingClientRect(), style = getComputedStyle(view);
    const across = room.width - 2 * parseFloat(style.paddingLeft), down = room.height - 2 * parseFloat(style.paddingTop);
    const scale = Math.min(across / image.naturalWidth, down / image.naturalHeight);
    frame.style.width = `${image.naturalWidth * scale}px`;
    frame.style.height = `${image.naturalHeight * scale}px`;
    if (data.layers) {
      const wanted = data.layers.find((l) => l.layer === $("layer").value) ?? data.layers[0];
      const sharp = scale * devicePixelRatio;
      const canvas = make("canvas", { width: Math.round(image.naturalWidth * sharp), height: Math.round(image.naturalHeight * sharp) });
      paint(canvas, { ...wanted, maps: bytes(wanted.maps) });
      frame.append(canvas);
    }
  };
  image.src = pictureOf(data.thumbnail);
}

function about(row) {
  const list = make("ol");
  for (const p of row.predictions ?? []) {
    const name = make("button", { type: "button", textContent: short(p.label), title: `only ${short(p.label)}` });
    name.onclick = (event) => { event.stopPropagation(); $("view").close(); $("filter").value = p.label; update(); };
    const item = make("li", {}, name, make("span", { textContent: p.score.toFixed(p.score > 1 || p.score < 0 ? 2 : 3) }));
    item.style.setProperty("--score", scored(p));
    list.append(item);
  }
  const parts = [pathLine(row.path), list];
  if (row.class) parts.push(make("p", { className: "note", textContent: `relevance for ${short(row.class.label)}` }));
  return make("div", { className: "about" }, ...parts);
}

const seen = whenNear((card) => show(card.firstChild, card.item), (card) => card.firstChild.replaceChildren());

for (const row of images) {
  row.card = make("article", { tabIndex: 0, item: row, style: `--ratio:${row.ratio}` }, make("div", { className: "view" }), about(row));
  row.card.onclick = () => open(row);
  row.card.setAttribute("aria-label", row.path);
  row.text = [row.path, ...(row.predictions ?? []).map((p) => p.label), row.class?.label ?? ""].join("\n").toLowerCase();
}

const orders = {
  input: (a, b) => a.index - b.index,
  high: (a, b) => (best(b)?.score ?? -1e300) - (best(a)?.score ?? -1e300) || a.index - b.index,
  low: (a, b) => (best(a)?.score ?? 1e300) - (best(b)?.score ?? 1e300) || a.index - b.index,
  label: (a, b) => (best(a)?.label ?? "").localeCompare(best(b)?.label ?? "") || a.index - b.index,
};
let shown = [];

function update() {
  const words = $("filter").value.trim().toLowerCase();
  shown = images.filter((row) => row.text.includes(words)).sort(orders[$("order").value]);
  seen.disconnect();
  $("grid").replaceChildren(...shown.map((row) => row.card), $("empty"));
  shown.forEach((row) => seen.observe(row.card));
  $("empty").hidden = shown.length > 0;
  showFailures(failures.filter((row) => `${row.path}\n${row.error.type}`.toLowerCase().includes(words)), (row) => row.path);
  const all = images.length.toLocaleString();
  const failed = failures.length ? `, ${failures.length.toLocaleString()} failed` : "";
  $("count").textContent = (words ? `${shown.length.toLocaleString()} of ${all} images` : counted(images.length, "image")) + failed;
}

function repaint() {
  for (const row of shown) if (row.card.querySelector(".frame")) show(row.card.firstChild, row);
  if ($("view").open) show($("large"), current);
}

page.next = (row, by) => shown[shown.indexOf(row) + by];
page.cardOf = (row) => row.card;
page.show = (row) => {
  $("words").replaceChildren($("maps"), ...about(row).childNodes);
  show($("large"), row);
};
page.keys[" "] = () => $("large").classList.toggle("plain");
$("filter").oninput = $("order").onchange = update;
$("view").addEventListener("close", () => $("tools").append($("maps")));
addEventListener("resize", repaint);

if (hasMaps) {
  for (const l of layers) $("layer").append(make("option", { value: l.layer, textContent: /^\d+$/.test(l.layer) ? `layer ${l.layer}` : "pooling" }));
  $("layer").value = layers.at(-1).layer;
  const most = layers.reduce((a, b) => (b.heads.length > a.heads.length ? b : a));
  most.heads.forEach((name, i) => $("head").append(make("option", { value: i, textContent: /^\d+$/.test(name) ? `head ${name}` : name })));
  $("layer").parentElement.hidden = layers.length < 2;
  $("head").parentElement.hidden = most.heads.length < 2;
  for (const name of Object.keys(colours)) $("colours").append(make("option", { textContent: name }));
  $("colours").value = settings.colourmap;
  $("alpha").oninput = () => document.documentElement.style.setProperty("--alpha", $("alpha").value);
  $("alpha").value = settings.alpha;
  $("alpha").oninput();
  $("layer").onchange = $("head").onchange = $("colours").onchange = repaint;
}
$("maps").hidden = !hasMaps;
if (!has("predictions") && !images.some((row) => row.class)) $("order").parentElement.hidden = true;
const names = new Set(images.flatMap((row) => (best(row) ? [best(row).label] : [])));
$("names").append(...[...names].sort().slice(0, 500).map((value) => make("option", { value })));
update();
