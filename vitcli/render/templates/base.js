"use strict";
const $ = (id) => document.getElementById(id);
const make = (tag, props = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), props);
  element.append(...children);
  return element;
};
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const parsed = (script) => JSON.parse(script.textContent);
const short = (text) => (text.length > 200 ? `${text.slice(0, 199)}…` : text);
const counted = (count, one, many = `${one}s`) => `${count.toLocaleString()} ${count === 1 ? one : many}`;
const pictureOf = (thumbnail) => `data:image/jpeg;base64,${thumbnail}`;
const pictured = (thumbnail, alt) => thumbnail ? make("img", { src: pictureOf(thumbnail), alt, decoding: "async", draggable: false }) : make("span", { className: "note", textContent: "no thumbnail" });
// The end of a long path is what tells it from others: `.path` cuts off its beginning.
const pathLine = (path) => make("div", { className: "path", title: path }, make("bdi", { textContent: path }));

// Calls show(element) when it comes near the screen and hide(element) when it has gone: decoded
// pictures of a long page would fill the memory.
const whenNear = (show, hide) => new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) (isIntersecting ? show : hide)(target);
}, { rootMargin: "800px" });

function showFailures(failures, nameOf) {
  $("failures").hidden = !failures.length;
  $("failures").firstElementChild.textContent = `${failures.length.toLocaleString()} failed`;
  $("failed").replaceChildren(...failures.map((row) => make("tr", {}, ...[nameOf(row), row.error.type, row.error.message].map((t) => make("td", { textContent: t })))));
}

// The large view shows one item after the other. A page says which (`page.next(item, by)`), how
// one is shown (`page.show(item)`), which element gets the focus back (`page.cardOf(item)`), and
// what further keys do (`page.keys[key]()` in the large view). A card opens `card.item`.
const page = { next: () => null, show: () => {}, cardOf: () => null, keys: {} };
let current = null;
function open(item) {
  current = item;
  if (!$("view").open) $("view").showModal();
  page.show(item);
}
function step(by) {
  const next = page.next(current, by);
  if (next) open(next);
}
// Arrows move the focus between the cards that are there, by their places on the screen.
function move(key) {
  const cards = [...document.querySelectorAll("article")];
  const at = cards.indexOf(document.activeElement.closest("article"));
  if (at < 0 || key === "ArrowLeft" || key === "ArrowRight") return focusOn(cards[at < 0 ? 0 : at + (key === "ArrowLeft" ? -1 : 1)]);
  const from = cards[at].getBoundingClientRect(), down = key === "ArrowDown";
  let best = null, row = null;
  for (let i = at + (down ? 1 : -1); cards[i]; i += down ? 1 : -1) {
    const box = cards[i].getBoundingClientRect();
    if (Math.abs(box.top - from.top) < 2) continue;
    row ??= box.top;
    if (Math.abs(box.top - row) > 2) break;
    const off = Math.abs(box.left - from.left);
    if (!best || off < best.off) best = { off, card: cards[i] };
  }
  focusOn(best?.card);
}
function focusOn(card) {
  card?.focus({ preventScroll: true });
  card?.scrollIntoView({ block: "nearest" });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const { tagName, type } = document.activeElement;
  const typing = tagName === "SELECT" || (tagName === "INPUT" && type !== "checkbox");
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if ($("view").open) {
    if (typing) return;
    const act = by ? () => step(by) : page.keys[event.key];
    if (act) { event.preventDefault(); act(); }
  } else if (event.key === "/" && !typing) { event.preventDefault(); $("filter").focus(); }
  else if (event.key === "Escape" && typing) document.activeElement.blur();
  else if (event.key.startsWith("Arrow") && !typing) { event.preventDefault(); move(event.key); }
  else if (event.key === "Enter" && document.activeElement.item) { event.preventDefault(); open(document.activeElement.item); }
});
$("before").onclick = () => step(-1);
$("after").onclick = () => step(1);
$("close").onclick = () => $("view").close();
$("view").addEventListener("close", () => page.cardOf(current)?.focus());
