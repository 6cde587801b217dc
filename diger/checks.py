"""Checks of settings: each failure is one line that names the key and the value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

T = TypeVar("T")


class SettingError(ValueError):
    """A setting that turns out impossible on the data at hand, in one line that says what to
    change. Whoever runs a fit can tell it from a fault in the code by this type or, without
    importing it, by ``bad_setting``."""

    bad_setting = True


def at_least(name: str, value: float, least: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}")


def above(name: str, value: float, bound: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > bound:
        raise ValueError(f"{name} must be greater than {bound}, got {value!r}")


def whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    at_least(name, value, least)


def below(name: str, value: float, bound: float) -> None:
    if not value < bound:
        raise ValueError(f"{name} must be less than {bound}, got {value!r}")


def one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def build(kind: type[T], settings: Mapping[str, Any], where: str) -> T:
    """``kind(**settings)``, where unknown and missing keys are named with their place."""
    if not isinstance(settings, Mapping):
        raise ValueError(f"{where} must be a group of settings, got {settings!r}")
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(settings) - known)
    if unknown:
        raise ValueError(f"unknown key {where}.{unknown[0]}; known: {', '.join(sorted(known))}")
    try:
        return kind(**settings)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from None
