"""Every method file under every protocol makes a method that has the whole interface."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.config import CONF, build_method, compose_config, expand_sweep, settings_from
from benchmark.errors import UserError
from benchmark.recommender import Recommender

METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
PROTOCOLS = sorted(path.stem for path in (CONF / "protocol").glob("*.yaml"))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("method", METHODS)
def test_method_under_protocol(method: str, protocol: str) -> None:
    settings = settings_from(compose_config([f"method={method}", f"protocol={protocol}"]))
    assert settings.method_name == method  # its folder in the store is its file's name
    assert settings.method_label
    assert isinstance(build_method(settings), Recommender)


def identity(*overrides: str) -> str:
    return settings_from(compose_config(overrides)).cell.config_sha256


def test_hash_covers_what_decides_the_result_and_nothing_else(tmp_path: Path) -> None:
    base = identity("method=tiger")
    for same in ("seed=1", f"results={tmp_path}", "threads=2", "device=cpu"):
        assert identity("method=tiger", same) == base, same
    for other in (
        "protocol.max_history=7",
        "protocol.top_k=30",
        "method.codebook_size=32",
        "method.train.epochs=7",
        "method.estimator._target_=baselines.ste.StraightThrough",
        "dataset.users=100",
        "exclude_seen=true",
    ):
        assert identity("method=tiger", other) != base, other


def test_path_is_the_identity(tmp_path: Path) -> None:
    cell = settings_from(compose_config([f"results={tmp_path}", "method=pop", "seed=5"])).cell
    assert cell.folder == tmp_path / "ml-100k" / "pop" / cell.config_sha256[:12] / "seed=5"


def test_sweep_expands_to_its_cells() -> None:
    cells = list(expand_sweep(["method=pop,tiger", "seed=0,1", "protocol.ks=[5,10]"]))
    assert cells == [
        [f"method={method}", f"seed={seed}", "protocol.ks=[5,10]"]
        for method in ("pop", "tiger")
        for seed in (0, 1)
    ]


def test_unparsable_sweep() -> None:
    with pytest.raises(UserError):
        list(expand_sweep(["seed=["]))
