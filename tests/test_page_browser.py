"""The page in headless Chromium: at a desk and on a phone, by mouse and by keyboard."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmark.aggregate import aggregate
from benchmark.report.__main__ import write_report
from benchmark.report.tables import compared
from benchmark.selection import collect, folders_below
from benchmark.significance import in_words
from tests.store_fixture import add_run

selenium = pytest.importorskip("selenium", reason="needs selenium")

from selenium.common.exceptions import StaleElementReferenceException  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.remote.webdriver import WebDriver  # noqa: E402
from selenium.webdriver.remote.webelement import WebElement  # noqa: E402
from selenium.webdriver.support.select import Select  # noqa: E402
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402

from tests.browser import MISSING, accessibility, chromium, command, complaints, requests  # noqa: E402

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

#: Method, label. The names are what a page may stumble over.
NAMES = {
    "pop": "Pop & <b>ular</b>",
    "tiger": "</script><script>document.title='taken'</script>",
    "ste": "S_T^E $x$ #1 100% {a} ~ \\ | * ` [b]",
    "diger_sdud": "\"Zoë\" 'ǅ' 日本 שלום",
    "diger_frqud": "DIGER (FrqUD)",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two data sets, five methods, three seeds, of which one run is damaged."""
    root = tmp_path_factory.mktemp("store")
    for dataset in ("toy", "toy two"):
        for method, label in NAMES.items():
            for seed in (0, 1, 2):
                run = add_run(root, method, seed, dataset=dataset, method_label=label)
                (run.folder / "config.yaml").write_text(f"method: {method}\nseed: {seed}\n")
    next(root.glob("toy/ste/*/seed=2/metrics.parquet")).write_bytes(b"broken")
    return root


