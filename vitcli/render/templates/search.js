const queries = ones.filter((one) => !one.error);
const failures = ones.filter((one) => one.error);
for (const one of queries) one.results.forEach((result, place) => Object.assign(result, { one, place }));
const scoreOf = (result) => result.score.toFixed(4);

page.limit = () => Number($("limit").value);
page.heading = (one, data) => {
  const found = one.results.length;
  const about = [one.kind, found ? counted(found, "result") : "no result", ...(one.shown.length < found ? [`${one.shown.length} match the filter`] : [])];
  const words = make("div", {}, make("h2", { textContent: one.query, title: one.query }), make("p", { className: "note", textContent: about.join(" · ") }));
  return data.own ? [make("div", { className: "view" }, pictured(data.own, "")), words] : [words];
};
page.card = (result, thumbnail, ratio) => {
  const score = make("div", { className: "score" }, make("b", { textContent: scoreOf(result) }), make("span", { textContent: `#${result.place + 1}` }));
  const card = make("article", { tabIndex: 0, item: result, style: `--ratio:${ratio}`, onclick: () => open(result) }, make("div", { className: "view" }, pictured(thumbnail, "")), make("div", { className: "about" }, score, pathLine(result.path)));
  card.setAttribute("aria-label", `${result.place + 1}: ${result.path}`);
  return card;
};
page.show = (result) => {
  const data = parsed(result.one.script), facts = make("dl", { className: "facts" });
  const rank = `${result.place + 1} of ${result.one.results.length.toLocaleString()}`;
  for (const [name, value] of [["score", String(result.score)], ["rank", rank], ["row", result.row?.toLocaleString()], ["path", result.path]])
    if (value !== undefined) facts.append(make("dt", { textContent: name }), make("dd", { textContent: value }));
  $("large").replaceChildren(pictured(data.thumbnails[result.place], result.path));
  $("words").replaceChildren(make("div", { className: "heading" }, ...page.heading(result.one, data)), facts);
};
page.keys.ArrowDown = () => otherQuery(1);
page.keys.ArrowUp = () => otherQuery(-1);
function otherQuery(by) {
  const next = page.next(page.stops(current.one).at(by > 0 ? -1 : 0), by);
  if (next) open(next.one.shown[0]);
}

function update() {
  const words = $("filter").value.trim().toLowerCase();
  const matching = (result) => (result.text ??= result.path.toLowerCase()).includes(words);
  for (const one of queries) one.shown = (one.text ??= one.query.toLowerCase()).includes(words) ? one.results : one.results.filter(matching);
  lay(words ? queries.filter((one) => one.shown.length || one.text.includes(words)) : queries);
  showFailures(failures.filter((one) => `${one.query}\n${one.error.type}`.toLowerCase().includes(words)), (one) => one.query);
  const all = counted(queries.length, "query", "queries");
  $("count").textContent = (words ? `${shown.length.toLocaleString()} of ${all}` : all) + (failures.length ? `, ${failures.length.toLocaleString()} failed` : "");
}
$("filter").oninput = $("limit").onchange = update;
update();
