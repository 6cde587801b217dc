// The reader picks two methods; the page has compared every pair beforehand.

const comparisonData = pageData("compare-data");

/** The numbers of one pair as an object; which method is called A is the reader's choice. */
function lookUp(set, metric, a, b) {
  const row = metric.rows.find((r) => (r[0] === a && r[1] === b) || (r[0] === b && r[1] === a));
  if (!row) return null;
  const pair = { found: row[row.length - 2], words: row[row.length - 1] };
  set.columns.forEach((column, index) => {
    pair[column] = number(row[index + 2]);
  });
  return row[0] === a ? pair : swapped(pair);
}

/** The same pair seen from the other side. */
function swapped(pair) {
  const minus = (value) => (value === null || value === undefined ? null : -value);
  const other = { ...pair };
  for (const column of ["mean", "seeds", "sd"]) {
    [other[`${column}_a`], other[`${column}_b`]] = [pair[`${column}_b`], pair[`${column}_a`]];
  }
  other.difference = minus(pair.difference);
  other.d_z = minus(pair.d_z);
  other.relative = other.mean_b === 0 ? null : other.difference / other.mean_b;
  for (const kind of ["ci", "seed"]) {
    [other[`${kind}_low`], other[`${kind}_high`]] = [minus(pair[`${kind}_high`]), minus(pair[`${kind}_low`])];
  }
  return other;
}

class CompareView {
  constructor(root, data) {
    this.data = data;
    this.selects = {};
    const form = element("form", { class: "choices" });
    form.addEventListener("submit", (event) => event.preventDefault());
    for (const [key, label] of [["set", "Data set"], ["metric", "Metric"], ["a", "Method A"], ["b", "Method B"]]) {
      const select = element("select", { id: `compare-${key}` });
      select.addEventListener("change", () => this.picked(key));
      this.selects[key] = select;
      form.append(element("div", {}, element("label", { for: select.id }, label), select));
    }
    const swap = element("button", { type: "button", id: "compare-swap" }, "Swap A and B");
    swap.addEventListener("click", () => this.swap());
    form.append(element("div", {}, swap));
    this.sentence = element("p", { id: "compare-words", role: "status", class: "words" });
    this.result = element("div", { id: "compare-result" });
    root.append(form, this.sentence, this.result);
    this.options("set", data.sets.map((set) => [set.dataset, set.dataset]));
    this.fillSet();
  }

  get set() {
    return this.data.sets.find((set) => set.dataset === this.selects.set.value);
  }

  options(key, entries, preferred) {
    const before = this.selects[key].value;
    this.selects[key].replaceChildren(...entries.map(([value, label]) => element("option", { value }, label)));
    const wanted = [before, preferred].find((value) => entries.some(([known]) => known === value));
    if (wanted !== undefined) this.selects[key].value = wanted;
  }

  /** Metrics and methods of the chosen data set; what was picked before stays where it exists. */
  fillSet() {
    const { metrics, methods } = this.set;
    this.options("metric", metrics.map(({ name, label }) => [name, label]), "ndcg@10");
    this.options("a", methods, methods[0][0]);
    this.options("b", methods, methods[1][0]);
    this.show();
  }

  picked(key) {
    if (key === "set") this.fillSet();
    else this.show();
    this.link();
  }

  swap() {
    const { a, b } = this.selects;
    [a.value, b.value] = [b.value, a.value];
    this.show();
    this.link();
  }

  /** Put the choice into the address, so that it can be linked. */
  link() {
    const { set, metric, a, b } = this.selects;
    const parts = [set.value, metric.value, a.value, b.value].map(encodeURIComponent);
    history.replaceState(null, "", `#compare=${parts.join("/")}`);
  }

  /** Take the choice from an address; parts that this report does not have are left as they are. */
  open(parts) {
    ["set", "metric", "a", "b"].forEach((key, index) => {
      const select = this.selects[key];
      if ([...select.options].some((option) => option.value === parts[index])) select.value = parts[index];
      if (key === "set") this.fillSet();
    });
    this.show();
  }

