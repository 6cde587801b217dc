// The page of one run, made when it is opened.

const runData = pageData("runs-data");

const LOG_GROUPS = {
  valid: "Validation", loss: "Losses", "codes/used": "Used codes", "codes/entropy": "Entropy of code use (nats)",
  "codes/perplexity": "Perplexity of code use", "codes/balance": "Balance of code use", "codes/collision_rate": "Collision rate",
  "codes/largest_group": "Largest group of items with the same codes", drift: "Drift: share of items whose codes changed",
  "grad/codebook": "Gradient norm on codebooks", grad: "Gradient norms", sigma: "Sigma", hot_share: "Share of hot codes",
  noise_scale: "Noise scale", "noise/flipped": "Codes that the noise changed (share)", snr: "Signal to noise", tau: "Temperature",
  learning_rate: "Learning rate", seconds: "Seconds an epoch",
};

function groupOf(key) {
  return LOG_GROUPS[key] ? key : key.split("/")[0];
}

function lineName(key, level, levels) {
  const name = key.split("/").slice(1).join("/") || key;
  return levels > 1 ? `${key === groupOf(key) ? "" : `${name}, `}level ${level + 1}` : name;
}

/** Lines by chart, in the order of the groups above, then as logged. */
function chartsOf(log) {
  const groups = new Map(Object.keys(LOG_GROUPS).map((group) => [group, []]));
  for (const [key, levels] of Object.entries(log)) {
    if (key === "epoch") continue;
    const group = groupOf(key);
    if (!groups.has(group)) groups.set(group, []);
    levels.forEach((values, level) => {
      groups.get(group).push({ name: lineName(key, level, levels.length), values: values.map(number).map((v) => (Number.isFinite(v) ? v : null)) });
    });
  }
  return [...groups]
    .map(([group, lines]) => [LOG_GROUPS[group] || group, lines.filter(({ values }) => values.some((value) => value !== null))])
    .filter(([, lines]) => lines.length);
}

/** run.json as it was: the part that all runs share and the run's own. */
function merged(shared, own) {
  const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
  const result = { ...shared };
  for (const [key, value] of Object.entries(own)) result[key] = isObject(value) && isObject(shared[key]) ? merged(shared[key], value) : value;
  return result;
}

/** [name, text] of every value inside, names joined by dots, in name order. */
function flattened(value, name = "") {
  if (value !== null && typeof value === "object" && !Array.isArray(value)) {
    return Object.keys(value).sort().flatMap((key) => flattened(value[key], name ? `${name}.${key}` : key));
  }
  const text = value === null || value === "" ? NOTHING : Array.isArray(value) ? value.map((v) => (typeof v === "object" ? JSON.stringify(v) : String(v))).join(", ") : String(value);
  return [[name, text || NOTHING]];
}

function inPath(value, ...keys) {
  return keys.reduce((inner, key) => (inner === null || inner === undefined ? undefined : inner[key]), value);
}

function provenance(info) {
  const git = info.git || {};
  const device = info.device || {};
  const mebibytes = (bytes) => (bytes ? `${Math.round(bytes / 2 ** 20).toLocaleString("en")} MiB` : null);
  const seconds = (value) => (value === undefined || value === null ? null : `${significant(value)} s`);
  const versions = Object.entries(info.versions || {}).map(([name, version]) => `${name} ${version}`);
  return [
    ["Commit", `${git.commit || "unknown"}${git.dirty ? " with uncommitted changes" : ""}`],
    ["Device", [device.kind, device.name, device.threads && `${device.threads} threads`].filter(Boolean).join(", ")],
    ["Versions", versions.join(", ")],
    ["Training", seconds(inPath(info, "seconds", "fit"))],
    ["Ranking", seconds(inPath(info, "seconds", "rank"))],
    ["Peak memory", mebibytes(info.peak_memory_bytes)],
    ["Peak device memory", mebibytes(info.peak_device_bytes)],
    ["Parameters", inPath(info, "describe", "parameters") === undefined ? null : inPath(info, "describe", "parameters").toLocaleString("en")],
    ["Best epoch", inPath(info, "describe", "best_epoch")],
    ["Stopped", inPath(info, "describe", "stopped")],
    ["Config hash", info.config_sha256],
    ["Split hash", info.split_sha256],
    ["Embeddings hash", info.embeddings_sha256],
  ].filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value]) => [name, String(value)]);
}

