"""Where the numbers come from, and whether they are sane: the lines of the index page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmark.aggregate import DatasetResults
from benchmark.metrics import METRICS
from benchmark.store import StoredRun

PAPER_MAX_HISTORY = 50  # the released code keeps histories of up to 50 items

#: Methods that learn nothing, and so need not beat popularity.
UNLEARNED = ("pop", "random")
#: Learned methods whose collapse is the finding.
MAY_COLLAPSE = ("ste",)


def protocol_limits(info: Mapping[str, Any]) -> list[str]:
    """What a run cut short, in words; empty for the paper's protocol."""
    protocol = info["protocol"]
    limits = []
    history = protocol.get("max_history")
    if history is not None and history != PAPER_MAX_HISTORY:
        limits.append(f"histories cut to {history}")
    if protocol.get("train_prefixes") is not None:
        limits.append(f"trained on the last {protocol['train_prefixes']} prefixes of each user")
    # A limit on users cuts the data set itself, so its full size stands elsewhere.
    facts = (info.get("dataset_info") or {}).get("facts") or {}
    total = (facts.get("full") or info["counts"])["users"]
    users = protocol.get("users")
    if users is not None and users < total:
        limits.append(f"{users} of {total} users")
    return limits


def encoder_names(result: DatasetResults) -> str | None:
    """Names of the text encoders; None where no run had one."""
    return "; ".join(dict.fromkeys(filter(None, map(encoder_name, result.runs)))) or None


def encoder_name(run: StoredRun) -> str | None:
    """The text encoder of a run as tables name it; None where it had none."""
    fact = (run.info.get("dataset_info") or {}).get("encoder")
    if isinstance(fact, Mapping):  # with all its settings; its path stays out of tables
        fact = fact.get("name") or f"{fact.get('source')}, {fact.get('dimension')}-d"
    return str(fact) if fact else None


def protocol_line(result: DatasetResults) -> str:
    """The protocol of a data set's runs and how it differs from the paper's."""
    lines = []
    for run in result.runs:
        name = run.info["protocol"].get("name", "unnamed")
        limits = protocol_limits(run.info)
        rest = f"{', '.join(limits)}: not the paper's protocol" if limits else "no limits"
        lines.append(f"Protocol {name}: {rest}.")
    return " ".join(dict.fromkeys(lines))


def sanity_lines(result: DatasetResults) -> list[str]:
    """One line a method against popularity, then one for all of them.

    Of several configs of ``pop`` the best counts. A learned method that only equals it fails.
    """
    k = result.headline_k
    what = f"{METRICS['ndcg'].label}@{k}"
    head = f"Sanity: every learned method except {', '.join(MAY_COLLAPSE)} beats pop in {what}"
    means = result.summary("ndcg", k)["mean"]
    pops = [method.key for method in result.methods if method.method == "pop"]
    if not pops:
        return [f"{head}: cannot be checked: no pop run"]
    pop = float(means[pops].max())
    lines, failed, checked = [], [], 0
    for method in result.methods:
        if method.method in UNLEARNED:
            continue
        ours = float(means[method.key])
        sign = ">" if ours > pop else "=" if ours == pop else "<"
        verdict = "OK" if ours > pop else "NO"
        if method.method in MAY_COLLAPSE:
            verdict = "OK" if ours > pop else "allowed"
        else:
            checked += 1
        if verdict == "NO":
            failed.append(method.key)
        lines.append(f"{verdict}: {method.key} {ours:.4f} {sign} pop {pop:.4f}")
    if not checked:
        return [*lines, f"{head}: cannot be checked: no learned method"]
    verdict = f"NO ({', '.join(failed)})" if failed else "yes"
    return [*lines, f"{head}: {verdict}"]


def provenance_rows(runs: Iterable[StoredRun]) -> list[tuple[str, str]]:
    """(what, values) pairs over all runs; several values are all listed, with their counts."""
    seen: dict[str, dict[str, int]] = {}

    def count(what: str, value: str) -> None:
        values = seen.setdefault(what, {})
        values[value] = values.get(value, 0) + 1

    for run in runs:
        info = run.info
        git = info.get("git") or {}
        dirty = " with uncommitted changes" if git.get("dirty") else ""
        count("commit", f"{git.get('commit') or 'unknown'}{dirty}")
        device = info.get("device") or {}
        parts = [device.get("kind"), device.get("name")]
        threads = device.get("threads")
        parts.append(f"{threads} threads" if threads else None)
        count("device", ", ".join(str(part) for part in parts if part) or "unknown")
        count(f"split of {run.dataset}", run.split_sha256)
        for package, version in (info.get("versions") or {}).items():
            count(package, str(version))
    rows = []
    for what in sorted(seen, key=lambda key: (key not in ("commit", "device"), key)):
        values = sorted(seen[what].items())
        several = len(values) > 1
        listed = [f"{value} ({number} runs)" if several else value for value, number in values]
        rows.append((what, "; ".join(listed)))
    return rows
