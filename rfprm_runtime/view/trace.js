"use strict";
// One trace as elements. All text of a trace is inserted as text, never as markup.

const MAX_BARS = 400; // more would be thinner than a pixel
const opened = { Response: false, "Other fields": false }; // kept from trace to trace

/** Where a score lies between the ends of the colours, from 0 to 1; as in tint.py. */
function place(score) {
  const [low, high] = data.scale;
  const width = high / 2 - low / 2;
  return width === 0 ? 0.5 : Math.min(1, Math.max(0, (score / 2 - low / 2) / width));
}
const distance = (score) => Math.abs(2 * place(score) - 1);
const color = (score, opacity) => `rgb(var(${place(score) < 0.5 ? "--low" : "--high"}) / ${opacity.toFixed(2)})`;
const tint = (score) => color(score, 0.42 * distance(score));
const solidTint = (score) => color(score, 0.25 + 0.75 * distance(score));
const three = (number) => (Math.abs(number) < 1e6 ? number.toFixed(3) : number.toExponential(3));
const grouped = (number) => number.toLocaleString("en");

/** An element; `style` is an object, and properties that start with "on" are listeners. */
function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "style") Object.assign(node.style, value);
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

/** Scores grouped into at most `most` parts, each with its lowest score. */
function parts(scores, most) {
  const size = Math.max(1, Math.ceil(scores.length / most));
  const found = [];
  for (let start = 0; start < scores.length; start += size) {
    let at = start;
    for (let i = start; i < Math.min(start + size, scores.length); i++) {
      if (scores[i] < scores[at]) at = i;
    }
    found.push({ step: at, score: scores[at] });
  }
  return found;
}

const isSelectedByAnother = (trace) => trace.selection_score !== null && Math.abs(trace.selection_score - trace.reward) > 1e-6;

function renderTrace(target, trace, moves) {
  target.replaceChildren(
    placeLine(trace, moves),
    figures(trace),
    element("p", { class: "asked", dir: "auto" }, trace.question),
    ...(trace.step_scores.length > 4 ? [profile(trace)] : []),
    ...windowNotice(trace),
    element("ol", { class: "steps", "aria-label": "Steps" }, ...trace.steps.map((text, index) => stepRow(text, index, trace.step_scores[index] ?? null, index === trace.first_error))),
    ...responseFold(trace),
    ...(trace.other_fields ? [fold("Other fields", "", element("pre", { class: "fields" }, trace.other_fields))] : []),
  );
  target.scrollTo({ top: 0, behavior: "instant" });
}

function placeLine(trace, moves) {
  const generation = trace.generation === null ? null : `generation ${trace.generation}`;
  const facts = [trace.fileName, generation, trace.source, trace.outcomeName];
  return element(
    "div",
    { class: "place" },
    element("h2", {}, `Row ${trace.row}`),
    element("p", {}, facts.filter(Boolean).join(" · ")),
    moves,
  );
}

function figures(trace) {
  const entry = (name, ...value) => element("div", {}, element("dt", {}, name), element("dd", {}, ...value));
  const lowest = stepButton(trace.lowestStep);
  return element(
    "dl",
    { class: "figures" },
    entry("reward", three(trace.reward)),
    trace.rank === null ? null : entry("rank", grouped(trace.rank)),
    isSelectedByAnother(trace) ? entry("selection score", three(trace.selection_score)) : null,
    trace.trajectory_score === null ? null : entry("trajectory", number(trace.trajectory_score)),
    trace.mean === null ? null : entry("mean step", number(trace.mean)),
    trace.lowest === null ? null : entry("lowest step", number(trace.lowest), " ", lowest),
    trace.error_sought ? entry("first error", ...errorPlace(trace)) : null,
    entry("steps", grouped(trace.steps.length)),
    entry("characters", grouped(trace.length)),
  );
}

const stepButton = (index) => element("button", { type: "button", onclick: () => showStep(index) }, `step ${index}`);

/** Where the trace goes wrong first, by the rule it was scored with. */
function errorPlace(trace) {
  return trace.first_error === null ? ["none found"] : [stepButton(trace.first_error)];
}

function number(score) {
  return element("span", { class: "number", style: { background: tint(score) } }, three(score));
}

function windowNotice(trace) {
  if (trace.windowed_from === null) return [];
  const text = `The trace is longer than the model's context: from step ${trace.windowed_from} on, steps were scored without their whole past.`;
  return [element("p", { class: "windowed" }, text)];
}

/** Bars of the step scores along the trace; clicking one shows its step. */
function profile(trace) {
  const bars = parts(trace.step_scores, MAX_BARS);
  const svg = svgElement("svg", {
    class: "profile",
    viewBox: `0 0 ${Math.max(bars.length, 12)} 1`,
    preserveAspectRatio: "none",
    role: "img",
    "aria-label": `Scores of ${trace.steps.length} steps, the lowest ${three(trace.lowest)} at step ${trace.lowestStep}`,
  });
  for (const height of [0, 0.5, 1]) {
    svg.append(svgElement("line", { x1: 0, x2: bars.length, y1: 1 - height, y2: 1 - height }));
  }
  const gap = bars.length > 120 ? 0 : 0.08;
  bars.forEach(({ step, score }, index) => {
    const height = Math.max(place(score), 0.01);
    const bar = svgElement("rect", { x: index + gap, y: 1 - height, width: 1 - 2 * gap, height });
    bar.style.fill = solidTint(score);
    bar.append(svgElement("title", {}, `step ${step}: ${three(score)}`));
    svg.append(bar);
  });
  svg.addEventListener("click", (event) => {
    const box = svg.getBoundingClientRect();
    const index = Math.floor(((event.clientX - box.left) / box.width) * Math.max(bars.length, 12));
    if (index < bars.length) showStep(bars[index].step);
  });
  return svg;
}

function svgElement(tag, attributes, text = "") {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(text);
  return node;
}

function stepRow(text, index, score, isFirstError) {
  const background = score === null ? {} : { backgroundImage: `linear-gradient(${tint(score)}, ${tint(score)})` };
  return element(
    "li",
    { class: isFirstError ? "step wrong" : "step", id: `step-${index}`, style: background },
    element("span", { class: "index", "aria-label": `step ${index}` }, String(index)),
    element("span", {}, ...(score === null ? [] : scoreAndBar(score))),
    element("p", { dir: "auto" }, text),
    isFirstError ? element("em", {}, "first error") : null,
  );
}

function scoreAndBar(score) {
  const bar = element("i", { class: "bar", style: { width: `${100 * place(score)}%`, background: solidTint(score) } });
  return [element("b", { "aria-label": `score ${three(score)}` }, three(score)), bar];
}

function responseFold(trace) {
  if (!trace.response.length) return [];
  const paragraphs = trace.response.map((text) => element("p", { class: "answer", dir: "auto" }, text));
  const hint = trace.trajectory_score === null ? "" : `trajectory ${three(trace.trajectory_score)}`;
  return [fold("Response", hint, ...paragraphs)];
}

function fold(name, hint, ...children) {
  const node = element("details", {}, element("summary", {}, name, element("span", {}, hint)), ...children);
  node.open = opened[name];
  node.addEventListener("toggle", () => { opened[name] = node.open; });
  return node;
}

function showStep(index) {
  const step = document.getElementById(`step-${index}`);
  if (step === null) return;
  document.querySelector(".step.found")?.classList.remove("found");
  step.classList.add("found");
  step.scrollIntoView({ block: "center", behavior: "instant" });
}
