"""How much effort went into each method's settings, from what its runs say of it."""

from __future__ import annotations

from typing import Any

from benchmark.aggregate import DatasetResults, MethodRuns


def tuning_notes(result: DatasetResults) -> list[str]:
    """One line on the trials behind each method's settings; empty where nothing was tuned."""
    words: dict[str, list[str]] = {}
    for method in result.methods:
        words.setdefault(_effort(method), []).append(method.label)
    untuned = words.pop("", [])
    if not words:
        return []
    lines = [f"{'; '.join(labels)}: {effort}" for effort, labels in words.items()]
    rest = f" As configured, without trials: {'; '.join(untuned)}." if untuned else ""
    return [f"Settings chosen on validation, by one seed. {'. '.join(lines)}.{rest}"]


def _effort(method: MethodRuns) -> str:
    """The number of trials and what they varied; empty for a method that was not tuned."""
    found: list[dict[str, Any]] = [record for record in method.facts("tuning") if record]
    if not found:
        return ""
    keys = [_name(key) for key in found[0].get("grid", {})]
    return f"{found[0]['trials']} trials ({' x '.join(keys)})"


def _name(key: str) -> str:
    """A setting's key as readers know it: the last part, or the group."""
    return key.partition("@")[0] if "@" in key else key.rsplit(".", 1)[-1]
