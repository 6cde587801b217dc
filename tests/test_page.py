"""The HTML page without a browser: what is in the file."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from benchmark.aggregate import aggregate
from benchmark.report.html import identifier, plain_number, to_html
from benchmark.report.page.comparisons import comparisons
from benchmark.report.page.embed import as_json, rounded
from benchmark.report.page.runs import address, common, log_series, run_pages, without
from benchmark.report.render import render
from benchmark.report.table import Column, Table, fixed, p_value
from benchmark.report.tables import compared
from tests.store_fixture import add_run, example_store

METHODS = ["pop", "sasrec", "tiger", "diger_frqud"]
EVIL = "</script><script>alert(1)</script> & \"x\" 'y' <!-- "


def table(**changes: object) -> Table:
    frame = pd.DataFrame({
        "name": ["a <b>", "b & c", "d"], "value": [0.12344, 0.12346, None],
        "sd": [0.01, None, None], "mark": ["†", "", ""], "p": [1e-9, 0.5, float("inf")],
    })  # fmt: skip
    columns = (Column("name", "Name <i>"), Column("value", "Value", fixed(3), "max", "sd", "mark"),
               Column("p", "p", p_value))  # fmt: skip
    settings: dict[str, object] = {
        "name": "t-1", "frame": frame, "columns": columns, "caption": "x < y & z",
    }  # fmt: skip
    return Table(**{**settings, **changes})  # type: ignore[arg-type]


def test_html_table_by_hand() -> None:
    assert table().to_html(["#run=a&b", "", ""]).splitlines() == [
        '<table id="table-t-1">',
        "<caption><span>x &lt; y &amp; z</span></caption>",
        '<thead><tr><th scope="col" data-kind="text">Name &lt;i&gt;</th>'
        '<th scope="col" data-kind="number">Value</th>'
        '<th scope="col" data-kind="number">p</th></tr></thead>',
        "<tbody>",
        '<tr><th scope="row"><a href="#run=a&amp;b">a &lt;b&gt;</a></th>'
        '<td class="number" data-value="0.12344"><strong>0.123<span class="spoken"> (best)</span>'
        "</strong> ± 0.010<sup>†</sup></td>"
        '<td class="number" data-value="1e-09">&lt;0.001</td></tr>',
        '<tr><th scope="row">b &amp; c</th><td class="number" data-value="0.12346"><strong>0.123'
        '<span class="spoken"> (best)</span></strong></td>'
        '<td class="number" data-value="0.5">0.500</td></tr>',
        '<tr><th scope="row">d</th><td class="number">\N{EN DASH}</td>'
        '<td class="number" data-value="Infinity">inf</td></tr>',
        "</tbody>",
        "</table>",
    ]


def test_html_second_best() -> None:
    frame = pd.DataFrame({"name": ["a", "b"], "value": [1.0, 2.0], "sd": None, "mark": ""})
    html = to_html(table(frame=frame.assign(p=0.5)))
    assert '<u>1.000<span class="spoken"> (second)</span></u>' in html


@pytest.mark.parametrize(
    ("value", "text"),
    [(3, "3"), (3.0, "3"), (0.1, "0.1"), (-0.0, "0"), (-float("inf"), "-Infinity"),
     (1e300, "1e+300")],
)  # fmt: skip
def test_numbers_as_javascript_reads_them(value: float, text: str) -> None:
    assert plain_number(value) == text


def test_identifiers_stay_different() -> None:
    assert identifier("ml-100k_x") == "ml-100k_x"
    assert len({identifier(name) for name in ("a b", "a.b", "a/b", "a-b")}) == 4
    assert re.fullmatch(r"[\w.-]+", identifier("a <b> 日本 &"))


def test_json_cannot_end_its_script() -> None:
    text = str(as_json({"a": EVIL}))
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"a": EVIL}
    with pytest.raises(ValueError, match="JSON"):
        as_json(float("nan"))


def test_rounding() -> None:
    value = {"a": [0.123456, 12, 12345.6, True, None, "x", float("nan"), float("-inf"), 3.0]}
    assert rounded(value, 3) == {"a": [0.123, 12, 12300, True, None, "x", None, "-Infinity", 3]}


def test_log_series_by_level() -> None:
    log = [{"epoch": 0, "a": 1.23456, "b": [1, 2.0]}, {"epoch": 1, "b": [None, 3], "c": None},
           {"epoch": 2, "a": 2, "words": "x"}]  # fmt: skip
    assert log_series(log) == {
        "epoch": [[0, 1, 2]], "a": [[1.235, None, 2]], "b": [[1, None, None], [2, 3, None]],
    }  # fmt: skip
    assert log_series([]) == {}


def test_what_runs_share_and_what_is_left() -> None:
    a = {"same": 1, "in": {"x": 1, "y": 2}, "e": {}, "z": None, "k": {"x": 1}, "n": 1}
    b = {"same": 1, "in": {"x": 1, "y": 3}, "e": {}, "z": None, "k": None, "n": 1.0}
    shared = common([a, b])
    assert shared == {"same": 1, "in": {"x": 1}, "e": {}, "z": None}
    assert without(a, shared) == {"in": {"y": 2}, "k": {"x": 1}, "n": 1}
    assert without(b, shared) == {"in": {"y": 3}, "k": None, "n": 1.0}
    assert common([a]) == a


def test_run_pages_lose_nothing(tmp_path: Path) -> None:
    runs = example_store(tmp_path, METHODS)
    for run in runs:
        (run.folder / "config.yaml").write_text(f"a: 1\nseed: {run.seed}\nb: 'seed: 0'\n")
    result = aggregate(runs)["toy"]
    pages = run_pages(result)
    assert len(pages["configs"]) == 1  # one for all, but for the seed
    for run, page in zip(result.runs, pages["runs"], strict=True):
        assert merged(pages["shared"], page["info"]) == rounded(dict(run.info), 6)
        config = pages["configs"][page["config"]].replace("\0", str(run.seed))
        assert config == (run.folder / "config.yaml").read_text()
        assert page["address"] == address(run)
    assert address(result.runs[0]) == (
        f"#run=toy/diger_frqud/{result.runs[0].config_sha256[:12]}/seed=0"
    )


def merged(shared: dict[str, object], own: dict[str, object]) -> dict[str, object]:
    """As runs.js does it."""
    result = dict(shared)
    for key, value in own.items():
        inner = shared.get(key)
        both = isinstance(value, dict) and isinstance(inner, dict)
        result[key] = merged(inner, value) if both else value  # type: ignore[arg-type]
    return result


def test_comparisons_are_those_of_the_tables(tmp_path: Path) -> None:
    result = aggregate(example_store(tmp_path, METHODS), METHODS)["toy"]
    data = comparisons(result)
    assert data is not None
    assert [metric["name"] for metric in data["metrics"]] == [
        "recall@5", "recall@10", "recall@20", "ndcg@5", "ndcg@10", "ndcg@20",
    ]  # fmt: skip
    frame, rows = compared(result, "ndcg", 10), data["metrics"][4]["rows"]
    assert len(rows) == len(frame) == 6
    place = data["columns"].index("flip_p_holm")
    for (_, pair), row in zip(frame.iterrows(), rows, strict=True):
        assert [data["methods"][position][0] for position in row[:2]] == [pair["a"], pair["b"]]
        assert row[2 + place] == pytest.approx(pair["flip_p_holm"], rel=1e-5)
        assert row[0] < row[1]
        assert len(row) == len(data["columns"]) + 4
    assert comparisons(aggregate(example_store(tmp_path / "b", ["pop"]))["toy"]) is None


class Page(HTMLParser):
    """Addresses, ids, scripts and styles of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.texts: dict[str, list[str]] = {"script": [], "style": [], "title": []}
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        for name, value in attrs:
            assert not name.startswith("on"), "an inline handler, which the policy forbids"
            assert name != "style", "an inline style, which the policy forbids"
            if name == "id":
                self.ids.append(str(value))
            elif name == "href" and tag == "a":
                self.links.append(str(value))
            elif name in ("src", "href", "srcset", "action", "data", "poster"):
                self.loads.append(str(value))

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in self.texts:
            self.texts[self._inside].append(data)


