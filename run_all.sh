#!/usr/bin/env bash
# ./run_all.sh [quick|paper|smoke|ml-100k|beauty|yelp|... (benchmark/conf/experiment)] [--dry-run]
#              [--jobs N] [--jobs-per-gpu auto|N] [--mps auto|off] [--time-limit MINUTES]
#              [overrides ...]
# Sets up the environment if need be, runs every cell of an experiment that is not done yet,
# and writes the report. Stop it at any time; the same command goes on.
# Cells run side by side: one a core or, where there are GPUs, as many on each as its memory is
# expected to hold, at the same time where NVIDIA's MPS can be had.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
bash scripts/setup.sh
exec .venv/bin/python -m benchmark.experiment "$@"
