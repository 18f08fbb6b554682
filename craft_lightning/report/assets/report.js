"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const panel = document.getElementById("panel");
const body = document.getElementById("panel-body");
const COLOURS = ["#0b5f6b", "#c2571a", "#5b4bb3", "#8a6d00", "#a3195b"];
const SVG = "http://www.w3.org/2000/svg";

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function draw(tag, attributes, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

function table(header, rows) {
  const head = make("tr", {}, ...header.map((text) => make("th", { scope: "col" }, text)));
  const lines = rows.map(([name, ...texts]) =>
    make("tr", {}, make("th", { scope: "row" }, name), ...texts.map((text) => make("td", {}, text))));
  return make("div", { class: "wide" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...lines)));
}

/* One small plot of a scalar over the steps; a line for each seed. */
function plot(name, runs) {
  const [width, height, left, bottom, top] = [260, 130, 42, 18, 8];
  const points = runs.flatMap((run) => run.points[name] || []);
  const [steps, values] = [points.map((p) => p[0]), points.map((p) => p[1])];
  const [lowStep, highStep] = [Math.min(...steps), Math.max(...steps)];
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const x = (s) => left + ((s - lowStep) / (highStep - lowStep || 1)) * (width - left - 6);
  const y = (v) => height - bottom - ((v - low) / (high - low || 1)) * (height - bottom - top);
  const short = (v) => (Math.abs(v) >= 100 ? v.toFixed(0) : v.toPrecision(3));
  if (lowStep === highStep) {
    const texts = runs.filter((run) => run.points[name]).map((run) => `${short(run.points[name][0][1])} (seed ${run.seed})`);
    return make("figure", {}, make("figcaption", {}, name), make("p", {}, `${texts.join(", ")} at step ${lowStep}`));
  }
  const label = `${name}: from ${short(low)} to ${short(high)} over steps ${lowStep} to ${highStep}`;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  svg.append(draw("path", { d: `M${left} ${top}V${height - bottom}H${width - 6}`, fill: "none", stroke: "#aab3bd" }));
  svg.append(draw("text", { x: left - 4, y: top + 8, "text-anchor": "end" }, short(high)));
  svg.append(draw("text", { x: left - 4, y: height - bottom, "text-anchor": "end" }, short(low)));
  svg.append(draw("text", { x: left, y: height - 5 }, `step ${lowStep}`));
  svg.append(draw("text", { x: width - 6, y: height - 5, "text-anchor": "end" }, String(highStep)));
  runs.forEach((run, number) => {
    const line = (run.points[name] || []).map(([s, v]) => `${x(s).toFixed(1)},${y(v).toFixed(1)}`);
    const colour = COLOURS[number % COLOURS.length];
    svg.append(draw("polyline", { points: line.join(" "), fill: "none", stroke: colour, "stroke-width": 1.5 }));
  });
  return make("figure", {}, make("figcaption", {}, name), svg);
}

function curves(cell) {
  if (!cell.curves.length) return [make("p", { class: "hint" }, cell.trained ? "No curves were kept." : "Nothing was trained.")];
  const names = [...new Set(cell.curves.flatMap((run) => Object.keys(run.points)))];
  const seeds = make("p", { class: "seeds" });
  cell.curves.forEach((run, number) => {
    const bar = draw("svg", { width: 16, height: 8, "aria-hidden": "true" });
    bar.append(draw("rect", { y: 2, width: 16, height: 3, fill: COLOURS[number % COLOURS.length] }));
    seeds.append(make("span", {}, bar, ` seed ${run.seed}`));
  });
  return [seeds, make("div", { class: "curves" }, ...names.map((name) => plot(name, cell.curves)))];
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
  body.replaceChildren(make("h3", {}, "Accuracy"), table(cell.header, cell.rows));
  if (cell.parts.length) body.append(make("h3", {}, "By the set adapted to"), table(["Set", "Exact match"], cell.parts));
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
