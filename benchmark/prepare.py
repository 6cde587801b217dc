"""Build a data set up to its embeddings and say what it is: ``python -m benchmark.prepare``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmark.config import compose_config, settings_from
from benchmark.data.prepare import prepare
from benchmark.guard import guard
from benchmark.run import check_writable


def prepare_dataset(overrides: Sequence[str]) -> None:
    """Prepare the data set that the overrides name and print its facts, one a line."""
    settings = settings_from(compose_config(overrides))
    check_writable(settings.cache)
    protocol = settings.protocol
    done = prepare(
        settings.dataset, protocol.max_history, protocol.train_prefixes, settings.cache,
        need_text=settings.dataset.encoder is not None,
    )  # fmt: skip
    counts = ", ".join(f"{value:,} {key}" for key, value in done.manifest["counts"].items())
    print(f"{settings.dataset.store_name}: {counts}")
    print(f"  split {done.data.split.sha256[:12]}, protocol {protocol.name}")
    if done.data.embeddings is not None:
        n, width = done.data.embeddings.shape
        print(f"  embeddings {n} x {width}, {str(done.data.embeddings_sha256)[:12]}")


def main() -> None:
    guard(lambda: prepare_dataset(sys.argv[1:]))


if __name__ == "__main__":
    main()
