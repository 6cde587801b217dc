"""The released settings of each data set arrive in the methods that they are for."""

from __future__ import annotations

from typing import Any

import pytest

from benchmark.config import CONF, compose_config, settings_from
from benchmark.data.config import suite_datasets

PAPER = ("beauty", "instruments", "yelp")
#: As the authors released them; None: not on record.
RELEASED: dict[str, dict[str, Any]] = {
    "beauty": {
        "epochs": 120, "patience": 15, "beams": 20, "tau": 2.0, "lr_id": 1e-5, "cached": 1e-5,
        "frqud": {"r": 1.5}, "sdud": {"sigma_start": 2.0, "lambda_": 1.7},
        "sdud_frqud": {"r": 1.5, "sigma_start": 1.0},
        "rqvae": {"batch_size": 1024, "beta": 0.25},
    },
    "instruments": {
        "epochs": 100, "patience": 15, "beams": 20, "tau": 2.0, "lr_id": 1e-5, "cached": 2e-5,
        "frqud": {"r": 2.0}, "sdud": {"sigma_start": 1.0, "lambda_": 1.8},
        "sdud_frqud": {"r": 1.5, "sigma_start": 1.5, "lambda_": 1.8},
        "rqvae": {"batch_size": 2048, "beta": 0.25},
    },
    "yelp": {
        "epochs": 200, "patience": 20, "beams": 80, "tau": 1.5, "lr_id": 1e-5, "cached": 2e-6,
        "frqud": {"r": 1.1}, "sdud": {"sigma_start": 2.0, "lambda_": 1.7},
        "sdud_frqud": {"r": 1.1, "sigma_start": 2.0, "lambda_": 1.0},
        "rqvae": {"batch_size": 4096, "beta": 0.5},
    },
}  # fmt: skip
VARIANTS = [name for name in suite_datasets() if name.split("/")[0] in PAPER]


def method(*overrides: str) -> dict[str, Any]:
    return dict(settings_from(compose_config(overrides)).method)


@pytest.mark.parametrize("decay", ["frqud", "sdud", "sdud_frqud"])
@pytest.mark.parametrize("family", ["", "_cached", "_detached"])
@pytest.mark.parametrize("dataset", VARIANTS)
def test_released_settings(dataset: str, family: str, decay: str) -> None:
    wanted = RELEASED[dataset.split("/")[0]]
    made = method(f"dataset={dataset}", "protocol=paper", f"method=diger_{decay}{family}")
    assert made["estimator"]["tau"] == wanted["tau"]
    assert made["estimator"]["logit_scale"] == "none"
    for key, value in wanted[decay].items():
        assert made["estimator"][key] == value
    train = made["train"]
    assert (train["epochs"], train["patience"]) == (wanted["epochs"], wanted["patience"])
    assert train["lr_tokenizer"] == (wanted["cached"] if family == "_cached" else wanted["lr_id"])
    assert (train["lr_sigma"], train["batch_size"], train["warmup_steps"]) == (1e-3, 256, 500)
    assert (train["learning_rate"], train["weight_decay"]) == (1e-3, 0.05)
    assert made["decode"]["beams"] == wanted["beams"]
    for key, value in wanted["rqvae"].items():
        assert made["tokenizer"][key] == value
    wide = dataset.endswith("/released")  # 4096-d vectors
    assert made["tokenizer"]["hidden"] == ([2048, 1024, 512] if wide else [512, 256, 128])
    assert made["tokenizer"]["latent"] == (256 if wide else 64)
    assert made["tokenizer"]["epochs"] == 10_000
    assert made["tokenizer"]["train_assignment"] == "sinkhorn"


@pytest.mark.parametrize("dataset", VARIANTS)
def test_found_settings_differ_in_noise_and_learning_rate_alone(dataset: str) -> None:
    """And not at all for the vectors that the released settings were tuned on."""
    cell = (f"dataset={dataset}", "protocol=paper", "method=diger_sdud_frqud_cached")
    released, found = method(*cell), method(*cell, "settings@preset=found")
    if dataset.endswith("/released"):
        assert found == released
        return
    assert found["estimator"].pop("logit_scale") == "gap"
    for made in (released, found):
        made["estimator"] = {key: value for key, value in made["estimator"].items()
                             if key not in ("logit_scale", "tau", "gap_target")}  # fmt: skip
        made["train"] = {k: v for k, v in made["train"].items() if k != "lr_tokenizer"}
    assert found == released


@pytest.mark.parametrize("dataset", VARIANTS)
def test_two_stage_shares_what_is_not_the_estimators(dataset: str) -> None:
    tiger, diger = (
        method(f"dataset={dataset}", "protocol=paper", f"method={name}")
        for name in ("tiger", "diger_frqud")
    )
    for group in ("tokenizer", "model", "decode", "train"):
        assert tiger[group] == diger[group]


def test_an_override_has_the_last_word() -> None:
    made = method(
        "dataset=yelp", "protocol=paper", "method=diger_frqud", "preset.frqud.r=9",
        "method.train.epochs=3", "method.estimator.tau=7.0",
    )  # fmt: skip
    assert made["estimator"]["r"] == 9
    assert (made["train"]["epochs"], made["estimator"]["tau"]) == (3, 7.0)


def test_small_sizes_have_settings_of_their_own() -> None:
    for protocol in ("full", "quick", "smoke"):
        made = method("dataset=yelp", f"protocol={protocol}", "method=tiger")
        assert made["decode"]["beams"] == 20


def test_every_preset_belongs_to_a_data_set() -> None:
    for folder in (CONF / "preset").iterdir():
        for path in folder.rglob("*.yaml"):
            assert path.relative_to(folder).with_suffix("").as_posix() in suite_datasets(), path
