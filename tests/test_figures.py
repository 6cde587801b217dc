"""Figures on a synthetic store: what they show, and that it can be read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import FuncNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.text import Text

from benchmark.aggregate import DatasetResults, aggregate
from benchmark.errors import UserError
from benchmark.report.__main__ import write_report
from benchmark.report.code_figures import heat_maps, inflation, lorenz, lorenz_curves
from benchmark.report.codes import gini
from benchmark.report.cost import cost, mean_interval
from benchmark.report.curves import (
    drift_history,
    history,
    mean_of_levels,
    noise_history,
    validation_curves,
)
from benchmark.report.drawing import Drawing, cut, extremes, file_names, look, save, style
from benchmark.report.figures import all_drawings
from benchmark.report.p_matrix import BY_USERS, FOUND, all_pairs, p_matrix
from benchmark.report.tables import compared
from benchmark.store import StoredRun, write_npy
from tests.store_fixture import LABELS, add_run, example_store

#: What breaks figures: formulas, leading underscores, markup, length with and without blanks.
ODD = (
    "_Popularity_", "T$I_G^E%R & <b>50%</b> \\frac{1}{2} $x$", "Ünïcödé λ",
    "A long name that somebody wrote out in full, with all of its settings: r = 1.5, tau = 0.9, "
    "lambda = 1.7, sigma at the start = 2.0, 256 codes on each of three levels",
    "averyveryveryverylongnamewithoutanyblankinitatallwhichcannotwrap",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _styled() -> Iterator[None]:
    with style():
        yield


def results(runs: list[StoredRun]) -> DatasetResults:
    return aggregate(runs, tuple(LABELS))["toy"]


def odd_results(root: Path) -> DatasetResults:
    methods = ("pop", "tiger", "ste", "diger_sdud", "diger_frqud")
    return results([
        add_run(root, method, seed, method_label=label, seconds__fit=10.0 * (seed + 1))
        for method, label in zip(methods, ODD, strict=True) for seed in (0, 1)
    ])  # fmt: skip


def need(drawing: Drawing | None) -> Drawing:
    assert drawing is not None
    return drawing


def legend_texts(figure: Figure) -> list[str]:
    return [" ".join(text.get_text().split()) for legend in figure.legends
            for text in legend.get_texts()]  # fmt: skip


def test_lorenz_by_hand() -> None:
    counts = np.array([2, 1, 0, 1])
    curve = lorenz(counts)
    assert curve.tolist() == [0, 0, 0.25, 0.5, 1]
    area = ((curve[1:] + curve[:-1]) / 2).mean()
    assert gini(counts) == pytest.approx(1 - 2 * area)


def test_lorenz_curves_are_means_over_seeds_with_their_gini(tmp_path: Path) -> None:
    runs = [add_run(tmp_path, "tiger", seed, describe__codebook_size=4) for seed in (0, 1)]
    for run, codes in zip(runs, ([0, 0, 0, 1], [0, 1, 2, 3]), strict=True):
        sids = np.array([[code, 0, i] for i, code in enumerate(codes)], dtype=np.int32)
        write_npy(run.folder / "sids.npy", sids)
    drawing = need(lorenz_curves(results(runs)))
    first, second = drawing.figure.axes
    # Counts 0 0 1 3 and 1 1 1 1: curves 0 0 0 .25 1 and 0 .25 .5 .75 1.
    assert np.asarray(first.lines[0].get_ydata()).tolist() == [0, 0.125, 0.25, 0.5, 1]
    assert np.asarray(second.lines[0].get_ydata()).tolist() == [0, 0, 0, 0, 1]
    # 10 / 16 and 0 on level 1; 1 - 1 / 4 on level 2, twice.
    assert legend_texts(drawing.figure) == ["TIGER: Gini 0.31 / 0.75"]
    assert "2 seeds a method" in drawing.caption
    assert drawing.alt.endswith("mean over levels: 0.531 (TIGER).")
    assert lorenz_curves(results([add_run(tmp_path / "x", "pop", 0)])) is None


@pytest.mark.parametrize(("scale", "kind"), [("log", FuncNorm), ("linear", Normalize)])
def test_heat_maps_share_a_scale_of_either_kind(tmp_path: Path, scale: str, kind: type) -> None:
    result = results(example_store(tmp_path, ["tiger", "ste"]))
    with style():
        drawings = heat_maps(result, "log" if scale == "log" else "linear")
    images = [axes.images[0] for d in drawings for axes in d.figure.axes if axes.images]
    assert len(images) == 6
    assert {type(image.norm) for image in images} == {kind}
    top = max(float(np.nanmax(np.asarray(image.get_array()))) for image in images)
    assert {image.get_clim() for image in images} == {(0.5, top)}
    assert ("log(1 + items)" in drawings[0].caption) == (scale == "log")
    share = float(np.asarray(images[0].norm(np.array([top / 2])))[0])
    expected = np.log1p([0.5, top / 2, top]) if scale == "log" else np.array([0.5, top / 2, top])
    assert share == pytest.approx((expected[1] - expected[0]) / (expected[2] - expected[0]))


def test_inflation_shows_both_and_what_is_added(tmp_path: Path) -> None:
    result = results(example_store(tmp_path, ["pop", "tiger"]))
    drawing = need(inflation(result))
    item = result.summary("ndcg", 10)["mean"]["tiger"]
    code = result.summary("code_ndcg", 10)["mean"]["tiger"]
    (axes,) = drawing.figure.axes
    drawn = [float(np.asarray(line.get_xdata())[0]) for line in axes.lines]
    assert drawn == pytest.approx([code, item])
    assert [text.get_text() for text in axes.texts] == [f"{code / item - 1:+.1%}"]


def test_validation_shows_means_bands_and_what_not_every_seed_reached(tmp_path: Path) -> None:
    result = results(example_store(tmp_path, ["pop", "tiger"], epochs=4))  # 4 and 5 epochs
    drawing = need(validation_curves(result))
    (axes,) = drawing.figure.axes
    whole, rest = (np.asarray(line.get_ydata(), dtype=float) for line in axes.lines)
    logs = [[row["valid/ndcg@10"] for row in run.train_log()] for run in result.runs[2:]]
    assert whole[:4] == pytest.approx(np.mean([log[:4] for log in logs], axis=0))
    assert np.isnan(whole[4])
    assert np.isnan(rest[:3]).all()
    assert rest[3:] == pytest.approx([whole[3], logs[1][4]])
    assert axes.lines[1].get_linewidth() < axes.lines[0].get_linewidth()
    box = axes.collections[0].get_datalim(axes.transData)
    assert (box.y0, box.y1) == pytest.approx((min(map(min, logs)), max(map(max, logs))))
    assert "2 seeds a method" in drawing.caption
    assert f"{logs[1][4]:.3g} (TIGER)" in drawing.alt


def test_one_seed_has_no_band(tmp_path: Path) -> None:
    drawing = need(validation_curves(results([add_run(tmp_path, "tiger", 0)])))
    assert not drawing.figure.axes[0].collections
    assert "one seed a method" in drawing.caption


def test_missing_levels_are_left_out_of_means(tmp_path: Path) -> None:
    run = add_run(tmp_path, "ste", 0, epochs=3)
    levels: list[object] = [[None, 2.0, 4.0], [None, None], None]
    write_log(run, [{"epoch": epoch, "snr": snr} for epoch, snr in enumerate(levels)])
    assert history((run,), "snr") == {0: [3.0]}
    assert np.isnan(mean_of_levels(np.array([np.nan])))


def write_log(run: StoredRun, rows: list[dict[str, object]]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (run.folder / "train.jsonl").write_text(text, encoding="utf-8")


def test_drift_has_a_panel_a_level_on_one_scale(tmp_path: Path) -> None:
    run = add_run(tmp_path, "ste", 0)
    write_log(run, [{"epoch": epoch, "drift/full": 0.5, "drift/level": [0.1, 0.4]}
                    for epoch in range(3)])  # fmt: skip
    drawing = need(drift_history(results([run])))
    panels = [axes for axes in drawing.figure.axes if axes.lines]
    assert [axes.get_title() for axes in panels] == ["any level", "level 1", "level 2"]
    shown = [np.asarray(axes.lines[0].get_ydata())[0] for axes in panels]
    assert shown == [0.5, 0.1, 0.4]
    assert len({axes.get_ylim() for axes in panels}) == 1
    assert panels[0].get_ylim()[1] > 0.5  # the highest of all of them


def test_noise_shows_what_is_logged_and_not_only_zero(tmp_path: Path) -> None:
    run = add_run(tmp_path, "ste", 0)
    write_log(run, [{"epoch": epoch, "tau": 0.5**epoch, "noise/flipped": [0.0, 0.0],
                     "snr": [None, 10.0**epoch]} for epoch in range(3)])  # fmt: skip
    drawing = need(noise_history(results([run])))
    panels = [axes for axes in drawing.figure.axes if axes.lines]
    assert [axes.get_ylabel() for axes in panels] == ["signal to noise", "temperature tau"]
    assert panels[0].get_yscale() == "log"
    silent = add_run(tmp_path / "x", "tiger", 0)
    assert noise_history(results([silent])) is None


def test_pairs_by_hand_and_how_they_are_marked() -> None:
    rows = [
        {"a": "x", "b": "y", "difference": 0.25, "t_p_holm": 0.01, "wilcoxon_p_holm": 0.04,
         "flip_p_holm": 0.02},
        {"a": "x", "b": "z", "difference": -0.5, "t_p_holm": 0.01, "wilcoxon_p_holm": 0.06,
         "flip_p_holm": 0.02},
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    pairs = all_pairs(frame, ["x", "y", "z"])
    assert pairs.p[0].tolist()[1:] == pairs.p[:, 0].tolist()[1:] == [0.04, 0.06]
    assert pairs.difference[0].tolist() == [0, 0.25, -0.5]
    assert pairs.difference[:, 0].tolist() == [0, -0.25, 0.5]
    assert pairs.mark[0].tolist() == pairs.mark[:, 0].tolist() == ["", BY_USERS, ""]
    for said, mark in {"yes": FOUND, "users only: yes": BY_USERS, "users only: no": "",
                       "no": ""}.items():  # fmt: skip
        assert all_pairs(frame.assign(found=said), ["x", "y", "z"]).mark[0, 1] == mark


def test_p_matrix_shows_every_pair_once(tmp_path: Path) -> None:
    result = results(example_store(tmp_path, ["pop", "tiger", "diger_frqud"]))
    drawing = need(p_matrix(result))
    axes = drawing.figure.axes[0]
    shown = {(round(t.get_position()[0] - 0.5), round(t.get_position()[1] - 0.5)): t.get_text()
             for t in axes.texts}  # fmt: skip
    assert set(shown) == {(i, j) for i in range(3) for j in range(3) if i != j}
    for _, row in compared(result, "ndcg", 10).iterrows():
        i, j = (list(result.labels).index(row[side]) for side in ("a", "b"))
        words = f"{100 * row['difference']:+.2f}".replace("-", "\N{MINUS SIGN}")
        assert shown[j, i] == words  # x is the column
    assert "n = 200" in drawing.caption
    assert "3 pairs" in drawing.caption
    assert p_matrix(results([add_run(tmp_path / "x", "pop", 0)])) is None


def test_interval_by_hand() -> None:
    found = mean_interval(np.array([0.0, 1.0, 1.0, 0.0]))
    # sd = sqrt(1 / 3), t with 3 degrees of freedom at 97.5% = 3.18245 (any table of t).
    half = 3.18245 * np.sqrt(1 / 3) / 2
    assert found == pytest.approx((0.5, 0.5 - half, 0.5 + half), abs=1e-5)
    assert mean_interval(np.array([0.25, 0.25])) == (0.25, 0.25, 0.25)
    assert np.isnan(mean_interval(np.array([1.0])).low)


def test_cost_stands_at_mean_times_and_names_what_is_missing(tmp_path: Path) -> None:
    runs = [add_run(tmp_path, "tiger", seed, seconds__fit=fit, seconds__rank=0.1)
            for seed, fit in ((0, 20.0), (1, 40.0))]  # fmt: skip
    runs.append(add_run(tmp_path, "pop", 0, seconds__fit=0.0, seconds__rank=0.2))
    result = results(runs)
    drawing = need(cost(result))
    training, ranking = drawing.figure.axes
    ndcg = result.summary("ndcg", 10)["mean"]

    def points(axes: object) -> list[list[float]]:
        lines = getattr(axes, "lines")  # noqa: B009
        return [
            np.ravel(line.get_xydata()).tolist() for line in lines if len(line.get_xdata()) == 1
        ]

    assert points(training) == [pytest.approx([30.0, ndcg["tiger"]])]
    assert points(ranking) == [
        pytest.approx([1.0, ndcg["pop"]]),
        pytest.approx([0.5, ndcg["tiger"]]),
    ]
    assert "Without a time that was measured: Popularity." in drawing.caption
    assert "Device: Example CPU, 2 threads." in drawing.caption


def test_cost_says_where_devices_differ_and_where_it_moved_a_point(tmp_path: Path) -> None:
    runs = [add_run(tmp_path, "pop", 0, seconds__fit=0.001, device__name="A"),
            add_run(tmp_path, "tiger", 0, seconds__fit=99.0, device__name="B")]  # fmt: skip
    drawing = need(cost(results(runs)))
    assert "cannot be compared (A, 2 threads: Popularity; B, 2 threads: TIGER)" in drawing.caption
    assert "Training of less than 1 s is drawn at 1 s." in drawing.caption
    assert float(np.asarray(drawing.figure.axes[0].lines[0].get_xdata())[0]) == 1.0


def test_names_come_out_as_they_are_in_every_figure(tmp_path: Path) -> None:
    result = odd_results(tmp_path / "store")
    drawings = all_drawings(result)
    assert len(drawings) > 10
    for drawing in drawings:
        save(drawing, tmp_path, "x")  # a formula that matplotlib cannot read would raise here
        texts = [*legend_texts(drawing.figure), *(_plain(t) for t in _texts(drawing.figure))]
        assert any(label[:20] in text for label in ODD for text in texts), drawing.name
        assert not any(text.get_parse_math() for text in _texts(drawing.figure)), drawing.name
    legend = legend_texts(next(d for d in drawings if d.name == "toy-cost").figure)
    assert legend == list(ODD)


def test_all_text_lies_in_the_figure_and_no_legend_entry_on_another(tmp_path: Path) -> None:
    for drawing in all_drawings(odd_results(tmp_path / "store")):
        save(drawing, tmp_path, "x")
        figure = drawing.figure
        figure.draw_without_rendering()  # places at this resolution, not at the PDF's
        edge = figure.bbox.padded(1.5)
        for text in _texts(figure):
            box = text.get_window_extent()
            inside = (
                edge.x0 <= box.x0 and box.x1 <= edge.x1 and edge.y0 <= box.y0 <= box.y1 <= edge.y1
            )
            assert inside, (drawing.name, text.get_text())
        for legend in figure.legends:
            boxes = [text.get_window_extent() for text in legend.get_texts()]
            assert not any(a.overlaps(b) for a, b in combinations(boxes, 2)), drawing.name


def test_a_long_legend_takes_no_room_from_the_panels(tmp_path: Path) -> None:
    def panel(label: str) -> float:
        """Height of the axes in inches."""
        run = add_run(tmp_path / label[:1], "tiger", 0, method_label=label)
        drawing = need(validation_curves(results([run])))
        save(drawing, tmp_path, "x")
        return drawing.figure.axes[0].get_position().height * drawing.figure.get_figheight()

    assert panel("long " * 200) == pytest.approx(panel("short"), rel=0.1)


def test_every_figure_says_what_is_to_be_seen(tmp_path: Path) -> None:
    result = results(example_store(tmp_path, ["pop", "tiger", "diger_frqud"]))
    for drawing in all_drawings(result):
        assert drawing.alt.endswith("."), drawing.name
        assert any(c.isdigit() for c in drawing.alt), drawing.name
        assert "seed" in drawing.caption, drawing.name
        assert drawing.alt != drawing.caption
    plain = Drawing("x", Figure(), "First words. More.")
    assert plain.alt == "First words."


def test_24_methods_look_different_without_colour() -> None:
    with style():
        looks = [look(index) for index in range(24)]
    assert len({(a["marker"], a["linestyle"]) for a in looks}) == 24
    assert len({a["marker"] for a in looks[:12]}) == 12


def test_file_names_are_plain_and_never_alike() -> None:
    assert file_names(["a", "a$b", "a%b", "x [1f]", "$"]) == {
        "a": "a", "a$b": "a-b", "a%b": "a-b-2", "x [1f]": "x-1f", "$": "method",
    }  # fmt: skip


def test_words() -> None:
    assert extremes({"a": 0.25, "b": 0.125, "c": 2.0}) == "0.125 (b) to 2 (c)"
    assert extremes({"a": 1.0}) == "1 (a)"
    assert extremes({"a": 1.0, "b": 1.0}) == "1 (all)"
    assert cut("one two three four five", 10, 2) == "one two\nthree fou…"
    assert cut("short", 9, 2) == "short"


def test_unknown_colour_scale_is_refused() -> None:
    with pytest.raises(UserError, match="codes=log or codes=linear"):
        write_report(["codes=loud"])


def _texts(figure: Figure) -> list[Text]:
    """Visible text, the legends' and the ticks' included."""
    found = figure.findobj(lambda a: isinstance(a, Text) and bool(a.get_visible() and a.get_text()))
    hidden: set[int] = set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        drawn = axis.axes.axison
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if not (drawn and low <= tick.get_loc() <= high):  # kept, but not drawn
                hidden |= {id(tick.label1), id(tick.label2)}
        hidden |= set() if drawn else {id(axis.label), id(axis.offsetText)}
    return [text for text in found if isinstance(text, Text) and id(text) not in hidden]


def _plain(text: Text) -> str:
    return " ".join(text.get_text().split())
