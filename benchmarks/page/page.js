// Sorts, filters, draws charts when they come into view, and shows runs and samples.
"use strict";

const at = (id) => document.getElementById(id);
const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
const DATA = JSON.parse(at("data").textContent);

function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text; // never as HTML: models write tags too
  if (className) made.className = className;
  return made;
}

function figures(value) {
  return value === null || value === undefined ? "–" : String(value);
}

// ---- task, highlight, theme: what the whole page shows

const isDark = () => {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};

function showTask() {
  const task = at("task").value;
  for (const part of all("[data-task]")) part.hidden = part.dataset.task !== task;
  for (const section of all("section.charts")) {
    const some = all("figure", section).some((figure) => !figure.hidden);
    section.querySelector(".nothing").hidden = some;
  }
  filterRows();
  showSamples();
}

function showFocus() {
  const agent = at("focus").value;
  for (const row of all("tr[data-agent]")) {
    row.classList.toggle("lit", agent !== "" && row.dataset.agent === agent);
  }
  for (const view of views.values()) setFocus(view, agent);
}

function showTheme() {
  at("theme").textContent = isDark() ? "light" : "dark";
  at("theme").setAttribute("aria-pressed", String(isDark()));
  for (const chart of [...views.keys()]) draw(chart);
}

// ---- leaderboard

function keyOf(row, key) {
  if (key === "rank") return row.dataset.rank === "" ? null : Number(row.dataset.rank);
  if (key === "seeds") return Number(row.dataset.seeds);
  if (key === "agent") return row.dataset.agent.toLowerCase();
  const value = row.cells[Number(key) + 3].dataset.value;
  return value === "" ? null : Number(value);
}

function sortBy(head) {
  const first = head.dataset.first || "ascending";
  const turned = { ascending: "descending", descending: "ascending" };
  const now = head.getAttribute("aria-sort");
  const order = now ? turned[now] : first;
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  const body = head.closest("table").tBodies[0];
  const sign = order === "ascending" ? 1 : -1;
  const keyed = [...body.rows].map((row) => ({ row, key: keyOf(row, head.dataset.key) }));
  keyed.sort((a, b) => {
    if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
    if (a.key === b.key) return a.row.dataset.place - b.row.dataset.place;
    return sign * (a.key < b.key ? -1 : 1);
  });
  body.append(...keyed.map(({ row }) => row));
}

function filterRows() {
  const text = at("agent-filter").value.trim().toLowerCase();
  const least = Number(at("seed-filter").value) || 0;
  const board = all(".board").find((one) => !one.hidden);
  const rows = board ? all("tbody tr", board) : [];
  for (const row of rows) {
    const named = row.dataset.agent.toLowerCase().includes(text);
    row.hidden = !named || Number(row.dataset.seeds) < least;
  }
  const left = rows.filter((row) => !row.hidden).length;
  at("shown").textContent = left < rows.length ? `${left} of ${rows.length} agents` : "";
}

function showRuns(button) {
  const task = button.closest(".board").dataset.task;
  const agent = button.closest("tr").dataset.agent;
  const metric = button.dataset.metric;
  const { anchor, title } = DATA.definitions[metric];
  at("runs-title").textContent = `${task}, ${agent}: ${title}`;
  const link = element("a", `What is ${title}?`);
  link.href = `#${anchor}`;
  link.addEventListener("click", () => at("runs").close());
  at("runs-definition").replaceChildren(link);
  const runs = (DATA.runs[task] || {})[agent] || [];
  at("runs-table").replaceChildren(...runTable(runs, metric));
  at("runs-notes").replaceChildren(...runNotes(runs));
  at("runs").showModal();
}

function runTable(runs, metric) {
  const done = runs.filter((run) => !run.failure);
  if (!done.length) return [];
  const head = element("tr");
  head.append(...["seed", "value", "95% interval", "time", "commit", "files"].map((name) => {
    const cell = element("th", name);
    cell.scope = "col";
    return cell;
  }));
  return [head, ...done.map((run) => runRow(run, metric))];
}

function runRow(run, metric) {
  const [value, low, high] = run.metrics[metric] || [];
  const row = element("tr");
  const ends = low === null || low === undefined ? "–" : `${low} to ${high}`;
  const seconds = run.seconds === null ? "–" : `${run.seconds} s`;
  const commit = run.commit ? run.commit.slice(0, 10) + (run.commit.endsWith("+") ? "+" : "") : "–";
  const cells = [String(run.seed), figures(value), ends, seconds, commit];
  row.append(...cells.map((text) => element("td", text)));
  const files = element("td");
  const link = element("a", run.folder);
  link.href = `${DATA.folder}/${run.folder.split("/").map(encodeURIComponent).join("/")}/`;
  files.append(link);
  row.append(files);
  return row;
}

