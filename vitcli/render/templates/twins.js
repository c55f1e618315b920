for (const one of ones) one.members.forEach((member, place) => Object.assign(member, { one, place }));
const twinsOf = (members) => members.filter((member) => !member.keep);
const scoreOf = (member) => (typeof member.score === "number" ? member.score.toFixed(4) : "");
const weight = (bytes) => {
  const power = Math.min(4, Math.max(0, Math.floor(Math.log10(Math.max(1, bytes)) / 3)));
  return `${(bytes / 1000 ** power).toFixed(power && bytes / 1000 ** power < 100 ? 1 : 0)} ${["B", "kB", "MB", "GB", "TB"][power]}`;
};
const sum = (members) => members.reduce((all, member) => all + (member.bytes ?? 0), 0);
const measures = (member) => [member.size && `${member.size[1]} × ${member.size[0]}`, member.bytes != null && weight(member.bytes)].filter(Boolean).join(" · ");

page.stops = (one) => twinsOf(one.shown);
page.heading = (one) => {
  const twins = twinsOf(one.members), name = make("span", {}, make("b", { textContent: counted(one.members.length, "image") }));
  return [name, make("span", { textContent: sum(twins) ? `${weight(sum(twins))} not kept` : "" })];
};
function tags(member) {
  const tag = member.keep ? make("span", { className: "tag keep", textContent: "kept" }) : make("span", { className: `tag ${member.kind}`, textContent: member.kind });
  return make("div", { className: "tags" }, tag, make("span", { textContent: member.keep ? "" : scoreOf(member) }));
}
page.card = (member, thumbnail) => {
  const item = member.keep ? page.stops(member.one)[0] : member;
  const parts = [tags(member), pathLine(member.path), make("p", { className: "note", textContent: measures(member) })];
  if (!member.keep && member.why) parts.push(make("p", { className: "note", textContent: `not kept: ${member.why}` }));
  const card = make("article", { tabIndex: 0, item, style: `--ratio:${member.ratio}`, className: member.keep ? "kept" : "", onclick: () => item && open(item) }, make("div", { className: "view" }, pictured(thumbnail, "")), make("div", { className: "about" }, ...parts));
  card.setAttribute("aria-label", `${member.keep ? "kept" : member.kind}: ${member.path}`);
  return card;
};

// The large view compares a twin with the image that is kept.
const keptOf = (one) => one.members.find((member) => member.keep) ?? one.members[0];
function facts(title, member, kept) {
  const list = make("dl", { className: "facts" });
  const entries = [["kind", member.kind], ["score", member.score], ["why not", member.why], ["twin of", member.of === kept.path ? null : member.of]];
  for (const [name, value] of [...(member === kept ? [] : entries), ["size", measures(member)], ["path", member.path]])
    if (value != null && value !== "") list.append(make("dt", { textContent: name }), make("dd", { textContent: value }));
  return [make("h3", { textContent: title, className: member === kept ? "good" : "" }), list];
}
page.show = (twin) => {
  const { thumbnails } = parsed(twin.one.script), kept = keptOf(twin.one), twins = page.stops(twin.one);
  const figure = (member, title) => make("figure", {}, pictured(thumbnails[member.place], title), make("figcaption", { textContent: title }));
  $("large").replaceChildren(figure(kept, "kept"), figure(twin, "twin"));
  const place = make("p", { className: "note", textContent: `twin ${twins.indexOf(twin) + 1} of ${twins.length.toLocaleString()} in group ${(shown.indexOf(twin.one) + 1).toLocaleString()} of ${shown.length.toLocaleString()}, compared as thumbnails` });
  $("words").replaceChildren(place, ...facts("kept", kept, kept), ...facts("not kept", twin, kept));
  compare(mode);
};
let mode = "pair";
function compare(name) {
  mode = name;
  $("large").className = `view ${name}`;
  for (const button of $("modes").children) button.setAttribute("aria-pressed", button.value === name);
}
const swap = () => { if (mode !== "over") compare("over"); $("large").classList.toggle("swapped"); };
for (const button of $("modes").children) button.onclick = () => compare(button.value);
$("large").onclick = () => mode === "over" && swap();
[...$("modes").children].forEach((button, at) => { page.keys[at + 1] = () => compare(button.value); });
Object.assign(page.keys, { " ": swap, ArrowDown: () => otherGroup(1), ArrowUp: () => otherGroup(-1) });
function otherGroup(by) {
  const next = page.next(page.stops(current.one).at(by > 0 ? -1 : 0), by);
  if (next) open(page.stops(next.one)[0]);
}

