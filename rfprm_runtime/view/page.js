// The list of traces: sorting, filtering, drawing the visible rows, and selecting a trace.

const ROW_HEIGHT = 48 + 1; // as in page.css, plus the line below
const EXTRA_ROWS = 8; // drawn above and below the visible rows

const narrow = matchMedia("(max-width: 860px)");
let order = { column: COLUMNS[0], descending: false };
let columns = COLUMNS; // the columns that fit
let shown = []; // the traces that match the filters, in order
let selected = null;

// Sorting and filtering

const collator = new Intl.Collator();

function compare(left, right) {
  const [a, b] = [left[order.column.key], right[order.column.key]];
  if (a === b) return left.position - right.position;
  if (a === null) return 1; // traces without a value come last in either order
  if (b === null) return -1;
  const sign = typeof a === "string" ? collator.compare(a, b) : a - b;
  return (order.descending ? -sign : sign) || left.position - right.position;
}

/** A predicate on traces, from the fields of the filter form. */
function currentFilter() {
  const words = byId("text").value.toLowerCase().trim();
  const of = byId("range-of").value;
  const bound = (id, otherwise) => (byId(id).value === "" ? otherwise : Number(byId(id).value));
  const [from, to] = [bound("from", -Infinity), bound("to", Infinity)];
  const outcome = byId("outcome").value;
  const anyValue = from === -Infinity && to === Infinity;
  return (trace) =>
    (anyValue || (trace[of] !== null && trace[of] >= from && trace[of] <= to)) &&
    (outcome === "" || outcome === outcomeGroup(trace)) &&
    (words === "" || textOf(trace).includes(words));
}

function outcomeGroup({ outcomeName }) {
  if (outcomeName === "") return "unknown";
  return ["right", "wrong"].includes(outcomeName) ? outcomeName : "partly";
}

function textOf(trace) {
  trace.text ??= [trace.question, ...trace.steps, ...trace.response, trace.source ?? "", trace.fileName ?? ""].join("\n").toLowerCase();
  return trace.text;
}

function applyFilter() {
  shown = data.traces.filter(currentFilter()).sort(compare);
  const all = grouped(data.traces.length);
  const filtered = shown.length < data.traces.length;
  byId("count").value = filtered ? `${grouped(shown.length)} of ${all} traces` : `${all} ${data.traces.length === 1 ? "trace" : "traces"}`;
  byId("reset").hidden = ["text", "from", "to", "outcome"].every((id) => byId(id).value === "");
  byId("none").hidden = shown.length > 0;
  byId("grid").setAttribute("aria-rowcount", shown.length + 1);
  byId("scroll").scrollTop = 0;
  drawRows();
  updateMoves();
}

function sortBy(column, descending = Boolean(column.highFirst)) {
  order = { column, descending };
  byId("sort").value = COLUMNS.indexOf(column);
  byId("direction").textContent = descending ? "↓" : "↑";
  drawHeadings();
  applyFilter();
}

// Drawing the list

function drawHeadings() {
  columns = columnsThatFit(byId("scroll").clientWidth, order.column);
  document.querySelector(".sorting").hidden = columns.length === COLUMNS.length;
  byId("headings").replaceChildren(...columns.map((column, index) => {
    const sorted = order.column === column ? (order.descending ? "descending" : "ascending") : null;
    const sortByThis = () => (sorted === null ? sortBy(column) : sortBy(column, !order.descending));
    const button = element("button", { type: "button", onclick: sortByThis }, column.label);
    const isLast = index === columns.length - 1;
    const style = column.width ? { width: `${column.width + (isLast ? LAST_COLUMN_PADDING : 0)}px` } : {};
    return element("th", { scope: "col", class: column.style ?? column.key, "aria-sort": sorted, style }, button);
  }));
}

function drawRows() {
  const scroll = byId("scroll");
  const first = Math.max(0, Math.floor(scroll.scrollTop / ROW_HEIGHT) - EXTRA_ROWS);
  const last = Math.min(shown.length, first + Math.ceil(scroll.clientHeight / ROW_HEIGHT) + 2 * EXTRA_ROWS);
  const rows = shown.slice(first, last).map((trace, index) => drawRow(trace, first + index));
  byId("rows").replaceChildren(gapRow(first), ...rows, gapRow(shown.length - last));
  markSelected();
}

function gapRow(count) {
  const cell = element("td", { colspan: columns.length, style: { height: `${count * ROW_HEIGHT}px` } });
  return element("tr", { class: "gap", "aria-hidden": "true" }, cell);
}

function drawRow(trace, index) {
  const cells = columns.map((column) =>
    element("td", { class: column.style ?? column.key }, column.cell ? column.cell(trace) : String(trace[column.key] ?? "")));
  const row = element("tr", { id: `trace-${trace.position}`, "aria-rowindex": index + 2 }, ...cells);
  row.addEventListener("click", () => select(trace, { open: true }));
  return row;
}

function markSelected() {
  for (const row of byId("rows").children) {
    row.setAttribute("aria-selected", selected !== null && row.id === `trace-${selected.position}`);
  }
  const drawn = selected !== null && byId(`trace-${selected.position}`) !== null;
  if (drawn) byId("grid").setAttribute("aria-activedescendant", `trace-${selected.position}`);
  else byId("grid").removeAttribute("aria-activedescendant");
}

// Selecting a trace

const moveButton = (label, title, listener, style = null) => element("button", { type: "button", title, class: style, "aria-label": title, onclick: listener }, label);
const previous = moveButton("↑", "Previous trace (k)", () => move(-1));
const next = moveButton("↓", "Next trace (j)", () => move(1));
const moves = element("div", { class: "moves" }, moveButton("← All traces", "All traces", close, "back"), previous, next);

