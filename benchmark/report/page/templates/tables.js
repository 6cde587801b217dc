// Sorting and filtering of every table that came with the page.

const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

/** What a cell is sorted by: its number, else its text; null where it has none. */
function sortKey(row, column, isNumber) {
  const cell = row.cells[column];
  if (isNumber) return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
  const text = cell.textContent.trim();
  return text === NOTHING ? null : text;
}

/** Rows in order; those without a value come last, whichever the direction. */
function sorted(rows, column, isNumber, direction) {
  const keyed = rows.map((row) => ({ row, key: sortKey(row, column, isNumber) }));
  keyed.sort((a, b) => {
    if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
    return direction * (isNumber ? a.key - b.key || 0 : collator.compare(a.key, b.key));
  });
  return keyed.map(({ row }) => row);
}

/** Whether a row holds every word, in whatever order and case. */
function matches(row, words) {
  const text = [...row.cells].map((cell) => cell.textContent).join("\n").toLowerCase();
  return words.every((word) => text.includes(word));
}

class LiveTable {
  constructor(table) {
    this.body = table.tBodies[0];
    this.rows = [...this.body.rows];
    this.heads = [...table.tHead.rows[0].cells];
    this.order = "";
    const name = `${document.getElementById(`${table.id}-heading`).textContent}, ${table.closest(".table").dataset.place}`;
    this.status = element("p", { role: "status", class: "count" });
    this.input = element("input", { type: "search", id: `${table.id}-filter`, autocomplete: "off", spellcheck: "false" });
    this.input.addEventListener("input", () => this.filter());
    const label = element("label", { for: this.input.id }, "Filter", element("span", { class: "spoken" }, ` rows of ${name}`));
    table.closest(".scroll").before(element("div", { class: "controls" }, label, this.input, this.status));
    this.heads.forEach((head, column) => this.makeSortable(head, column));
    this.filter();
  }

  makeSortable(head, column) {
    const button = element("button", { type: "button", class: "sort" }, ...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => this.sort(head, column));
  }

  /** Rising, then falling, then as it was. */
  sort(head, column) {
    const next = { none: "ascending", ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")];
    for (const other of this.heads) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", next);
    const direction = { ascending: 1, descending: -1 }[next];
    this.body.append(...(direction ? sorted(this.rows, column, head.dataset.kind === "number", direction) : this.rows));
    this.order = direction ? `, sorted by ${head.textContent}, ${next}` : "";
    this.say();
  }

  filter() {
    const words = this.input.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of this.rows) row.hidden = !matches(row, words);
    this.say();
  }

  say() {
    const left = this.rows.filter((row) => !row.hidden).length;
    this.status.textContent = `${left} of ${this.rows.length} rows${this.order}`;
  }
}

for (const table of document.querySelectorAll(".table table")) {
  if (table.tBodies[0].rows.length > 1) new LiveTable(table);
}

