// Small helpers that the other parts share.

const NOTHING = "–";

function find(selector, root = document) {
  return root.querySelector(selector);
}

/** The JSON that the page carries in a script element. */
function pageData(id) {
  return JSON.parse(document.getElementById(id).textContent);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  // Strings become text nodes, so nothing in a method's name is ever read as markup.
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function drawn(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

/** JSON has no infinity: it comes as a word. Missing values come as null. */
function number(value) {
  return value === null || value === undefined ? null : Number(value);
}

function shown(value, write) {
  if (value === null || Number.isNaN(value)) return NOTHING;
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "-∞";
  return write(value);
}

function fixed(value, digits = 4) {
  return shown(value, (v) => (Number(v.toFixed(digits)) === 0 ? (0).toFixed(digits) : v.toFixed(digits)));
}

function percent(value) {
  return shown(value, (v) => `${v > 0 ? "+" : ""}${(100 * v).toFixed(1)}%`);
}

function pValue(value) {
  return shown(value, (v) => (v < 0.001 ? "<0.001" : v.toFixed(3)));
}

function significant(value) {
  return shown(value, (v) => (Number.isInteger(v) ? String(v) : String(Number(v.toPrecision(4)))));
}

/** A region that scrolls sideways by itself and by keyboard. */
function scrolling(label, child, ...classes) {
  return element("div", { class: ["scroll", ...classes].join(" "), role: "group", tabindex: 0, "aria-label": label }, child);
}

/** A table from heads and rows of text; the first column heads the rows, the others are numbers
 * or all text. */
function simpleTable(caption, heads, rows, numbers = false) {
  const look = numbers ? "number" : "long";
  return element(
    "table",
    { class: "plain" },
    element("caption", {}, element("span", {}, caption)),
    element("thead", {}, element("tr", {}, ...heads.map((head, index) => element("th", { scope: "col", "data-kind": numbers && index ? "number" : "text" }, head)))),
    element(
      "tbody",
      {},
      ...rows.map(([head, ...cells]) =>
        element(
          "tr",
          {},
          element("th", { scope: "row" }, head),
          ...cells.map((cell) => element("td", { class: look }, cell)),
        ),
      ),
    ),
  );
}

