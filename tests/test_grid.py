"""What an experiment's grid asks for, and the experiments of the reference reproduction."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from benchmark.errors import UserError
from benchmark.experiment import plan
from benchmark.grid import cell_overrides, combinations

GRID = {"dataset": ["a"], "method": ["tiger", "pop"], "seed": [0, 1]}
RELEASED = {"diger_sdud": ("lambda_", 1.7), "diger_frqud": ("r", 1.5)}


def test_a_method_that_varies_has_every_combination_with_every_seed() -> None:
    vary = {"tiger": {"x": [1, 2.5], "y": ["u", True]}}
    found = list(cell_overrides("e", {**GRID, "vary": vary}))
    tiger, pop = (["dataset=a", f"method={name}"] for name in ("tiger", "pop"))
    settings = [["x=1", "y=u"], ["x=1", "y=true"], ["x=2.5", "y=u"], ["x=2.5", "y=true"]]
    assert found == [
        *([*tiger, f"seed={seed}", *words] for words in settings for seed in (0, 1)),
        [*pop, "seed=0"],
        [*pop, "seed=1"],
    ]


def test_a_group_is_added_and_none_of_it_is_nothing() -> None:
    assert combinations({"noise@preset": [None, "unit_norm"], "lr": [1e-05]}) == [
        ["lr=1e-05"], ["+noise@preset=unit_norm", "lr=1e-05"],
    ]  # fmt: skip
    assert combinations({}) == [[]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 0}, r"grid.seed must be a list such as \[0\]"),
        ({"method": []}, "grid.method must be a list"),
        ({"more": [1]}, "needs a grid of dataset, method and seed"),
        ({"vary": ["tiger"]}, "grid.vary must be"),
        ({"vary": {"tigger": {"x": [1]}}}, "grid.vary names tigger, which is not in"),
        ({"vary": {"tiger": {"x": 1}}}, "grid.vary.tiger must be"),
        ({"vary": {"tiger": {"x": []}}}, "grid.vary.tiger must be"),
    ],
)
def test_a_bad_grid(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(cell_overrides("e", {**GRID, **change}))
    with pytest.raises(UserError, match="needs a grid"):
        list(cell_overrides("e", None))


def test_a_bad_key_of_a_grid_is_bad_input() -> None:
    with pytest.raises(UserError, match="nonsense"):
        plan("smoke", ["+grid.vary={tiger: {method.nonsense: [1]}}"], check=False)


def test_cells_that_are_the_same_are_one() -> None:
    """The value that a method has anyway gives the cell that it has anyway."""
    usual = plan("smoke", ["grid.method=[tiger]"], check=False)
    vary = "+grid.vary={tiger: {method.train.learning_rate: [1.0e-3, 1.0e-2]}}"
    cells = plan("smoke", ["grid.method=[tiger]", vary], check=False)
    assert len(cells) == 2
    assert {cell.name for cell in usual} < {cell.name for cell in cells}
    twice = plan("smoke", ["grid.method=[tiger,tiger]"], check=False)
    assert [cell.name for cell in twice] == [cell.name for cell in usual]


@pytest.mark.parametrize("experiment", ["beauty", "yelp"])
def test_the_reference_reproduction_is_of_the_paper_s_sizes(experiment: str) -> None:
    cells = plan(experiment, check=False)
    assert len(cells) == 12 * 3
    for settings in (cell.settings for cell in cells):
        assert (settings.protocol.name, settings.protocol.max_history) == ("paper", 50)
        assert settings.protocol.train_prefixes is None
        assert settings.dataset.users is None
        if "model" in settings.method:
            assert settings.method["model"]["layers"] == 6
            assert settings.method["codebook_size"] == 256
            assert settings.method["train"]["epochs"] == (120 if experiment == "beauty" else 200)


def test_experiments_share_their_cells() -> None:
    beauty = {cell.name for cell in plan("beauty", check=False)}
    assert {cell.name for cell in plan("beauty-two-stage", check=False)} < beauty
    noise = {cell.name for cell in plan("beauty-noise", check=False)}
    assert {name.split("/")[1] for name in noise - beauty} == {"gumbel_cosine", "gumbel_tau"}


def test_sensitivity_has_the_released_value_among_others_and_changes_nothing_else() -> None:
    beauty = {cell.name for cell in plan("beauty", check=False)}
    cells = plan("beauty-sensitivity", check=False)
    for method, (key, released) in RELEASED.items():
        mine = [cell.settings for cell in cells if cell.settings.method_name == method]
        values = Counter(settings.method["estimator"][key] for settings in mine)
        assert len(values) == 4
        assert set(values.values()) == {3}  # seeds
        for settings in mine:
            value = settings.method["estimator"][key]
            assert (str(settings.cell) in beauty) == (value == released)
            others = {**settings.method, "estimator": {**settings.method["estimator"], key: None}}
            first = {**mine[0].method, "estimator": {**mine[0].method["estimator"], key: None}}
            assert others == first
