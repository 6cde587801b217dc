// What is shown follows the part of the address after "#".

const reportView = document.getElementById("report");
const runView = document.getElementById("run");
const pageTitle = document.title;

function showRun(address) {
  const found = findRun(address);
  runView.replaceChildren(...(found ? runPage(...found) : [
    element("p", { class: "back" }, element("a", { href: "#overview" }, "← Back to the report")),
    element("h2", { id: "run-heading", tabindex: -1 }, "No such run"),
    element("p", {}, "This report has no run of that address."),
  ]));
  reportView.hidden = true;
  runView.hidden = false;
  const heading = document.getElementById("run-heading");
  document.title = `${heading.textContent}: ${pageTitle}`;
  scrollTo(0, 0);
  heading.focus({ preventScroll: true });
}

function showReport(hash) {
  const returning = reportView.hidden;
  reportView.hidden = false;
  runView.hidden = true;
  runView.replaceChildren();
  document.title = pageTitle;
  const comparison = /^#compare=(.*)$/.exec(hash);
  if (comparison && compareView) compareView.open(comparison[1].split("/").map(decoded));
  const target = comparison ? document.getElementById("compare") : document.getElementById(decoded(hash.slice(1)));
  if (target && (returning || comparison)) {
    target.scrollIntoView();
    target.focus({ preventScroll: true });
  }
}

/** Percent signs that spell nothing are left as they are. */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function route() {
  if (location.hash.startsWith("#run=")) showRun(location.hash);
  else showReport(location.hash);
}

addEventListener("hashchange", route);
addEventListener("beforeprint", () => {
  // What is folded up on screen is printed, but for the long tables of numbers.
  for (const details of document.querySelectorAll(".verdict details")) details.open = true;
});
route();
