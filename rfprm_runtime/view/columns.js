// The page's traces, and the columns of the list.

const byId = (id) => document.getElementById(id);
const MAX_STRIP_CELLS = 60;

const data = JSON.parse(byId("data").textContent);
byId("data").remove();
data.traces.forEach(addDerived);

const manyFiles = data.files.length > 1;
const manySources = new Set(data.traces.map((trace) => trace.source)).size > 1;
const outcomesKnown = data.traces.some((trace) => trace.outcome !== null);
// Traces selected by the reward itself need no second column for it.
const selectedByAnother = data.traces.some(isSelectedByAnother);
const ranked = data.traces.some((trace) => trace.rank !== null);
const stepsScored = data.traces.some((trace) => trace.step_scores.length > 0);
const errorsSought = data.traces.some((trace) => trace.error_sought);
byId("errors").hidden = !errorsSought;
const longest = Math.max(...data.scale.map((end) => three(end).length)); // characters of a score
const forScores = (width) => width + 8 * Math.max(0, longest - 5); // pixels
const ROW = { key: "row", label: "Row", width: 74 };
const COLUMNS = [
  ...(ranked ? [{ key: "rank", label: "Rank", width: 80, cell: (trace) => (trace.rank === null ? "" : grouped(trace.rank)) }] : [ROW]),
  { key: "question", label: "Question", cell: questionCell },
  { key: "reward", label: "Reward", width: 74, cell: (trace) => three(trace.reward), highFirst: true },
  ...(selectedByAnother ? [{ key: "selection_score", label: "Selection", width: 82, cell: (trace) => (trace.selection_score === null ? "" : three(trace.selection_score)), highFirst: true }] : []),
  { key: "trajectory_score", label: "Trajectory", width: Math.max(86, forScores(66)), cell: (trace) => scoreCell(trace.trajectory_score), highFirst: true },
  ...(stepsScored ? [{ key: "lowest", label: "Lowest", width: forScores(72), cell: (trace) => scoreCell(trace.lowest) }] : []),
  ...(errorsSought ? [{ key: "first_error", label: "Error", width: 68, cell: errorCell }] : []),
  { key: "num_steps", label: "Steps", width: 60, cell: (trace) => grouped(trace.num_steps), highFirst: true },
  { key: "length", label: "Length", width: 74, cell: (trace) => grouped(trace.length), highFirst: true },
  ...(ranked ? [ROW] : []),
  ...(outcomesKnown ? [{ key: "outcome", label: "Outcome", width: 76, cell: (trace) => trace.outcomeName }] : []),
  ...(manySources ? [{ key: "source", label: "Source", width: 118 }] : []),
  ...(manyFiles ? [{ key: "fileName", label: "File", width: 118, style: "file" }] : []),
];
// Columns make room for the question in this order; the sort column stays if possible.
const GIVE_WAY = ["length", "source", ...(ranked ? ["row"] : []), "num_steps", "first_error", "fileName", "row", "rank", "trajectory_score", "selection_score", "lowest"];
const QUESTION_WIDTH = 200, NARROW_QUESTION_WIDTH = 150; // pixels, at least
const LAST_COLUMN_PADDING = 12; // as in page.css: extra padding of the last column

const RANGES = { reward: "Reward", trajectory_score: "Trajectory", ...(stepsScored ? { lowest: "Lowest step" } : {}), ...(selectedByAnother ? { selection_score: "Selection" } : {}) };

function addDerived(trace, index) {
  const scores = trace.step_scores;
  trace.position = index;
  // A reward model of whole sequences gives no step scores.
  trace.lowestStep = scores.length ? scores.reduce((best, score, i) => (score < scores[best] ? i : best), 0) : null;
  trace.lowest = scores.length ? scores[trace.lowestStep] : null;
  trace.mean = scores.length ? scores.reduce((sum, score) => sum + score / scores.length, 0) : null;
  trace.num_steps = trace.steps.length;
  trace.length = [...trace.steps, ...trace.response].reduce((sum, text) => sum + text.length, 0);
  trace.fileName = data.files.length > 1 ? data.files[trace.file] : null;
  trace.outcomeName = outcomeName(trace.outcome);
  trace.link = data.files.length > 1 ? `${data.files[trace.file]}:${trace.row}` : String(trace.row);
}

/** The name of an outcome, which may also be a share of right answers. */
function outcomeName(outcome) {
  if (outcome === null) return "";
  if (Number(outcome) === 0) return "wrong";
  return Number(outcome) === 1 ? "right" : outcome.toFixed(2);
}

/** The columns that fit into a list of `width` pixels sorted by `sortedBy`. */
function columnsThatFit(width, sortedBy) {
  const question = width < 500 ? NARROW_QUESTION_WIDTH : QUESTION_WIDTH;
  let fitting = COLUMNS;
  for (const key of GIVE_WAY) {
    if (fitting.reduce((sum, column) => sum + (column.width ?? question), LAST_COLUMN_PADDING) <= width) break;
    fitting = fitting.filter((column) => column.key !== key || (column === sortedBy && key !== "row" && key !== "rank"));
  }
  return fitting;
}

function questionCell(trace) {
  const cells = parts(trace.step_scores, MAX_STRIP_CELLS).map(({ score }) => element("i", { style: { background: solidTint(score) } }));
  return element("div", {}, element("span", { dir: "auto" }, trace.question.slice(0, 200)), element("div", { class: "strip", "aria-hidden": "true" }, ...cells));
}

/** The step of the first error; a dash where none was found, nothing where none was sought. */
function errorCell(trace) {
  if (!trace.error_sought) return "";
  return trace.first_error === null ? "–" : `step ${trace.first_error}`;
}

function scoreCell(score) {
  return score === null ? "" : number(score);
}