// The list of paths that are not kept. Odd bytes of a path are lone surrogates here, as in Python;
// the file has the bytes.
const listed = () => shown.flatMap((one) => twinsOf(one.shown)).map((member) => member.path);
const odd = /(?<![\ud800-\udbff])([\udc80-\udcff])/;
function encoded(text) {
  const encoder = new TextEncoder();
  return text.split(odd).map((part, at) => (at % 2 ? Uint8Array.of(part.charCodeAt(0) - 0xdc00) : encoder.encode(part)));
}
function say(done, paths, kept) {
  const left = paths.length - kept.length;
  $("said").textContent = `${counted(kept.length, "path")} ${done}.${left ? ` ${left.toLocaleString()} left out, which cannot be a line of text: vit dedupe --paths-only -0 gives all.` : ""}`;
}
async function copyList() {
  const paths = listed(), kept = paths.filter((path) => !/[\r\n]/.test(path) && !odd.test(path)), text = kept.map((path) => `${path}\n`).join("");
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = make("textarea", { value: text });
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    if (!done) return say("cannot be copied by this browser: download the list", kept, kept);
  }
  say("copied", paths, kept);
}
function downloadList() {
  const paths = listed(), kept = paths.filter((path) => !/[\r\n]/.test(path));
  const url = URL.createObjectURL(new Blob(encoded(kept.map((path) => `${path}\n`).join("")), { type: "text/plain" }));
  make("a", { href: url, download: "not-kept.txt" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
  say("in not-kept.txt", paths, kept);
}
$("copy").onclick = copyList;
$("download").onclick = downloadList;

// The scores of a group: those of its twins that are near; the others are as near as can be.
const closeness = (one) => Math.min(...twinsOf(one.members).map((member) => (member.kind === "near" ? member.score ?? 1 : 1)));
ones.forEach((one, at) => Object.assign(one, { index: at, closeness: closeness(one), freed: sum(twinsOf(one.members)) }));
const orders = {
  input: () => 0,
  low: (a, b) => a.closeness - b.closeness,
  high: (a, b) => b.closeness - a.closeness,
  most: (a, b) => b.members.length - a.members.length,
  freed: (a, b) => b.freed - a.freed,
};
function update() {
  const words = $("filter").value.trim().toLowerCase(), kind = $("kind").value;
  for (const one of ones) {
    const found = !words || one.members.some((member) => (member.text ??= member.path.toLowerCase()).includes(words));
    one.shown = found ? one.members.filter((member) => member.keep || !kind || member.kind === kind) : [];
  }
  lay(ones.filter((one) => page.stops(one).length).sort((a, b) => orders[$("order").value](a, b) || a.index - b.index));
  for (const one of shown) one.section.style.setProperty("--wide", one.shown.slice(0, 8).reduce((sum, { ratio }) => sum + Math.min(5, Math.max(0.8, ratio)), 0));
  const all = counted(ones.length, "group");
  $("count").textContent = words || kind ? `${shown.length.toLocaleString()} of ${all}` : all;
  const twins = shown.flatMap((one) => page.stops(one)), freed = sum(twins);
  $("sum").textContent = `${counted(twins.length, "image is", "images are")} not kept${freed ? `, ${weight(freed)}` : ""}.`;
  $("copy").disabled = $("download").disabled = !twins.length;
  $("said").textContent = "Of the groups below, as filtered. This page changes no file.";
}
for (const id of ["filter", "kind", "order"]) $(id).oninput = update;
if (!ones.length) $("empty").textContent = "no twins were found";
compare(mode);
update();
