"use strict";
// Draws the charts and the browser of regret cases from the data embedded in the page. Whatever a model
// said reaches the page as text alone (textContent), never as markup.

const PAGE = 25; // cases shown at once
const byId = (id) => document.getElementById(id);

async function embedded() {
  const packed = Uint8Array.from(atob(byId("data").textContent.trim()), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

// ---- charts

const drawn = [];

function chart(id, type, datasets, x, y, more = {}) {
  const axis = (title, rest) => ({ title: { display: true, text: title }, grid: { color: colour("line") }, ...rest });
  drawn.push(new Chart(byId(id), {
    type,
    data: { labels: more.labels, datasets },
    options: {
      animation: false, responsive: true, maintainAspectRatio: false, color: colour("ink"), parsing: more.labels ? undefined : false,
      scales: { x: axis(x, more.xAxis), y: axis(y, more.yAxis) },
      plugins: { legend: { labels: { boxWidth: 12 } } },
    },
  }));
}

const line = (label, points, shade, rest = {}) => ({
  label, data: points, showLine: true, borderColor: shade, backgroundColor: shade, pointRadius: 3, borderWidth: 2, ...rest,
});
const known = (points) => points.filter((point) => point.x !== null && point.y !== null);

function drawCharts(data) {
  Chart.defaults.color = colour("soft");
  Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
  drawn.splice(0).forEach((old) => old.destroy());
  const [ours, theirs] = [colour("ours"), colour("theirs")];
  const unit = { min: 0, max: 1 };
  chart("chart-rounds", "scatter", [
    line("greedy", known(data.rounds.map((round) => ({ x: round.kl, y: round.exact_match }))), ours),
    line("samples", known(data.rounds.map((round) => ({ x: round.kl, y: round.sampled_accuracy }))), theirs),
  ], "forward KL, nats a sequence", "right answers", { xAxis: { type: "linear", min: 0 } });
  chart("chart-wins", "scatter", [
    line("judge", known(data.rounds.map((round) => ({ x: round.kl, y: round.win_rate }))), ours),
    line("ensemble", known(data.rounds.map((round) => ({ x: round.kl, y: round.ensemble_win_rate }))), theirs, { borderDash: [4, 4] }),
  ].filter((set) => set.data.length), "forward KL, nats a sequence", "win rate over SFT", { xAxis: { type: "linear", min: 0 } });
  chart("chart-buffer", "bar", data.sources.map((source, number) => ({
    label: source.name, data: source.cases, backgroundColor: [ours, theirs, colour("good"), colour("bad"), colour("soft")][number % 5],
  })), "round", "cases, by where chosen comes from", { labels: data.rounds.slice(1).map((_, round) => String(round)), xAxis: { stacked: true }, yAxis: { stacked: true } });
  const curve = (rows, x, name) => known(rows.map((row) => ({ x: row[x], y: row[name] })));
  chart("chart-reliability", "scatter", [
    line("calibrated", [{ x: 0, y: 0 }, { x: 1, y: 1 }], colour("soft"), { pointRadius: 0, borderDash: [4, 4], borderWidth: 1 }),
    line("SFT", curve(data.reliability.sft, "probability", "SFT"), theirs),
    line("UGRR", curve(data.reliability.ugrr, "probability", "UGRR"), ours),
  ], "P(correct)", "share right", { xAxis: { type: "linear", ...unit }, yAxis: unit });
  chart("chart-coverage", "scatter", [
    line("SFT", curve(data.coverage, "coverage", "SFT"), theirs, { pointRadius: 0 }),
    line("UGRR", curve(data.coverage, "coverage", "UGRR"), ours, { pointRadius: 0 }),
  ], "share of prompts answered", "share of them wrong", { xAxis: { type: "linear", ...unit }, yAxis: { min: 0 } });
  chart("chart-auroc", "bar", [
    { label: "SFT", data: data.auroc.map((row) => row.sft), backgroundColor: theirs },
    { label: "UGRR", data: data.auroc.map((row) => row.ugrr), backgroundColor: ours },
  ], "", "AUROC", { labels: data.auroc.map((row) => row.name), yAxis: unit });
  for (const name of ["beta", "weight"])
    chart(`chart-${name}`, "scatter", data.gate.map((cases, round) => ({
      label: `round ${round}`, data: cases.map((row) => ({ x: row.uncertainty, y: row[name] })),
      backgroundColor: round % 2 ? theirs : ours, pointRadius: 2.5,
    })), "uncertainty", name, { xAxis: { type: "linear", ...unit }, yAxis: { min: 0 } });
}

// ---- regret cases

function answerBox(kind, title, text) {
  const box = element("div", undefined, `answer ${kind}`);
  box.append(element("h4", title), element("p", text));
  return box;
}

function rejectedBox(item, most) {
  const box = answerBox("rejected", "rejected", "");
  const words = box.lastChild;
  item.pieces.forEach((piece, place) => {
    const token = element("span", piece);
    const entropy = item.entropies[place];
    token.style.backgroundColor = `rgba(${colour("shade")}, ${(0.75 * Math.min(1, entropy / most)).toFixed(3)})`;
    token.title = `entropy ${entropy.toFixed(2)} nats`;
    words.append(token);
  });
  return box;
}

function caseCard(item, most) {
  const card = element("article", undefined, "case");
  const facts = element("p", undefined, "facts");
  for (const [name, value] of [["regret", item.regret], ["uncertainty", item.uncertainty]])
    facts.append(element("span", `${name} ${value.toFixed(2)}`));
  if (item.right !== null) facts.append(element("span", `chosen right ${(100 * item.right).toFixed(0)}%`));
  facts.append(element("span", `round ${item.round}`), element("span", `chosen from ${item.source}`));
  const answers = element("div", undefined, "answers");
  answers.append(answerBox("chosen", "chosen", item.chosen), rejectedBox(item, most));
  if (item.final !== null) answers.append(answerBox("final", "the final policy now says", item.final));
  card.append(facts, element("h3", item.prompt), answers);
  return card;
}

function browse(cases) {
  const texts = cases.map((item) => `${item.prompt}\n${item.chosen}\n${item.pieces.join("")}\n${item.final ?? ""}`.toLowerCase());
  const most = cases.reduce((largest, item) => item.entropies.reduce((a, b) => Math.max(a, b), largest), 0.1);
  const controls = Object.fromEntries(["search", "sort", "order", "round", "source"].map((id) => [id, byId(id)]));
  for (const key of ["round", "source"])
    for (const value of [...new Set(cases.map((item) => String(item[key])))].sort()) controls[key].append(new Option(value, value));
  let found = [], page = 0;

  function show() {
    const last = Math.max(0, Math.ceil(found.length / PAGE) - 1);
    page = Math.min(Math.max(0, page), last);
    byId("list").replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map((place) => caseCard(cases[place], most)));
    byId("count").textContent = `${found.length.toLocaleString("en")} of ${cases.length.toLocaleString("en")} cases`;
    byId("place").textContent = `page ${page + 1} of ${last + 1}`;
    byId("previous").disabled = page === 0;
    byId("next").disabled = page === last;
  }

  function search() {
    const wanted = controls.search.value.trim().toLowerCase();
    const { value: key } = controls.sort;
    const order = Number(controls.order.value);
    found = cases.map((_, place) => place).filter((place) =>
      (!wanted || texts[place].includes(wanted))
      && ["round", "source"].every((name) => !controls[name].value || String(cases[place][name]) === controls[name].value));
    found.sort((a, b) => order * (cases[a][key] - cases[b][key]) || a - b);
    page = 0;
    show();
  }

  let waiting;
  controls.search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(search, 120); });
  for (const id of ["sort", "order", "round", "source"]) controls[id].addEventListener("change", search);
  const turn = (by) => { page += by; show(); byId("count").scrollIntoView({ block: "start" }); };
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  search();
}

embedded().then((data) => {
  drawCharts(data);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawCharts(data));
  browse(data.cases);
  document.body.dataset.ready = "yes";
});