function select(trace, { open = false, link = true } = {}) {
  selected = trace;
  renderTrace(byId("trace"), trace, moves);
  markSelected();
  updateMoves();
  if (link) {
    const address = `#${encodeURIComponent(trace.link)}`;
    if (open && narrow.matches && document.body.dataset.pane === "list") {
      // In a narrow window the list is a page of its own, without a name, and "back" returns to it.
      history.replaceState(null, "", "#");
      history.pushState("opened here", "", address);
    } else history.replaceState(history.state, "", address);
  }
  if (open) document.body.dataset.pane = "trace";
}

/** Return to the list. If the page was opened at the trace, the history holds no list to go back to. */
function close() {
  if (history.state === "opened here") history.back();
  else {
    history.replaceState(null, "", "#");
    followLink();
  }
}

function updateMoves() {
  const at = shown.indexOf(selected);
  previous.disabled = at <= 0;
  next.disabled = at === shown.length - 1;
}

function move(by) {
  if (!shown.length) return;
  const at = shown.indexOf(selected);
  const index = at === -1 ? 0 : Math.min(Math.max(at + by, 0), shown.length - 1);
  select(shown[index]);
  bringIntoView(index);
}

function bringIntoView(index) {
  const scroll = byId("scroll");
  const headings = byId("headings").offsetHeight;
  const top = index * ROW_HEIGHT, bottom = top + ROW_HEIGHT - (scroll.clientHeight - headings);
  if (scroll.scrollTop > top) scroll.scrollTop = top;
  else if (scroll.scrollTop < bottom) scroll.scrollTop = bottom;
}

/** Select the trace that the address names; without a name, show the list. */
function followLink() {
  let name = location.hash.slice(1);
  try {
    name = decodeURIComponent(name);
  } catch {
    // a stray % sign: use the name as is
  }
  const trace = data.traces.find((candidate) => candidate.link === name);
  if (trace !== undefined) {
    select(trace, { open: true, link: false });
    bringIntoView(shown.indexOf(trace));
  } else {
    document.body.dataset.pane = "list";
    if (byId("trace").contains(document.activeElement)) byId("grid").focus({ preventScroll: true });
    if (selected !== null && shown.includes(selected)) bringIntoView(shown.indexOf(selected));
    if (selected === null) select(shown[0], { link: false });
  }
}

const KEYS = {
  j: () => move(1),
  k: () => move(-1),
  l: () => selected !== null && selected.lowestStep !== null && showStep(selected.lowestStep),
  e: () => selected !== null && selected.first_error !== null && showStep(selected.first_error),
  "/": () => byId("text").focus(),
  Escape: () => narrow.matches ? document.body.dataset.pane === "trace" && close() : byId("grid").focus(),
};
const LIST_KEYS = { ArrowDown: KEYS.j, ArrowUp: KEYS.k, Home: () => move(-Infinity), End: () => move(Infinity) };

/** Move the focus to the trace, where the arrow keys scroll. */
function openSelected() {
  if (selected === null) return;
  select(selected, { open: true });
  byId("trace").focus();
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, select")) {
    if (event.key === "Escape") byId("grid").focus({ preventScroll: true });
    return;
  }
  if (event.key === "Enter" && event.target === byId("grid")) return openSelected();
  // In the trace itself the arrow keys scroll, as they do everywhere.
  const inTrace = event.target.closest("#trace") !== null;
  const action = KEYS[event.key] ?? (inTrace ? undefined : LIST_KEYS[event.key]);
  if (action === undefined) return;
  event.preventDefault();
  action();
}

// Start

function drawNotices() {
  const notes = data.notes.map((note) => element("p", { class: "notice" }, note));
  if (data.num_bad_rows) {
    const items = data.bad_rows.map(({ place, reason }) => element("li", {}, element("b", {}, place), reason));
    const more = data.num_bad_rows - data.bad_rows.length;
    if (more) items.push(element("li", {}, `and ${grouped(more)} more`));
    const title = data.num_bad_rows === 1 ? "1 row cannot be shown" : `${grouped(data.num_bad_rows)} rows cannot be shown`;
    notes.push(element("details", { class: "notice" }, element("summary", {}, title), element("ul", {}, ...items)));
  }
  byId("notices").replaceChildren(...notes);
}

function begin() {
  for (const [key, label] of Object.entries(RANGES)) byId("range-of").append(element("option", { value: key }, label));
  COLUMNS.forEach(({ label }, index) => byId("sort").append(element("option", { value: index }, label)));
  if (longest > 5) byId("trace").style.setProperty("--score-width", `${longest}ch`);
  const groups = new Set(data.traces.map(outcomeGroup));
  for (const option of [...byId("outcome").options]) if (option.value !== "" && !groups.has(option.value)) option.remove();
  byId("outcome").hidden = !outcomesKnown;
  byId("direction").addEventListener("click", () => sortBy(order.column, !order.descending));
  drawNotices();
  drawHeadings();
  applyFilter();
  followLink();
  byId("sort").addEventListener("input", (event) => {
    event.stopPropagation(); // not part of the filter
    sortBy(COLUMNS[byId("sort").value]);
  });
  byId("filters").addEventListener("input", applyFilter);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("reset", () => setTimeout(() => sortBy(order.column, order.descending))); // after the fields are cleared
  let waiting = false;
  byId("scroll").addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; drawRows(); });
  });
  new ResizeObserver(() => {
    if (byId("scroll").clientWidth === 0) return; // hidden behind the trace in a narrow window
    drawHeadings();
    drawRows();
  }).observe(byId("scroll"));
  addEventListener("popstate", followLink);
  addEventListener("keydown", onKey);
}

begin();
