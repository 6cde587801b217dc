// Line charts and interval charts as SVG, drawn from numbers that the page carries.

const WIDTH = 360;
const HEIGHT = 210;
const EDGE = { left: 52, right: 10, top: 10, bottom: 30 };

/** Round values that divide low to high into some four steps. */
function ticks(low, high, wanted = 4) {
  const raw = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * ([1, 2, 5].find((factor) => factor * power >= raw * 0.999) || 10);
  const found = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high + step * 1e-9; index += 1) found.push(index * step);
  return found;
}

function tickText(value) {
  const size = Math.abs(value);
  if (size >= 1e5 || (size > 0 && size < 1e-3)) return value.toExponential(0).replace("e+", "e");
  return String(Number(value.toPrecision(6)));
}

/** Low and high end of an axis: zero is on it unless values lie on both sides anyway. */
function range(values) {
  const low = Math.min(0, ...values);
  const high = Math.max(0, ...values);
  return low === high ? [0, 1] : [low, high + (high - low) * 0.04];
}

/** A path through the points; a missing value leaves a gap. */
function path(xs, ys, x, y) {
  let pen = "M";
  let text = "";
  ys.forEach((value, index) => {
    if (value === null) pen = "M";
    else {
      text += `${pen}${x(xs[index]).toFixed(1)} ${y(value).toFixed(1)}`;
      pen = "L";
    }
  });
  return text;
}

function axes(xTicks, yTicks, x, y, xLabel) {
  const group = drawn("g", { class: "axes" });
  for (const value of yTicks) {
    group.append(
      drawn("line", { x1: EDGE.left, x2: WIDTH - EDGE.right, y1: y(value), y2: y(value) }),
      drawn("text", { x: EDGE.left - 6, y: y(value) + 3.5, "text-anchor": "end" }, tickText(value)),
    );
  }
  for (const value of xTicks) group.append(drawn("text", { x: x(value), y: HEIGHT - 15, "text-anchor": "middle" }, tickText(value)));
  group.append(drawn("text", { x: (EDGE.left + WIDTH - EDGE.right) / 2, y: HEIGHT - 2, "text-anchor": "middle" }, xLabel));
  return group;
}

/** What a chart shows, in words: each line from its first to its last value. */
function chartInWords(title, xs, lines) {
  const parts = lines.map(({ name, values }) => {
    const known = values.map((value, index) => [value, xs[index]]).filter(([value]) => value !== null);
    const [first, start] = known[0];
    const [last, end] = known[known.length - 1];
    return `${name} from ${significant(first)} in epoch ${start} to ${significant(last)} in epoch ${end}`;
  });
  return `${title}: ${parts.join("; ")}.`;
}

/** Lines over epochs, told apart by dashes as well as colours; mark: an epoch to point out. */
function lineChart(title, xs, lines, mark) {
  const known = lines.flatMap(({ values }) => values).filter((value) => value !== null);
  const [low, high] = range(known);
  const first = xs[0];
  const span = Math.max(1, xs[xs.length - 1] - first);
  const x = (value) => EDGE.left + ((value - first) / span) * (WIDTH - EDGE.left - EDGE.right);
  const y = (value) => EDGE.top + ((high - value) / (high - low)) * (HEIGHT - EDGE.top - EDGE.bottom);
  const xTicks = ticks(first, first + span).filter((value) => Number.isInteger(value) && value <= xs[xs.length - 1]);
  const svg = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": chartInWords(title, xs, lines) });
  svg.append(axes(xTicks, ticks(low, high), x, y, "epoch"));
  if (xs.includes(mark)) svg.append(drawn("line", { class: "mark", x1: x(mark), x2: x(mark), y1: EDGE.top, y2: HEIGHT - EDGE.bottom }));
  lines.forEach(({ values }, index) => {
    svg.append(drawn("path", { class: `line look${index % 6}`, d: path(xs, values, x, y) }));
    values.forEach((value, at) => {
      const alone = value !== null && (values[at - 1] ?? null) === null && (values[at + 1] ?? null) === null;
      if (alone) svg.append(drawn("circle", { class: `dot look${index % 6}`, cx: x(xs[at]), cy: y(value), r: 3 }));
    });
  });
  const legend = element("ul", { class: "legend", "aria-hidden": "true" });
  lines.forEach(({ name }, index) => {
    const sample = drawn("svg", { viewBox: "0 0 26 8" }, drawn("path", { class: `line look${index % 6}`, d: "M1 4L25 4" }));
    legend.append(element("li", {}, sample, name));
  });
  return element("figure", { class: "chart" }, element("figcaption", {}, title), svg, lines.length > 1 ? legend : null);
}

/** Intervals around one difference, with zero and the smallest difference that could be found. */
function intervalChart(difference, intervals, smallest, label) {
  const left = 12;
  const right = WIDTH - 12;
  const all = intervals.flatMap(({ low, high }) => [low, high]).concat([difference, 0], smallest === null ? [] : [smallest, -smallest]);
  const least = Math.min(...all);
  const most = Math.max(...all);
  const room = (most - least || 1) * 0.06;
  const x = (value) => left + ((value - least + room) / (most - least + 2 * room)) * (right - left);
  const height = 34 + 34 * intervals.length;
  const svg = drawn("svg", { class: "intervals", viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": label });
  const floor = height - 22;
  if (smallest !== null) svg.append(drawn("rect", { class: "smallest", x: x(-smallest), y: 0, width: x(smallest) - x(-smallest), height: floor }));
  intervals.forEach(({ name, low, high }, index) => {
    const row = 24 + 34 * index;
    svg.append(
      drawn("text", { x: left, y: row - 10 }, name),
      drawn("line", { class: "zero", x1: x(0), x2: x(0), y1: row - 7, y2: row + 12 }),
      drawn("line", { class: "interval", x1: x(low), x2: x(high), y1: row, y2: row }),
      drawn("line", { class: "interval", x1: x(low), x2: x(low), y1: row - 5, y2: row + 5 }),
      drawn("line", { class: "interval", x1: x(high), x2: x(high), y1: row - 5, y2: row + 5 }),
      drawn("circle", { class: "point", cx: x(difference), cy: row, r: 4 }),
    );
  });
  for (const value of ticks(least - room, most + room)) {
    svg.append(drawn("line", { class: "tick", x1: x(value), x2: x(value), y1: floor, y2: floor + 4 }), drawn("text", { x: x(value), y: height - 6, "text-anchor": "middle" }, tickText(value)));
  }
  return svg;
}

