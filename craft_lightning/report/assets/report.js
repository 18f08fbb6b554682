const panel = document.getElementById("panel");
const body = document.getElementById("panel-body");

function table(header, rows) {
  const head = make("tr", {}, ...header.map((text) => make("th", { scope: "col" }, text)));
  const lines = rows.map(([name, ...texts]) =>
    make("tr", {}, make("th", { scope: "row" }, name), ...texts.map((text) => make("td", {}, text))));
  return make("div", { class: "wide" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...lines)));
}

function reply(example, [text, right]) {
  const place = text.length === 1 ? text.toUpperCase().charCodeAt(0) - 65 : -1;
  const said = example.options[place] === undefined ? text || "(nothing)" : `${text} ${example.options[place]}`;
  return make("span", { class: right ? "good" : "bad" }, `${said} ${right ? "✓" : "✗"} `);
}

function example(item, number, cell) {
  const box = make("article", { class: "example" });
  if (item.picture !== null) box.append(make("img", { src: data.pictures[item.picture], alt: "The picture of this question" }));
  box.append(make("p", {}, item.question));
  const options = item.options.map((text, place) =>
    make("li", String.fromCharCode(65 + place) === item.answer ? { class: "right" } : {}, text));
  if (options.length) box.append(make("ol", {}, ...options));
  else box.append(make("p", {}, "Answer: ", make("span", { class: "right" }, item.answer)));
  if (!item.seen) box.append(make("p", {}, make("span", { class: "tag" }, "unseen label")));
  const answers = make("dl");
  for (const [name, replies] of cell.replies) {
    if (replies[number]) answers.append(make("dt", {}, name), make("dd", {}, ...replies[number].map((r) => reply(item, r))));
  }
  box.append(answers);
  return box;
}

function show(key) {
  const cell = data.cells[key];
  const items = data.examples[cell.column] || [];
  document.getElementById("panel-title").textContent = cell.title;
  body.replaceChildren(make("h3", {}, cell.metric === "Exact match" ? "Accuracy" : cell.metric), table(cell.header, cell.rows));
  if (cell.parts.length) body.append(make("h3", {}, "By the set adapted to"), table(["Set", cell.metric], cell.parts));
  else body.append(make("h3", {}, "Learning curves"), ...curves(cell));
  if (items.length) {
    body.append(make("h3", {}, `${items.length} of the test items`));
    body.append(make("p", { class: "hint" }, "Chosen evenly over the test set, the same for every method; replies of each seed in turn."));
    body.append(make("div", { class: "examples" }, ...items.map((item, number) => example(item, number, cell))));
  }
  panel.showModal();
  panel.scrollTop = 0;
}

for (const button of document.querySelectorAll("button.cell")) button.addEventListener("click", () => show(button.dataset.cell));
document.getElementById("close").addEventListener("click", () => panel.close());
panel.addEventListener("click", (event) => { if (event.target === panel) panel.close(); });

/* Arrow keys walk over the cells. */
document.getElementById("accuracy").addEventListener("keydown", (event) => {
  const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  if (!moves[event.key] || !event.target.dataset.cell) return;
  const rows = [...document.querySelectorAll("#accuracy tr")].map((row) => [...row.querySelectorAll("button.cell")]).filter((row) => row.length);
  const row = rows.findIndex((cells) => cells.includes(event.target));
  const [down, right] = moves[event.key];
  const next = rows[row + down] && rows[row + down][rows[row].indexOf(event.target) + right];
  if (next) next.focus();
  event.preventDefault();
});
