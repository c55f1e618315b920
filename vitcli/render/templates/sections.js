// A page of sections. Each `one` of them has a heading and the cards of its items; `one.script`
// holds its thumbnails, `one.shown` the items that pass the filter, and each item `one` and `place`,
// where it is. A page says how a one is headed (`page.heading(one, data)`), how an
// item is drawn (`page.card(item, thumbnail, ratio)`), and at which items the arrows stop (`page.stops`).
const ones = [...document.querySelectorAll("script.one")].map((script) => ({ ...parsed(script), script: script.nextElementSibling }));
let shown = [];
page.stops = (one) => one.shown;
page.limit = () => 24;

function sectionOf(one) {
  const more = make("button", { type: "button", className: "more", onclick: () => { one.isWhole = true; fill(one.section); } });
  return make("section", { one, className: "one" }, make("div", { className: "heading" }), make("div", { className: "cards" }), more);
}
function fill(section) {
  const { one } = section, data = parsed(one.script), [heading, cards, more] = section.children;
  const items = one.isWhole ? one.shown : one.shown.slice(0, page.limit());
  heading.replaceChildren(...page.heading(one, data));
  cards.replaceChildren(...items.map((item) => (item.card = page.card(item, data.thumbnails[item.place], data.ratios?.[item.place]))));
  more.hidden = items.length === one.shown.length;
  more.textContent = `show all ${one.shown.length.toLocaleString()}`;
  section.style.minHeight = "";
}
function clear(section) {
  if (section.children[1].firstChild) section.style.minHeight = `${section.offsetHeight}px`;
  for (const part of [...section.children].slice(0, 2)) part.replaceChildren();
  for (const item of section.one.shown) delete item.card;
}
const seen = whenNear(fill, clear);

function lay(list) {
  seen.disconnect();
  shown.forEach((one) => clear(one.section));
  shown = list;
  shown.forEach((one, at) => { one.at = at; one.section ??= sectionOf(one); });
  $("sections").replaceChildren(...shown.map((one) => one.section), $("empty"));
  shown.forEach((one) => seen.observe(one.section));
  $("empty").hidden = shown.length > 0;
}

page.next = (item, by) => {
  const stops = page.stops(item.one), next = stops[stops.indexOf(item) + by];
  if (next) return next;
  for (let at = item.one.at + by; shown[at]; at += by) {
    const there = page.stops(shown[at]);
    if (there.length) return there.at(by > 0 ? 0 : -1);
  }
};
page.cardOf = (item) => {
  if (!item.card?.isConnected) item.one.section.scrollIntoView({ block: "nearest" });
  return item.card;
};