@pytest.fixture(scope="module")
def page(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    _, problems = write_report([f"store={store}", f"out={out}"])
    assert len(problems) == 1
    return out / "index.html"


@pytest.fixture(scope="module", params=[1280, 360])
def window(request: pytest.FixtureRequest) -> Iterator[WebDriver]:
    with chromium(request.param) as driver:
        yield driver


@pytest.fixture
def browser(window: WebDriver, page: Path) -> Iterator[WebDriver]:
    """The page, freshly opened; afterwards nothing may have gone wrong or out."""
    window.get("about:blank")
    complaints(window), requests(window)
    window.get(page.as_uri())
    yield window
    assert complaints(window) == []
    asked = {address.partition("#")[0] for address in requests(window)}
    assert asked <= {page.as_uri(), "about:blank"}
    wide = window.execute_script(  # type: ignore[no-untyped-call]
        "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    assert wide <= 0, "the page scrolls sideways"


def one(browser: WebDriver, selector: str) -> WebElement:
    return browser.find_element(By.CSS_SELECTOR, selector)


def run_script(browser: WebDriver, script: str, *arguments: Any) -> Any:
    return browser.execute_script(script, *arguments)  # type: ignore[no-untyped-call]


def until(browser: WebDriver, true: Callable[[], bool]) -> None:
    """Wait for what the page does after an event that comes later: an address, an unfolding."""
    replaced = [StaleElementReferenceException]
    WebDriverWait(browser, 20, ignored_exceptions=replaced).until(lambda _: true())


def click(browser: WebDriver, element: WebElement) -> None:
    """Click where the eye would find it: not at an edge, below the bar that stays in place."""
    run_script(browser, "arguments[0].scrollIntoView({block: 'center'})", element)
    element.click()


def column(browser: WebDriver, table: str, index: int) -> list[str]:
    """Texts of a column of the rows that are shown, without what only screen readers get."""
    found: list[str] = run_script(
        browser,
        "return [...document.getElementById(arguments[0]).tBodies[0].rows]"
        ".filter((row) => row.checkVisibility()).map((row) => { const cell ="
        " row.cells[arguments[1]].cloneNode(true);"
        " cell.querySelectorAll('.spoken').forEach((e) => e.remove());"
        " return cell.textContent; })",
        table,
        index,
    )
    return found


def sort_button(browser: WebDriver, table: str, index: int) -> WebElement:
    return browser.find_elements(By.CSS_SELECTOR, f"#{table} thead .sort")[index]


def status(browser: WebDriver, table: str) -> str:
    return one(browser, f"#{table}-part [role=status]").text


def active(browser: WebDriver) -> str:
    return str(run_script(browser, "return document.activeElement.textContent"))


def test_names_and_the_damaged_run_are_shown_as_they_are(browser: WebDriver) -> None:
    assert column(browser, "table-toy-overall", 0) == list(NAMES.values())
    assert browser.title.startswith("All stored runs")  # no label was run as a script
    problems = one(browser, ".problems").text
    assert "Problems (1)" in problems
    assert "toy/ste/" in problems
    assert "seed=2" in problems
    assert len(column(browser, "table-toy-runs", 0)) == 14


def test_a_table_is_sorted_by_number_with_the_mouse(browser: WebDriver) -> None:
    table = "table-toy-pairs"
    place = column_names(browser, table).index("d_z")
    shown = column(browser, table, place)
    numbers = [float(text) for text in shown]
    click(browser, sort_button(browser, table, place))
    assert [float(text) for text in column(browser, table, place)] == sorted(numbers)
    assert sorted(numbers) != numbers
    head = browser.find_elements(By.CSS_SELECTOR, f"#{table} thead th")[place]
    assert head.get_attribute("aria-sort") == "ascending"
    assert status(browser, table) == "10 of 10 rows, sorted by d_z, ascending"
    click(browser, sort_button(browser, table, place))
    assert [float(text) for text in column(browser, table, place)] == sorted(numbers, reverse=True)
    click(browser, sort_button(browser, table, place))
    assert column(browser, table, place) == shown
    assert head.get_attribute("aria-sort") == "none"


def test_sorting_goes_by_the_number_not_by_what_is_shown(browser: WebDriver, page: Path) -> None:
    """Tiny p-values all look the same."""
    table = "table-toy-pairs"
    index = next(i for i, name in enumerate(column_names(browser, table)) if "t-test" in name)
    click(browser, sort_button(browser, table, index))
    cells = browser.find_elements(By.CSS_SELECTOR, f"#{table} tbody td:nth-child({index + 1})")
    values = [float(str(cell.get_attribute("data-value"))) for cell in cells]
    assert values == sorted(values)
    assert len({cell.text for cell in cells if cell.text == "<0.001"}) == 1
    assert len(set(values[:3])) == 3


def column_names(browser: WebDriver, table: str) -> list[str]:
    return [head.text for head in browser.find_elements(By.CSS_SELECTOR, f"#{table} thead th")]


def test_a_table_is_sorted_with_the_keyboard(browser: WebDriver) -> None:
    """From the filter box, Tab leads over the scrolling region to the first head."""
    click(browser, one(browser, "#table-toy-overall-filter"))
    for _ in range(10):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        if active(browser) == "Method":
            break
    assert active(browser) == "Method"
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    shown = column(browser, "table-toy-overall", 0)
    assert shown != list(NAMES.values())
    assert sorted(shown) == sorted(NAMES.values())
    browser.switch_to.active_element.send_keys(Keys.SPACE)
    assert column(browser, "table-toy-overall", 0) == shown[::-1]


def test_filtering_counts_what_is_left(browser: WebDriver) -> None:
    table = "table-toy-pairs"
    box = one(browser, f"#{table}-filter")
    box.send_keys("<B>ular frqud")  # words in any case and order
    assert status(browser, table) == "1 of 10 rows"
    assert column(browser, table, 1) == ["DIGER (FrqUD)"]
    assert one(browser, f"#{table}-part [role=status]").is_displayed()
    box.send_keys(" nothing has this")
    assert status(browser, table) == "0 of 10 rows"
    box.send_keys(Keys.CONTROL, "a", Keys.NULL, Keys.DELETE)
    assert status(browser, table) == "10 of 10 rows"


def test_two_methods_are_picked_and_compared(browser: WebDriver, store: Path) -> None:
    for key, value in (("set", "toy two"), ("metric", "recall@20"), ("a", "diger_frqud"),
                       ("b", "pop")):  # fmt: skip
        Select(one(browser, f"#compare-{key}")).select_by_value(value)  # type: ignore[no-untyped-call]
    runs, _ = collect(folders_below(store))
    result = aggregate([run for run in runs if run.dataset == "toy two"])["toy two"]
    frame = compared(result, "recall", 20)
    both = frame["a"].isin(["pop", "diger_frqud"]) & frame["b"].isin(["pop", "diger_frqud"])
    row = frame[both].iloc[0]
    sign = 1 if row["a"] == "diger_frqud" else -1
    ends = sorted(sign * row[end] for end in ("ci_low", "ci_high"))
    assert one(browser, "#compare-words").text == in_words(row, result.labels)
    facts = fact_rows(browser)
    aware = sorted(sign * row[end] for end in ("seed_low", "seed_high"))
    assert facts["95% interval over seeds and users"] == f"{aware[0]:.4f} to {aware[1]:.4f}"
    assert facts["Found"] == row["found"]
    assert facts["Difference, A - B"] == f"{sign * row['difference']:.4f}"
    assert facts["95% interval over users"] == f"{ends[0]:.4f} to {ends[1]:.4f}"
    assert facts["Cohen's d_z"] == f"{sign * row['d_z']:.3f}"
    means = result.summary("recall", 20)["mean"]
    assert facts["Mean of A"].startswith(f"{means['diger_frqud']:.4f}")
    change = means["diger_frqud"] / means["pop"] - 1
    assert facts["Change against B"] == f"{change:+.1%}"
    assert "paired t-test" in one(browser, "#compare-result").text
    assert "the 10 pairs" in one(browser, "#compare-result").text
    address = browser.current_url
    assert address.endswith("#compare=toy%20two/recall%4020/diger_frqud/pop")

    click(browser, one(browser, "#compare-swap"))
    swapped = fact_rows(browser)
    assert swapped["Difference, A - B"] == f"{-sign * row['difference']:.4f}"
    assert swapped["95% interval over users"] == f"{-ends[1]:.4f} to {-ends[0]:.4f}"
    assert swapped["Cohen's d_z"] == f"{-sign * row['d_z']:.3f}"
    assert swapped["Change against B"] == f"{means['pop'] / means['diger_frqud'] - 1:+.1%}"
    assert swapped["Mean of B"] == facts["Mean of A"]

    browser.get("about:blank")
    browser.get(address)  # a link to a comparison opens it
    assert fact_rows(browser) == facts
    assert active(browser) == "Compare two methods"
    Select(one(browser, "#compare-b")).select_by_value("diger_frqud")  # type: ignore[no-untyped-call]
    assert one(browser, "#compare-words").text == "Pick two different methods."
    assert fact_rows(browser) == {}


def fact_rows(browser: WebDriver) -> dict[str, str]:
    rows = browser.find_elements(By.CSS_SELECTOR, "#compare-result [aria-label*=numbers] tbody tr")
    return {row.find_element(By.TAG_NAME, "th").text: row.find_element(By.TAG_NAME, "td").text
            for row in rows}  # fmt: skip


def test_a_figure_opens_large_with_the_keyboard(browser: WebDriver) -> None:
    dialog = one(browser, "#large")
    assert not dialog.is_displayed()
    button = browser.find_elements(By.CSS_SELECTOR, ".enlarge")[1]
    run_script(browser, "arguments[0].focus()", button)
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert dialog.is_displayed()
    figure = browser.find_elements(By.CSS_SELECTOR, ".figures figure img")[1]
    image = one(browser, "#large img")
    assert image.get_attribute("src") == figure.get_attribute("src")
    assert image.get_attribute("alt") == figure.get_attribute("alt")
    assert image.size["width"] >= figure.size["width"]
    assert run_script(browser, "return arguments[0].naturalWidth", image) > 400
    assert active(browser) == "Close"
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not dialog.is_displayed()
    assert browser.switch_to.active_element == button


def opens(browser: WebDriver, heading: str) -> None:
    """The page of a run is shown, or soon will be."""
    until(browser, lambda: one(browser, "#run").is_displayed())
    until(browser, lambda: one(browser, "#run-heading").text == heading)


def test_a_run_has_a_page(browser: WebDriver) -> None:
    link = browser.find_elements(By.CSS_SELECTOR, "#table-toy-runs tbody a")[-1]
    address = str(link.get_attribute("href"))
    run_script(browser, "arguments[0].click()", link)
    opens(browser, "DIGER (FrqUD), seed 2")
    assert re.search(r"#run=toy/diger_frqud/[0-9a-f]{12}/seed=2$", browser.current_url)
    assert not one(browser, "#report").is_displayed()
    text = one(browser, "#run").text
    for fact in ("c" * 40, "5" * 64, "torch 2.11.0", "12.5 s", "512 MiB", "cpu, Example CPU"):
        assert fact in text
    assert one(browser, "#run pre").text == "method: diger_frqud\nseed: 2"
    chart = one(browser, "#run .chart svg")
    assert str(chart.get_attribute("aria-label")).startswith("Validation: ndcg@10 from")
    titles = [e.text for e in browser.find_elements(By.CSS_SELECTOR, "#run .chart figcaption")]
    assert {"Losses", "Used codes", "Share of hot codes", "Signal to noise"} <= set(titles)
    click(browser, one(browser, "#run .charts + details summary"))
    path = "#run .charts + details tbody tr"
    until(browser, lambda: bool(browser.find_elements(By.CSS_SELECTOR, path)))
    rows = browser.find_elements(By.CSS_SELECTOR, path)
    assert [row.find_element(By.TAG_NAME, "th").text for row in rows] == list("01234567")

    click(browser, browser.find_elements(By.CSS_SELECTOR, "#run .back a")[1])  # another seed
    opens(browser, "DIGER (FrqUD), seed 0")
    browser.back()
    opens(browser, "DIGER (FrqUD), seed 2")
    click(browser, one(browser, "#run .back a"))
    until(browser, lambda: one(browser, "#report").is_displayed())
    assert not one(browser, "#run").is_displayed()
    browser.get("about:blank")
    browser.get(address)
    assert active(browser) == "DIGER (FrqUD), seed 2"
    browser.get(address + "0")
    opens(browser, "No such run")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible(browser: WebDriver, scheme: str) -> None:
    """axe-core has nothing to say about the report, a dialog and a run; nor have we."""
    command(browser, "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}])  # fmt: skip
    paper = run_script(browser, "return getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    rules = [] if scheme == "light" else ["color-contrast"]  # which is all that differs
    assert accessibility(browser, *rules) == []
    levels = [int(element.tag_name[1]) for element in
              browser.find_elements(By.CSS_SELECTOR, "h1, #report h2, #report h3")]  # fmt: skip
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    nameless = run_script(
        browser,
        "return [...document.querySelectorAll('input, select')].filter((e) => !e.labels.length)"
        ".concat([...document.images].filter((e) => !e.alt && !e.closest('dialog')))"
        ".concat([...document.querySelectorAll('table')].filter((e) => !e.caption &&"
        " !e.closest('[aria-label]'))).length",
    )
    assert nameless == 0
    run_script(browser, "document.querySelector('.enlarge').click()")
    assert accessibility(browser, *rules) == []
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    run_script(browser, "document.querySelector('#table-toy-runs tbody tr:last-child a').click()")
    opens(browser, "DIGER (FrqUD), seed 2")
    run_script(browser, "document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert accessibility(browser, *rules) == []


def test_print_has_no_controls(browser: WebDriver) -> None:
    command(browser, "Emulation.setEmulatedMedia", media="print")
    for selector in (".controls", ".places", ".choices", ".enlarge", ".skip"):
        assert not one(browser, selector).is_displayed()
    assert one(browser, "#table-toy-pairs").is_displayed()
    assert one(browser, "#compare-result").is_displayed()
    command(browser, "Emulation.setEmulatedMedia", media="")


def test_readable_without_javascript(browser: WebDriver, page: Path) -> None:
    command(browser, "Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.get(page.as_uri() + "#overview")
        browser.refresh()
        assert one(browser, "#table-toy-pairs").is_displayed()
        assert one(browser, "noscript p").is_displayed()
        assert not browser.find_elements(By.CSS_SELECTOR, ".controls, .enlarge, .sort")
    finally:
        command(browser, "Emulation.setScriptExecutionDisabled", value=False)
