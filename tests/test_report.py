"""Tables of results and the rendered report, on a synthetic store."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmark.aggregate import DatasetResults, aggregate
from benchmark.errors import UserError
from benchmark.report import section
from benchmark.report.datasets import dataset_row, dataset_table
from benchmark.report.efficiency import efficiency_table
from benchmark.report.provenance import protocol_limits, provenance_rows, sanity_lines
from benchmark.report.render import render
from benchmark.report.reported import reported_rows, reported_table
from benchmark.report.table import Markdown
from benchmark.report.tables import overall_table, pairwise_table
from benchmark.store import StoredRun
from tests.store_fixture import LABELS, add_run, example_store

COMMAND = "python -m benchmark report --out reports"


def results(runs: list[StoredRun]) -> DatasetResults:
    return aggregate(runs, tuple(LABELS))["toy"]


def test_dataset_table_by_hand(tmp_path: Path) -> None:
    row = dataset_table([dataset_row(results([add_run(tmp_path, "pop", 0)]))]).frame.iloc[0]
    assert row["density"] == pytest.approx(2000 / (200 * 300))
    assert row["mean"] == 10.0
    assert (row["text"], row["encoder"]) == ("title & genre", "all-MiniLM-L6-v2")
    named = {"name": "some/encoder", "source": "hub", "path": None, "dimension": 384}
    for encoder, shown in (
        (named, "some/encoder"),
        ({**named, "name": None, "source": "npy", "path": "/x"}, "npy, 384-d"),
    ):
        run = add_run(tmp_path, "tiger", 0, dataset_info__encoder=encoder)
        assert dataset_table([dataset_row(results([run]))]).frame.iloc[0]["encoder"] == shown
    assert row["limits"].startswith("histories cut to 20, trained on the last 20 prefixes")


def test_pairwise_table_compares_on_ndcg_at_10(tmp_path: Path) -> None:
    result = results(example_store(tmp_path, ["pop", "tiger", "diger_frqud"]))
    table = pairwise_table(result)
    assert table is not None
    assert [tuple(row) for row in table.frame[["a", "b"]].to_numpy()] == [
        ("Popularity", "TIGER"), ("Popularity", "DIGER (FrqUD)"), ("TIGER", "DIGER (FrqUD)"),
    ]  # fmt: skip
    means = result.summary("ndcg", 10)["mean"]
    assert table.frame["mean_b"].to_list() == pytest.approx(
        [means["tiger"], means["diger_frqud"], means["diger_frqud"]]
    )
    assert "the 3 pairs" in table.caption


def test_overall_shows_mean_and_sd_with_marks(tmp_path: Path) -> None:
    result = results(example_store(tmp_path, n_users=2000))
    table = overall_table(result)
    summary = result.summary("ndcg", 10)
    rows = dict(zip(result.labels, table.cells(Markdown()), strict=True))
    column = [c.key for c in table.columns].index("ndcg@10")
    for key, cells in rows.items():
        shown = re.findall(r"\d\.\d{4}", cells[column])
        assert shown == [f"{summary['mean'][key]:.4f}", f"{summary['sd'][key]:.4f}"]
    assert rows["diger_frqud"][column].startswith("**")
    assert rows["diger_frqud"][column].endswith("†")  # far above every baseline in the fixture
    assert rows["ste"][column].endswith("‡")
    assert not re.search("[†‡]", rows["pop"][column] + rows["tiger"][column])
    assert "Holm's correction over the column's 45 pairs" in table.caption
    assert "n = 2,000 users" in table.caption


def test_chance_differences_get_no_mark(tmp_path: Path) -> None:
    ranks = [1, 0] * 50
    runs = [add_run(tmp_path, "sasrec", 0, n_users=100, ranks=ranks),
            add_run(tmp_path, "diger_frqud", 0, n_users=100, ranks=[1, 1, *ranks[2:]])]  # fmt: skip
    text = overall_table(results(runs)).to_markdown(COMMAND)
    assert "†" not in text.split("Results on")[0]


def test_seeds_of_several_precisions_are_said(tmp_path: Path) -> None:
    runs = [
        add_run(tmp_path, "tiger", seed, execution={"step": "eager", "precision": precision})
        for seed, precision in ((0, "fp32"), (1, "bf16"), (2, "fp32"))
    ]
    said = "several precisions (bf16: 1; fp32: 0, 2)"
    assert any(said in note for note in overall_table(results(runs)).notes)
    alike = overall_table(results([runs[0], runs[2]])).notes
    assert not any("precisions" in note for note in alike)


@pytest.mark.parametrize(
    ("seeds", "words"),
    [([0], "One training: every method."), ([0, 1], "Two trainings: every method."),
     ([0, 1, 2], "is what the seed-aware interval counts. Both must agree.")],
)  # fmt: skip
def test_few_seeds_are_said(tmp_path: Path, seeds: list[int], words: str) -> None:
    notes = overall_table(results(example_store(tmp_path, ["pop", "tiger"], seeds))).notes
    assert any(words in note for note in notes)
    assert any("users only" in note.lower() for note in notes)


def test_method_notes_are_carried(tmp_path: Path) -> None:
    runs = [add_run(tmp_path, "pop", 0),
            add_run(tmp_path, "tiger", 0, describe__notes=["beams 20"])]  # fmt: skip
    notes = overall_table(results(runs)).notes
    assert "TIGER: beams 20" in notes
    assert "Items already seen are left out of the lists: Popularity." in notes
    assert "Items already seen may be recommended again: TIGER." in notes


def test_every_table_names_the_text_source(tmp_path: Path) -> None:
    facts = {
        "label": "Beauty (phrases)", "text_source": "IDGenRec: key phrase", "paper": "beauty",
        "repeated_targets": {"valid": 1, "test": 3},
    }  # fmt: skip
    runs = [
        add_run(tmp_path, method, 0, dataset="beauty-phrases", dataset_info=facts)
        for method in ("pop", "tiger")
    ]
    result = aggregate(runs)["beauty-phrases"]
    heading = "Beauty (phrases) (beauty-phrases; item text: IDGenRec: key phrase)"
    assert result.heading == heading
    reported = reported_table(result)
    assert reported is not None  # the paper's numbers of Beauty, whatever our texts
    assert len(reported.frame) == len(reported_rows(result)) > 5
    overall = overall_table(result)
    assert "reported" in overall.frame
    for table in (reported, overall, pairwise_table(result), efficiency_table(result)):
        assert table is not None
        assert heading in table.caption
    assert any("item text IDGenRec: key phrase" in note for note in overall.notes)
    lost = [note for note in overall.notes if "had before" in note]
    assert len(lost) == 1
    assert lost[0].startswith("3 of the ")
    nobody = overall_table(aggregate(runs[1:])["beauty-phrases"])  # leaves out what was seen
    assert not any("had before" in note for note in nobody.notes)
    index = render(runs, tmp_path / "out", "A", "cmd", [], []).read_text(encoding="utf-8")
    assert f"## {heading}" in index


def test_every_text_source_is_named(tmp_path: Path) -> None:
    texts = {"pop": "unused.item: title", "tiger": "a.item: title", "ste": "b.item: title"}
    runs = [
        add_run(tmp_path, method, 0, dataset="mine",
                dataset_info={"text_source": text, "encoder": {"name": f"{method} encoder"}})
        for method, text in texts.items()
    ]  # fmt: skip
    result = aggregate(runs)["mine"]
    assert "item text: b.item: title and, in other runs, a.item: title)" in result.heading
    row = dataset_table([dataset_row(result)]).frame.iloc[0]
    assert row["text"] == "b.item: title; a.item: title"
    assert row["encoder"] == "pop encoder; ste encoder; tiger encoder"


def test_reported_numbers_stand_beside_ours(tmp_path: Path) -> None:
    runs = [add_run(tmp_path, m, 0, dataset="beauty") for m in ("tiger", "ste")]
    result = aggregate(runs)["beauty"]
    table = reported_table(result)
    assert table is not None
    told = reported_rows(result)
    assert len(table.frame) == len(told)
    ours = result.summary("ndcg", 10)["mean"]
    for row, shown in zip(told, table.frame.to_dict("records"), strict=True):
        assert shown["ndcg@10/reported"] == row["ndcg@10"]
        if row["method"] in ours:
            assert shown["ndcg@10/ours"] == ours[row["method"]]
            change = ours[row["method"]] / row["ndcg@10"] - 1
            assert shown["ndcg@10/change"] == pytest.approx(change)
        else:
            assert shown["method"].endswith("(not run)")
    ste = next(cells for cells in table.cells(Markdown()) if cells[0] == "STE")
    assert ste[2] == "\N{EN DASH}"  # the source gives no Recall@5: no number is made up
    overall = overall_table(result).frame
    assert overall.loc["tiger", "reported"] == "; ".join(
        f"{row['ndcg@10']:.4f}" for row in told if row["method"] == "tiger"
    )


def test_reported_sasrec_stands_beside_both_losses(tmp_path: Path) -> None:
    runs = [add_run(tmp_path, m, 0, dataset="beauty") for m in ("sasrec_ce", "sasrec_bce")]
    table = reported_table(aggregate(runs)["beauty"])
    assert table is not None
    assert {"sasrec_ce", "SASRec (BCE)"} <= set(table.frame["method"])
    assert "sasrec (not run)" not in set(table.frame["method"])


def test_no_reported_table_for_other_data_sets(tmp_path: Path) -> None:
    result = results([add_run(tmp_path, "tiger", 0)])
    assert reported_table(result) is None
    assert pairwise_table(result) is None
    assert "reported" not in overall_table(result).frame


def test_sanity_passes_and_lets_ste_collapse(tmp_path: Path) -> None:
    runs = [add_run(tmp_path, name, 0, n_users=4, ranks=ranks) for name, ranks in
            {"pop": [1, 0, 0, 0], "ste": [0] * 4, "tiger": [1, 1, 0, 0]}.items()]  # fmt: skip
    assert sanity_lines(results(runs)) == [
        "OK: tiger 0.5000 > pop 0.2500",
        "allowed: ste 0.0000 < pop 0.2500",
        "Sanity: every learned method except ste beats pop in NDCG@10: yes",
    ]


def test_sanity_fails_for_equal_or_worse(tmp_path: Path) -> None:
    runs = [add_run(tmp_path, name, 0, n_users=4, ranks=ranks) for name, ranks in
            {"pop": [1, 0, 0, 0], "sasrec": [0] * 4, "tiger": [0, 1, 0, 0]}.items()]  # fmt: skip
    assert sanity_lines(results(runs)) == [
        "NO: sasrec 0.0000 < pop 0.2500",
        "NO: tiger 0.2500 = pop 0.2500",
        "Sanity: every learned method except ste beats pop in NDCG@10: NO (sasrec, tiger)",
    ]


def test_sanity_that_cannot_be_checked(tmp_path: Path) -> None:
    head = "Sanity: every learned method except ste beats pop in NDCG@10: cannot be checked"
    assert sanity_lines(results([add_run(tmp_path, "tiger", 0)])) == [f"{head}: no pop run"]
    only = sanity_lines(results([add_run(tmp_path, "pop", 0)]))
    assert only == [f"{head}: no learned method"]


def test_protocol_limits_in_words(tmp_path: Path) -> None:
    quick = add_run(tmp_path, "pop", 0, protocol__users=50)
    assert protocol_limits(quick.info) == [
        "histories cut to 20",
        "trained on the last 20 prefixes of each user",
        "50 of 200 users",
    ]
    cut = {"facts": {"full": {"users": 9000}}}
    sample = add_run(tmp_path, "pop", 2, protocol__users=200, dataset_info=cut)
    assert protocol_limits(sample.info)[-1] == "200 of 9000 users"
    full = add_run(tmp_path, "pop", 1, protocol__max_history=50, protocol__train_prefixes=None)
    assert protocol_limits(full.info) == []


def test_provenance_lists_what_differs(tmp_path: Path) -> None:
    runs = [add_run(tmp_path, "pop", 0), add_run(tmp_path, "pop", 1, git__dirty=True)]
    rows = dict(provenance_rows(runs))
    commit = "c" * 40
    assert rows["commit"] == f"{commit} (1 runs); {commit} with uncommitted changes (1 runs)"
    assert rows["device"] == "cpu, Example CPU, 2 threads"


def digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file()}  # fmt: skip


def test_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    runs = example_store(tmp_path / "store", ["pop", "tiger", "diger_frqud"])
    for name, given in (("a", runs), ("b", runs[::-1])):
        render(given, tmp_path / name, "Title", COMMAND, list(LABELS), [])
    first = digests(tmp_path / "a")
    assert first == digests(tmp_path / "b")
    assert {Path(name).suffix for name in first} == {".md", ".html", ".tex", ".png", ".pdf"}
    for name in first:
        assert str(tmp_path).encode() not in (tmp_path / "a" / name).read_bytes()


def test_ten_methods_render_in_seconds_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    runs = example_store(tmp_path / "store")
    runs += example_store(tmp_path / "store", ["pop", "tiger"], dataset="beauty")
    started = time.process_time()
    index = render(runs, tmp_path / "out", "A_title_", COMMAND, list(LABELS), ["x/y is damaged"])
    assert time.process_time() - started < 30
    text = index.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert all((tmp_path / "out" / link).is_file() for link in links)
    written = set(digests(tmp_path / "out")) - {"index.md"}
    assert written == set(links)
    assert text.startswith(f"<!-- Made by: {COMMAND} -->")
    assert text.index("x/y is damaged") < text.index("## Data sets") < text.index("## beauty")
    assert "not the paper's protocol" in text
    assert text.count("beats pop in NDCG@10: yes") == 2
    for name in written:
        content = (tmp_path / "out" / name).read_bytes()
        assert COMMAND.encode() in content, name  # every file says what makes it


def test_latex_is_well_formed(tmp_path: Path) -> None:
    render(
        example_store(tmp_path / "store", ["pop", "tiger"]), tmp_path / "out", "T", COMMAND, [], []
    )
    for path in (tmp_path / "out" / "tables").glob("*.tex"):
        text = re.sub(r"(?<!\\)%.*", "", path.read_text(encoding="utf-8"))
        plain = text.replace(r"\{", "").replace(r"\}", "")
        assert plain.count("{") == plain.count("}"), path.name
        if path.name == "all.tex":
            names = re.findall(r"\\input\{([^}]+)\}", text)
            assert all((path.parent / name).is_file() for name in names)
            continue
        align = re.findall(r"\\begin\{tabular\}\{(.*)\}$", text, flags=re.M)[0]
        columns = len(re.sub(r">\{[^}]*\}p\{[^}]*\}", "p", align))
        rows = re.findall(r"^(.*) \\\\$", text, flags=re.M)
        assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {columns}, path.name


def test_missing_users_are_a_line_of_the_report(tmp_path: Path) -> None:
    runs = [
        add_run(tmp_path / "s", "pop", 0),
        add_run(tmp_path / "s", "tiger", 0, drop_users=[5, 7]),
    ]
    index = render(runs, tmp_path / "out", "T", COMMAND, [], []).read_text(encoding="utf-8")
    assert "- TIGER, seed 0: 2 users missing from metrics.parquet score 0." in index.splitlines()


def test_nothing_to_report_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no finished runs to report \(x is damaged\)"):
        render([], tmp_path, "T", COMMAND, [], ["x is damaged"])


def test_reports_need_no_torch() -> None:
    code = (
        "import sys, benchmark.report.render, benchmark.significance, benchmark.aggregate;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_data_sets_side_by_side_give_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [
        run for name in ("b", "a")
        for run in example_store(tmp_path / "results", ["pop", "tiger"], (0,), dataset=name)
    ]  # fmt: skip
    made = []
    for large in (10**9, 1):
        monkeypatch.setattr(section, "LARGE", large)
        monkeypatch.setattr(section, "_cores", lambda: 2)
        out = tmp_path / str(large)
        render(runs, out, "Both", "command", ["pop", "tiger"], [])
        made.append({p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()})
    assert made[0] == made[1]
    assert Path("tables/a-overall.md") in made[0] and Path("figures/b-validation.png") in made[0]
