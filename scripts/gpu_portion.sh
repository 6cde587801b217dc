#!/usr/bin/env bash
# Runs one portion of an experiment on a GPU node that is there for a limited time, and needs neither
# git nor a network there:
#
#   python -m benchmark.portions results .offline/known      # here: which cells are done already
#   DIGER_BENCH_COMMIT=$(git rev-parse HEAD) bash scripts/gpu_portion.sh .offline OUT beauty   # there
#   python -m benchmark.export import=OUT/runs.zip store=results                               # here
#
# FOLDER is what scripts/pack_offline.sh packed, and - the checkout's own .venv. What follows the
# experiment goes to benchmark.experiment (or benchmark.tune) as it is. OUT gets runs.zip, a bundle of
# all cells that have been finished on this node, without ranked lists and checkpoints; cache/, the
# tokenizers trained here; log.txt; gpu.txt; and logs/, the ends of what unfinished cells printed. A
# second portion on the same node goes on with cells that the first one has begun. Ends with code 0 if
# no cell failed, whatever is left.
#
#   MINUTES=9           after which it must be over, the set-up of the environment included
#   FINISH_WITHIN=$MINUTES  minutes from now in which a cell must be expected to be done, over all
#                       portions that this node is there for
#   RESULTS=results/portions  where cells run; a store with nothing else in it, for the bundle
#   COMMAND=experiment  or tune: the trials of benchmark.tune; choose here, after the import
#   TOKENIZERS=1        0: bring no tokenizers back
#   UNFINISHED=0        1: bring begun cells back, too, as unfinished.tar; where FOLDER holds such a
#                       file they go on there. Large: a checkpoint of the paper's sizes is tens of MB.
set -uo pipefail

say() { printf 'gpu_portion: %s\n' "$*" >&2; }
fail() { say "error: $*"; exit 2; }
minutes() { awk -v all="$1" -v gone="$SECONDS" -v kept="$2" 'BEGIN { print all - (gone + kept) / 60 }'; }
positive() { [[ "$1" =~ ^[0-9]+(\.[0-9]+)?$ ]] && awk -v n="$1" 'BEGIN { exit !(n > 0) }'; }

SECONDS=0
RESERVE=45 # seconds that it may take to stop, to bundle and to copy
[ $# -ge 3 ] || fail "usage: bash scripts/gpu_portion.sh FOLDER|- OUT EXPERIMENT [option ...]"
limit="${MINUTES:-9}"
finish="${FINISH_WITHIN:-$limit}"
command="${COMMAND:-experiment}"
positive "$limit" || fail "MINUTES must be a number above 0, got $limit"
positive "$finish" || fail "FINISH_WITHIN must be a number above 0, got $finish"
case "$command" in experiment | tune) ;; *) fail "COMMAND must be experiment or tune, got $command" ;; esac
repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
folder="$1"
out="$(realpath -m -- "$2")"
experiment="$3"
shift 3
cd "$repo" || exit 2

if [ "$folder" = - ]; then
  [ -x "$repo/.venv/bin/python" ] || fail "there is no .venv: bash scripts/setup.sh makes it, or name a folder of scripts/pack_offline.sh"
  run=("$repo/.venv/bin/python")
  cache="${DIGER_BENCH_CACHE:-$repo/.cache}"
else
  folder="$(realpath -m -- "$folder")"
  cache="$(bash scripts/run_offline.sh "$folder" printenv DIGER_BENCH_CACHE)" || exit 2
  run=(bash "$repo/scripts/run_offline.sh" "$folder" python)
fi
git rev-parse HEAD >/dev/null 2>&1 || [[ "${DIGER_BENCH_COMMIT:-}" =~ ^[0-9a-f]{40}$ ]] ||
  fail "this copy has no git: set DIGER_BENCH_COMMIT to what git rev-parse HEAD gives where it was made"
results="${RESULTS:-$repo/results/portions}"
mkdir -p "$out" "$results" || fail "cannot write to $out or $results"
nvidia-smi >"$out/gpu.txt" 2>&1 || say "note: nvidia-smi does not run here"
if [ -f "$folder/unfinished.tar" ]; then
  tar -C "$results" --skip-old-files -xf "$folder/unfinished.tar" || fail "$folder/unfinished.tar is damaged"
fi
known=()
for store in "$repo/results/published" "$folder/known"; do
  [ -d "$store" ] && known+=(--known "$store")
done
touch "$out/.began"

export PYTHONUNBUFFERED=1
left="$(minutes "$limit" "$RESERVE")"
positive "$left" || fail "the set-up took $SECONDS s of $limit min: raise MINUTES"
# The command keeps to its limit itself, but for data that it still prepares and a cell that hangs.
timeout --foreground --signal=INT --kill-after=20 "$(awk -v left="$left" 'BEGIN { print 60 * left + 20 }')" \
  "${run[@]}" -m "benchmark.$command" "$experiment" --time-limit "$left" \
  --finish-within "$(minutes "$finish" 0)" "${known[@]}" "$@" "results=$results" 2>&1 | tee -i -a "$out/log.txt"
code=${PIPESTATUS[0]}
case "$code" in 124 | 137) say "error: stopped after $SECONDS s, long after its own limit; see $out/log.txt" ;; esac

finished() { grep -rlE --include=run.json '^  "status": "done"' "$results" | grep -v "^$results/published/"; }
unfinished() { find "$results" -path "$results/published" -prune -o -name output.log -printf '%h\n' |
  while read -r cell; do grep -qsE '^  "status": "done"' "$cell/run.json" || printf '%s\n' "$cell"; done; }
if [ -n "$(finished)" ]; then
  rm -f "$out/runs.zip"
  "${run[@]}" -m benchmark.export "store=$results" "bundle=$out/runs.zip" 2>&1 | tee -a "$out/log.txt"
  [ "${PIPESTATUS[0]}" -eq 0 ] || code=2
else
  say "no cell has been finished on this node yet"
fi
while read -r cell; do
  place="$out/logs/${cell#"$results"/}"
  mkdir -p "$place" && tail -n 50 "$cell/output.log" >"$place/output.log"
done < <(unfinished)
if [ "${TOKENIZERS:-1}" = 1 ] && [ -d "$cache/tokenizer" ]; then
  mkdir -p "$out/cache/tokenizer"
  find "$cache/tokenizer" -newer "$out/.began" -type f ! -name '*.lock' ! -name '.*' \
    ! -name '*.training.pt' -exec cp {} "$out/cache/tokenizer/" \;
fi
if [ "${UNFINISHED:-0}" = 1 ]; then
  unfinished | sed "s|^$results/||" | tar -C "$results" -cf "$out/unfinished.tar" --exclude=.lock -T -
fi
rm -f "$out/.began"
say "$(du -sm "$out" | cut -f 1) MiB in $out after $SECONDS s"
exit "$code"
