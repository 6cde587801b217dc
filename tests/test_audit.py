"""The gradient audit: verdicts from norms, its table, its command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmark.aggregate import aggregate
from benchmark.audit import audit_method, main
from benchmark.errors import UserError
from benchmark.report.audit import audit_table, batch_table, kind, verdict
from tests.estimators import CACHED, DETACHED
from tests.store_fixture import LABELS, add_run

SMALL = ["dataset=ml-100k-150u", "protocol=smoke"]


def measured(
    history: list[float], inputs: list[float], target: list[float], moved: list[str]
) -> dict[str, Any]:
    def norms(book: list[float]) -> dict[str, Any]:
        return {"codebook": book, "encoder": sum(book), "noise": None}

    found = {"history": norms(history), "input": norms(inputs), "target": norms(target)}
    found["rec"] = norms([sum(column) for column in zip(history, inputs, target, strict=True)])
    if moved:
        found |= {"vq": norms([1.0, 2.0]), "reconstruction": norms([3.0, 4.0])}
    return {"rows": 4, "norms": found, "moved": moved, "flipped": [0.0, 0.5]}


NONE, SOME = [0.0, 0.0], [1e-30, 2.0]


@pytest.mark.parametrize(
    ("audit", "wanted"),
    [
        (measured(NONE, NONE, NONE, []), "two-stage"),
        (measured(NONE, NONE, NONE, ["codebooks"]), "detached"),
        (measured(SOME, SOME, SOME, ["codebooks"]), "end to end"),
        (measured(SOME, SOME, SOME, []), "frozen"),
        (measured(SOME, NONE, SOME, ["codebooks"]), "partly end to end"),
        (measured(SOME, SOME, [0.0, 1.0], ["codebooks"]), "partly end to end"),
    ],
)
def test_verdicts(audit: dict[str, Any], wanted: str) -> None:
    assert kind(audit) == wanted


def test_verdict_names_roads_levels_and_parts() -> None:
    partly = verdict(measured(SOME, NONE, [0.0, 1.0], ["codebooks"]))
    assert "history (levels 1, 2); decoder input (levels none); target (levels 2)" in partly
    assert "codebooks and encoder" in verdict(measured(SOME, SOME, SOME, ["codebooks", "encoder"]))


def test_batch_table_has_a_line_a_loss() -> None:
    lines = batch_table(measured(SOME, SOME, NONE, ["codebooks"]))
    assert lines[0] == ["loss", "codebook 1", "codebook 2", "encoder", "noise"]
    assert [line[0] for line in lines[1:]] == [
        "L_rec by history", "L_rec by decoder input", "L_rec by target", "L_rec, all roads",
        "L_vq", "L_recon"]  # fmt: skip
    assert lines[3][1:] == ["0", "0", "0", "-"]


def test_table_of_the_report(tmp_path: Path) -> None:
    runs = [
        add_run(tmp_path, "pop", 0),
        add_run(tmp_path, "tiger", 0, describe__audit=measured(NONE, NONE, NONE, [])),
        *(
            add_run(tmp_path, "diger_frqud", seed,
                    describe__audit=measured([size, 1.0], SOME, SOME, ["codebooks"]))
            for seed, size in ((0, 1.0), (1, 3.0))
        ),
    ]  # fmt: skip
    table = audit_table(aggregate(runs, tuple(LABELS))["toy"])
    assert table is not None
    rows = table.frame.set_index("method")
    assert list(rows.index) == ["TIGER", "DIGER (FrqUD)"]
    assert rows.loc["TIGER", "history"] == "0 / 0"
    assert rows.loc["TIGER", "moved"] == "nothing"
    assert rows["vq"].isna().tolist() == [True, False]
    line = next(line for line in table.markdown_body().splitlines() if "TIGER" in line)
    assert "nan" not in line.lower()
    assert "None" not in line
    assert rows.loc["DIGER (FrqUD)", "history"] == "2 / 1"  # the mean of both seeds
    assert rows.loc["DIGER (FrqUD)", "verdict"] == "end to end"
    assert "exactly zero" in table.to_markdown("a command")


def test_no_table_without_an_audit(tmp_path: Path) -> None:
    assert audit_table(aggregate([add_run(tmp_path, "tiger", 0)], tuple(LABELS))["toy"]) is None


@pytest.mark.parametrize(
    ("method", "wanted"),
    [("tiger", "two-stage"), (DETACHED[0], "detached"), (CACHED[0], "end to end")],
)
def test_command_line(
    method: str, wanted: str, data_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*SMALL, f"method={method}", f"cache={data_cache}"])
    shown = capsys.readouterr().out.splitlines()
    assert shown[-1].startswith(f"verdict: {wanted}")
    assert sum(line.startswith("L_rec by") for line in shown) == 3


def test_a_method_without_a_tokenizer_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pop has no tokenizer.*method=tiger"):
        audit_method([*SMALL, "method=pop", f"cache={tmp_path}"])