  show() {
    const { set } = this;
    const metric = set.metrics.find(({ name }) => name === this.selects.metric.value);
    const position = (key) => set.methods.findIndex(([method]) => method === this.selects[key].value);
    const [a, b] = [position("a"), position("b")];
    const pair = lookUp(set, metric, a, b);
    this.sentence.textContent = pair ? pair.words : "Pick two different methods.";
    this.result.replaceChildren(...(pair ? this.details(set, metric, pair, set.methods[a][1], set.methods[b][1]) : []));
  }

  details(set, metric, pair, a, b) {
    const intervals = [{ name: "95% interval over users (BCa bootstrap)", low: pair.ci_low, high: pair.ci_high }];
    const seeds = pair.seed_low !== undefined && pair.seed_low !== null;
    if (seeds) intervals.push({ name: "95% interval over seeds and users", low: pair.seed_low, high: pair.seed_high });
    const smallest = pair.mdd === undefined ? null : pair.mdd;
    const said = intervals.map(({ name, low, high }) => `${name} ${fixed(low)} to ${fixed(high)}`);
    const chart = intervalChart(pair.difference, intervals, smallest, `Difference ${fixed(pair.difference)}; ${said.join("; ")}.`);
    const tests = this.data.tests.map(([name, label]) => [label, pValue(pair[`${name}_p`]), pValue(pair[`${name}_p_holm`])]);
    const count = metric.rows.length;
    return [
      element("figure", { class: "chart wide" }, element("figcaption", {}, `${metric.label} on ${set.dataset}: ${a} minus ${b}`), chart,
        smallest === null ? null : element("p", { class: "quiet" }, "Shaded: differences that users alone would show with a power of less than 80%, before correction.")),
      scrolling("The difference in numbers", simpleTable(`${a} (A) and ${b} (B), ${metric.label}, paired by user.`, ["What", "Value"], this.facts(pair, seeds, smallest), true)),
      scrolling("P-values", simpleTable(`Two-sided p-values, before and after Holm's correction over the ${count} pairs of this metric.`, ["Test", "p", "p, Holm"], tests, true)),
    ];
  }

  facts(pair, seeds, smallest) {
    const mean = (side) => {
      const sd = pair[`sd_${side}`];
      return fixed(pair[`mean_${side}`]) + (sd === null || sd === undefined ? "" : ` ± ${fixed(sd)}`);
    };
    const trainings = pair.seeds_a === undefined || pair.seeds_a === null ? [] : [["Seeds of A and B", `${pair.seeds_a} and ${pair.seeds_b}`]];
    return [
      ["Mean of A", mean("a")],
      ["Mean of B", mean("b")],
      ["Difference, A - B", fixed(pair.difference)],
      ["95% interval over users", `${fixed(pair.ci_low)} to ${fixed(pair.ci_high)}`],
      ["95% interval over seeds and users", seeds ? `${fixed(pair.seed_low)} to ${fixed(pair.seed_high)}` : "not computed"],
      ["Change against B", percent(pair.relative)],
      ["Cohen's d_z", fixed(pair.d_z, 3)],
      ...(smallest === null ? [] : [["Smallest difference found at 80% power, users only", fixed(smallest)]]),
      ...(pair.seed_mdd === undefined || pair.seed_mdd === null ? [] : [["The same, seeds and users", fixed(pair.seed_mdd)]]),
      ["Users", pair.n.toLocaleString("en")],
      ...trainings,
      ["Found", pair.found],
    ];
  }
}

const compareView = comparisonData.sets.length ? new CompareView(document.getElementById("compare-view"), comparisonData) : null;
if (!compareView) document.getElementById("compare-view").append(element("p", {}, "Fewer than two methods or users: there is nothing to compare."));

