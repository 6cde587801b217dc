#!/usr/bin/env bash
# The whole reference reproduction, in its order: tune on validation, run beauty, its three
# experiments and yelp, publish, report, say what was found. Stop it at any time; the same command goes
# on. On a node that is there for minutes at a time, scripts/gpu_portion.sh runs the first two kinds of
# steps in portions, and this does the rest once their cells are imported.
#
#   bash scripts/reproduce.sh [option or override of benchmark.experiment ...]
#
#   ONLY="tune run"          steps to take, of tune, run and publish; all of them by default
#   EXPERIMENTS="beauty ..."  experiments, beauty and its three, then yelp, by default
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python="${PYTHON:-.venv/bin/python}"
read -ra experiments <<<"${EXPERIMENTS:-beauty beauty-two-stage beauty-noise beauty-sensitivity yelp}"
steps=" ${ONLY:-tune run publish} "
for step in $steps; do
  case "$step" in tune | run | publish) ;; *) printf 'error: no step %s; there are tune, run and publish\n' "$step" >&2; exit 2 ;; esac
done
[ -x "$python" ] || bash scripts/setup.sh

for experiment in "${experiments[@]}"; do
  case "$steps$experiment" in
    *" tune "*-two-stage | *" tune "*-sensitivity) ;; # all of their methods are tuned by then
    *" tune "*) "$python" -m benchmark.tune "$experiment" "$@" ;;
  esac
done
for experiment in "${experiments[@]}"; do
  [[ "$steps" != *" run "* ]] || "$python" -m benchmark.experiment "$experiment" "$@"
done
[[ "$steps" == *" publish "* ]] || exit 0
told=()
for experiment in "${experiments[@]}"; do
  "$python" -m benchmark.publish "experiment=$experiment"
  "$python" -m benchmark.report "experiment=$experiment" store=results/published \
    "out=reports/published/$experiment"
  # A claim is about one setting of a method, and sensitivity has several.
  [[ "$experiment" == *-sensitivity ]] || told+=("$experiment")
done
"$python" -m benchmark.findings "experiment=$(IFS=,; printf %s "${told[*]}")" \
  store=results/published out=reports/published/findings.md
printf 'README.md shows the table of quick and the first findings: scripts/update_readme.py\n'