function runNotes(runs) {
  const notes = [];
  if (!runs.length) notes.push(element("p", "This row sums up the tasks: its runs are theirs."));
  for (const run of runs) {
    if (run.failure) notes.push(element("p", run.failure, "warning"));
    for (const line of run.health || []) {
      notes.push(element("p", `Seed ${run.seed}, ${line}`, "warning"));
    }
  }
  const command = runs.map((run) => run.command).find(Boolean);
  if (command) notes.push(element("p", "Repeat these runs with"), element("pre", command));
  return notes;
}

// ---- charts

const views = new Map(); // the drawn charts
const NARROW = 480; // pixels below which a legend has two columns
const figureOf = (chart) => chart.closest("figure");

function specOf(chart) {
  const { task, section } = figureOf(chart).dataset;
  const figure = DATA.figures.find((one) => one.task === task && one.section === section);
  const chosen = figureOf(chart).querySelector(".variant");
  return figure.variants[chosen ? chosen.selectedIndex : 0];
}

// Colours that follow the page stand in the specification by name.
function recolour(value, names) {
  if (Array.isArray(value)) return value.map((item) => recolour(item, names));
  if (value === null || typeof value !== "object") return names[value] || value;
  const keep = (key) => key === "datasets" || key === "values" || key === "domain" || key === "sort";
  return Object.fromEntries(
    Object.entries(value).map(([k, v]) => [k, keep(k) ? v : recolour(v, names)]),
  );
}

function fitted(spec, width) {
  if (!spec.facet) return { ...spec, width: "container", autosize: { type: "fit-x", contains: "padding" } };
  const columns = Math.max(1, Math.floor(width / 200));
  const inner = Math.max(90, Math.floor(width / columns) - 55);
  return { ...spec, columns, spec: { ...spec.spec, width: inner } };
}

async function draw(chart) {
  const turn = (chart.turn = (chart.turn || 0) + 1);
  const { spec, file } = specOf(chart);
  const { config, colours } = DATA.themes[isDark() ? "dark" : "light"];
  const width = chart.clientWidth;
  const made = fitted(recolour(spec, colours), width);
  if (width < NARROW) {
    made.config = { ...config, legend: { ...config.legend, columns: 2 }, axisY: { labelLimit: 100 } };
  } else {
    made.config = config;
  }
  const png = figureOf(chart).querySelector(".png");
  png.hidden = !file;
  if (file) png.href = file;
  views.set(chart, null);
  const embedded = await vegaEmbed(chart, made, { mode: "vega-lite", actions: false, renderer: "svg" });
  if (turn !== chart.turn) return embedded.finalize();
  views.set(chart, embedded.view);
  setFocus(embedded.view, at("focus").value);
  embedded.view.addEventListener("click", (_, item) => {
    const agent = item && item.datum && item.datum.agent;
    if (!all("option", at("focus")).some((option) => option.value === agent)) return;
    at("focus").value = at("focus").value === agent ? "" : agent;
    showFocus();
  });
  embedded.view.addEventListener("mouseover", (_, item) => {
    if (at("focus").value === "") setFocus(embedded.view, (item && item.datum && item.datum.agent) || "");
  });
  embedded.view.addEventListener("mouseout", () => setFocus(embedded.view, at("focus").value));
}

function setFocus(view, agent) {
  if (!view || view.signal("focus") === agent) return;
  view.signal("focus", agent).runAsync();
}

const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting && !views.has(target)) draw(target);
  }
}, { rootMargin: "400px" });

// ---- samples

const COLUMNS = 4;
const RANGE = { difference: 3, policy: 6, reference: 6 }; // nats at which a colour is full
const BLUE = "0, 114, 178";
const ORANGE = "230, 159, 0";
let shown = null; // the samples of the task that is shown

function showSamples() {
  shown = DATA.samples.find((one) => one.task === at("task").value) || null;
  const there = shown !== null && shown.agents !== undefined;
  at("browser").hidden = !there;
  at("samples-note").textContent = shown ? shown.note : "Choose one task to see samples.";
  if (!there) return;
  const names = Object.keys(shown.agents);
  at("agents").replaceChildren(...names.map((name) => {
    const option = element("option");
    option.value = name;
    return option;
  }));
  all("#columns input").forEach((input, i) => {
    if (!names.includes(input.value)) input.value = names[i] || "";
    input.dataset.last = input.value;
  });
  at("prompt").replaceChildren(...shown.prompts.map((prompt, i) => {
    const option = element("option", `${i + 1}: ${prompt.trim().slice(0, 50)}`);
    option.value = String(i);
    return option;
  }));
  showAnswers();
}