function curves(run, info) {
  const charts = chartsOf(run.log);
  if (!charts.length) return [element("p", {}, "This method does not train in epochs: it has no curves.")];
  const epochs = run.log.epoch[0];
  const best = inPath(info, "describe", "best_epoch");
  const values = element("details", {}, element("summary", {}, "The curves as a table"));
  values.addEventListener("toggle", () => {
    if (values.open && !find("table", values)) values.append(valueTable(run.log, epochs));
  });
  return [
    epochs.includes(best) ? element("p", { class: "quiet" }, `The vertical line is epoch ${best}, which validation chose.`) : null,
    element("div", { class: "charts" }, ...charts.map(([title, lines]) => lineChart(title, epochs, lines, best))),
    values,
  ].filter(Boolean);
}

function valueTable(log, epochs) {
  const columns = Object.entries(log).filter(([key]) => key !== "epoch").flatMap(([key, levels]) =>
    levels.map((values, level) => [levels.length > 1 ? `${key}, level ${level + 1}` : key, values]));
  const rows = epochs.map((epoch, index) => [String(epoch), ...columns.map(([, values]) => significant(number(values[index])))]);
  return scrolling("The curves as a table", simpleTable("Values of train.jsonl, four significant digits.", ["Epoch", ...columns.map(([name]) => name)], rows, true), "tall");
}

function runPage(set, run) {
  const info = merged(set.shared, run.info);
  const siblings = set.runs.filter((other) => other.method === run.method);
  const seeds = siblings.flatMap((other) => [" ", other === run ? element("b", { "aria-current": "page" }, String(other.seed)) : element("a", { href: other.address }, String(other.seed))]);
  const config = run.config === null ? null : set.configs[run.config].replaceAll(runData.seedMark, String(run.seed));
  const metrics = Object.entries(run.metrics).map(([name, means]) => [name, ...means.map((mean) => fixed(number(mean)))]);
  return [
    element("p", { class: "back" }, element("a", { href: `#table-${identifier(`${set.dataset}-runs`)}-part` }, "← Back to the report"), element("span", {}, "Seeds:", ...seeds)),
    element("h2", { id: "run-heading", tabindex: -1 }, `${run.label}, seed ${run.seed}`),
    element("p", { class: "quiet" }, set.heading),
    element("h3", {}, "Test metrics"),
    scrolling("Test metrics", simpleTable("Means over the test users of this run.", ["Metric", ...set.ks.map((k) => `@${k}`)], metrics, true)),
    element("h3", {}, "Curves"),
    ...curves(run, info),
    element("h3", {}, "Provenance"),
    scrolling("Provenance of this run", simpleTable("Where this run comes from and what it cost.", ["What", "Value"], provenance(info))),
    element("details", {}, element("summary", {}, "Everything in run.json"), scrolling("Everything in run.json", simpleTable("run.json, numbers to six significant digits.", ["Key", "Value"], flattened(info)))),
    element("h3", {}, "Configuration"),
    config === null ? element("p", {}, "The store holds no config.yaml of this run.") : element("pre", { tabindex: 0, "aria-label": "config.yaml" }, config),
  ];
}

/** As benchmark.report.html.identifier. */
function identifier(name) {
  return name.replace(/[^0-9A-Za-z_-]/gu, (character) => `.${character.codePointAt(0).toString(16)}.`);
}

function findRun(address) {
  for (const set of runData.sets) {
    const run = set.runs.find((candidate) => candidate.address === address);
    if (run) return [set, run];
  }
  return null;
}

