"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
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

/* One small plot of a scalar over the steps; a line for each run. */
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
    const texts = runs.filter((run) => run.points[name]).map((run) => `${short(run.points[name][0][1])} (${run.name})`);
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
    seeds.append(make("span", {}, bar, ` ${run.name}`));
  });
  return [seeds, make("div", { class: "curves" }, ...names.map((name) => plot(name, cell.curves)))];
}