function showAnswers() {
  const index = Number(at("prompt").value);
  at("asked").textContent = shown.prompts[index];
  at("previous").disabled = index === 0;
  at("next").disabled = index === shown.prompts.length - 1;
  const by = at("colour").value;
  const names = all("#columns input").map((input) => input.value).filter((n) => shown.agents[n]);
  at("answers").replaceChildren(...[...new Set(names)].map((name) => {
    const column = element("section");
    column.append(element("h3", name));
    const answers = shown.agents[name][index];
    column.append(...answers.map((answer) => answerOf(answer, by)));
    if (!answers.length) column.append(element("p", "not asked", "missing"));
    return column;
  }));
  at("token").textContent = "";
  showLegend(by);
}

function answerOf(answer, by) {
  const made = element("div", "", "answer");
  const told = ["reward", "gold", "toxicity", "length", "mode"].filter((name) => name in answer);
  const called = { length: "tokens", mode: "voice" };
  const numbers = told.map((name) => `${called[name] || name} ${answer[name]}`).join(" · ");
  made.append(element("p", numbers, "numbers"));
  const text = element("p", "", "text");
  if (answer.tokens) text.append(...answer.tokens.map((_, i) => tokenOf(answer, i, by)));
  else text.textContent = answer.text;
  made.append(text);
  return made;
}

function valueOf(answer, i, by) {
  if (by === "difference") {
    return answer.policy && answer.reference ? answer.policy[i] - answer.reference[i] : null;
  }
  return by && answer[by] ? answer[by][i] : null;
}

function tokenOf(answer, i, by) {
  const token = element("span", shown.pieces[answer.tokens[i]]);
  const value = valueOf(answer, i, by);
  if (value !== null) token.style.backgroundColor = colourOf(value, by);
  token.title = aboutToken(answer, i);
  return token;
}

function aboutToken(answer, i) {
  const signed = (value) => value.toFixed(2).replace("-", "−");
  const lines = [];
  if (answer.policy) lines.push(`log π ${signed(answer.policy[i])}`);
  if (answer.reference) lines.push(`log π_ref ${signed(answer.reference[i])}`);
  const difference = valueOf(answer, i, "difference");
  if (difference !== null) lines.push(`difference ${signed(difference)}`);
  return lines.join(", ");
}

function colourOf(value, by) {
  const share = Math.min(1, Math.abs(value) / RANGE[by]);
  const hue = by === "difference" && value > 0 ? BLUE : ORANGE;
  return `rgba(${hue}, ${(0.5 * share).toFixed(3)})`;
}

function showLegend(by) {
  if (!by) return at("legend").replaceChildren();
  const most = RANGE[by];
  const steps = by === "difference" ? [-1, -0.5, 0, 0.5, 1] : [-1, -0.75, -0.5, -0.25, 0];
  const scale = element("span", "", "scale");
  scale.append(...steps.map((step) => {
    const box = element("i");
    box.style.backgroundColor = colourOf(step * most, by);
    return box;
  }));
  const [low, high] = by === "difference"
    ? [`−${most} nats: less likely than under the reference`, `+${most}: more likely`]
    : [`−${most} nats: unlikely`, "0: certain"];
  at("legend").replaceChildren(element("span", low), scale, element("span", high));
}

function step(by) {
  at("prompt").value = String(Number(at("prompt").value) + by);
  showAnswers();
}

function chooseAgent(input) {
  const known = Object.keys(shown.agents);
  const typed = input.value.trim().toLowerCase();
  const found = known.find((name) => name.toLowerCase() === typed)
    || known.find((name) => typed && name.toLowerCase().includes(typed));
  input.value = typed === "" ? "" : found || input.dataset.last;
  input.dataset.last = input.value;
  showAnswers();
}

// ---- start

for (const row of all("tbody tr")) row.dataset.place = row.rowIndex;
for (const head of all("th[data-key]")) {
  head.querySelector(".sort").addEventListener("click", () => sortBy(head));
}
for (const button of all(".number")) button.addEventListener("click", () => showRuns(button));
for (const id of ["agent-filter", "seed-filter"]) at(id).addEventListener("input", filterRows);
for (let i = 0; i < COLUMNS; i += 1) {
  const input = element("input");
  input.setAttribute("list", "agents");
  input.setAttribute("aria-label", `agent ${i + 1}`);
  input.addEventListener("change", () => chooseAgent(input));
  input.addEventListener("focus", () => input.select());
  at("columns").append(input);
}
at("prompt").addEventListener("change", showAnswers);
at("colour").addEventListener("change", showAnswers);
at("previous").addEventListener("click", () => step(-1));
at("next").addEventListener("click", () => step(1));
for (const event of ["pointerover", "click"]) {
  at("answers").addEventListener(event, ({ target }) => {
    if (target.title) at("token").textContent = `${JSON.stringify(target.textContent)}: ${target.title}`;
  });
}
at("task").addEventListener("change", showTask);
at("focus").addEventListener("change", showFocus);
at("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  showTheme();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);
for (const select of all(".variant")) {
  select.addEventListener("change", () => draw(figureOf(select).querySelector(".chart")));
}
showTask();
showTheme();
for (const chart of all(".chart")) seen.observe(chart);