def make(root: Path) -> Path:
    """A report of methods whose names are markup, below ``root``; returns its folder."""
    runs = example_store(root / "r", METHODS, n_users=60, method_label=EVIL)
    render(runs, root / "out", "A <title>", f"cmd {EVIL}", METHODS, [f"bad {EVIL}"])
    return root / "out"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    return (folder / "index.html").read_text(encoding="utf-8")


def test_page_is_whole_and_needs_nothing_else(text: str) -> None:
    page = Page(text)
    assert page.loads
    assert all(load.startswith("data:") for load in page.loads)
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", text)
    assert len(page.ids) == len(set(page.ids))
    inside = {link[1:] for link in page.links if not link.startswith("#run=")}
    assert all(link.startswith("#") for link in page.links)
    assert inside <= set(page.ids)
    known = {run["address"] for run in json.loads(page.texts["script"][1])["sets"][0]["runs"]}
    assert {link for link in page.links if link.startswith("#run=")} == known
    assert page.texts["title"] == ["A <title>: diger-bench"]
    assert len(page.texts["script"]) == 3  # no name has opened another
    assert EVIL in json.loads(page.texts["script"][0])["sets"][0]["methods"][0][1]


def test_policy_allows_the_page_and_nothing_else(text: str) -> None:
    page = Page(text)
    found = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert found is not None
    policy = dict(part.strip().split(" ", 1) for part in unescape(found[1]).split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["img-src"] == "data:"
    for kind, content in (("style", page.texts["style"]), ("script", page.texts["script"][2:])):
        digest = hashlib.sha256("".join(content).encode()).digest()
        value = base64.b64encode(digest).decode()
        assert policy[f"{kind}-src"] == f"'sha256-{value}'"


def test_equal_runs_give_an_equal_page(tmp_path: Path, text: str) -> None:
    """In another folder, too."""
    assert (make(tmp_path) / "index.html").read_text(encoding="utf-8") == text


def test_figures_are_the_saved_ones(folder: Path, text: str) -> None:
    sources = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    saved = sorted((folder / "figures").glob("*.png"))
    assert len(sources) == len(saved)
    sizes = [Image.open(io.BytesIO(base64.b64decode(source))).size for source in sources]
    assert sorted(sizes) == sorted(Image.open(path).size for path in saved)
    for source in sources:
        image = Image.open(io.BytesIO(base64.b64decode(source)))
        assert image.mode == "P"
        assert len(image.convert("RGB").getcolors() or []) > 8


def test_a_run_without_seeds_or_logs_has_a_page(tmp_path: Path) -> None:
    """The least that a store may hold: one method, one seed, no epochs."""
    run = add_run(tmp_path / "r", "pop", 0)
    render([run], tmp_path / "out", "t", "cmd", [], [])
    page = Page((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))
    assert json.loads(page.texts["script"][0])["sets"] == []
    assert json.loads(page.texts["script"][1])["sets"][0]["runs"][0]["log"] == {}
