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
#
# Ends with code 3 where the same command has to be given again: after tuning, whose choices are to be
# committed first, so that the commit that a run names has its settings; and while a --time-limit has
# left trials or cells. Nothing is published before all cells are done.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf 'reproduce: %s\n' "$*" >&2; }
python="${PYTHON:-.venv/bin/python}"
read -ra experiments <<<"${EXPERIMENTS:-beauty beauty-two-stage beauty-noise beauty-sensitivity yelp}"
steps=" ${ONLY:-tune run publish} "
for step in $steps; do
  case "$step" in tune | run | publish) ;; *) say "error: no step $step; there are tune, run and publish"; exit 2 ;; esac
done
overrides=() # settings alone, for commands that run nothing
dry=
for word in "$@"; do
  case "$word" in
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' scripts/reproduce.sh; exit 0 ;;
    --dry-run) dry=1 ;;
    results=* | reports=*) say "error: $word: what is published comes from results"; exit 2 ;;
    -*) ;;
    *=*) overrides+=("$word") ;;
  esac
done
[ -x "$python" ] || bash scripts/setup.sh

if [[ "$steps" == *" tune "* ]]; then
  log="$(mktemp)"
  trap 'rm -f "$log"' EXIT
  for experiment in "${experiments[@]}"; do
    case "$experiment" in
      *-two-stage | *-sensitivity) ;; # all of their methods are tuned by then
      *) "$python" -m benchmark.tune "$experiment" "$@" | tee -a "$log" ;;
    esac
  done
  if grep -q 'trials left$' "$log"; then
    say "trials are left: the same command goes on"
    exit 3
  fi
  if [ -z "$dry" ] && [ -n "$(git status --porcelain benchmark/conf/tuned 2>/dev/null)" ]; then
    say "commit benchmark/conf/tuned, so that the commit which runs name has their settings; then the same command goes on"
    exit 3
  fi
fi
if [[ "$steps" == *" run "* ]]; then
  for experiment in "${experiments[@]}"; do
    "$python" -m benchmark.experiment "$experiment" "$@"
  done
fi
[[ "$steps" == *" publish "* && -z "$dry" ]] || exit 0
for experiment in "${experiments[@]}"; do
  state="$("$python" -m benchmark.experiment "$experiment" --dry-run ${overrides[@]+"${overrides[@]}"} | tail -n 1)"
  if [[ "$state" != *" 0 left" ]]; then
    say "$experiment: $state: nothing is published before all are done; the same command goes on"
    exit 3
  fi
done
page=reports/published/findings.md
told="$(sed -nE '1s/.* experiment=([^ ]+).*/\1/p' "$page" 2>/dev/null || true)"
new=
for experiment in "${experiments[@]}"; do
  "$python" -m benchmark.publish "experiment=$experiment" ${overrides[@]+"${overrides[@]}"}
  "$python" -m benchmark.report "experiment=$experiment" store=results/published \
    "out=reports/published/$experiment" ${overrides[@]+"${overrides[@]}"}
  # A claim is about one setting of a method, and sensitivity has several.
  case "$experiment,$new,$told," in
    *-sensitivity,* | *",$experiment,"*) ;;
    *) new="${new:+$new,}$experiment" ;;
  esac
done
told="$new${new:+${told:+,}}$told" # what is new comes first: README tells of the first one
code=0
"$python" -m benchmark.findings "experiment=$told" store=results/published "out=$page" || code=$?
"$python" scripts/update_readme.py
exit "$code"
