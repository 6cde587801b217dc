#!/usr/bin/env bash
# Measures speed on a GPU node, what has bounds in under ten minutes, and needs neither git nor a
# network:
#
#   DIGER_BENCH_COMMIT=$(git rev-parse HEAD) bash scripts/gpu_bench.sh [FOLDER] [OUT] [option or key=value ...]
#
# FOLDER is what scripts/pack_offline.sh packed; without it, or with -, the checkout's own .venv is
# used. OUT (reports/speed) gets the results, as they come, with log.txt and gpu.txt, which says what
# the GPU is. The rest goes to benchmark.speed as it is, key=value to the profile, too; without any, it
# is DIGER (FrqUD) on Beauty at the paper's sizes, with recorded steps, and bf16 where a part has one
# precision. Ends with another code than 0 if anything failed or had to be cut short; what was measured
# until then stays, and a second call with the same OUT and other PARTS adds to it. The commit is needed
# where this copy has no git.
#
#   LIMIT_SECONDS=570   after which it is interrupted, the set-up of the environment included
#   PARTS="train:130 ..."  the parts, in their order, and the seconds to plan for each: fewer, or
#                       shorter ones, where there is less time. Beside those of benchmark.speed:
#                       kernels (does the GPU compute what a CPU does?) and profile (what the time
#                       of a step goes to), which take as long as they take
set -uo pipefail

say() { printf 'gpu_bench: %s\n' "$*" >&2; }
fail() { say "error: $*"; exit 2; }

SECONDS=0
limit="${LIMIT_SECONDS:-570}"
parts="${PARTS:-kernels:15 train:24 agreement:4 tokenizer:6 statistics:5 together:30 deterministic:8 profile:30 recbole:20 users:15 items:20}"
for part in $parts; do
  [[ "$part" =~ ^[a-z]+:[1-9][0-9]*$ ]] || fail "PARTS must be words like train:130, got $part"
done
[[ "$limit" =~ ^[1-9][0-9]*$ ]] || fail "LIMIT_SECONDS must be a whole number from 1, got $limit"
case "${1:-}" in -*[!-]*) fail "usage: bash scripts/gpu_bench.sh [FOLDER] [OUT] [key=value ...]" ;; esac
repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
folder="${1:--}"
out="$(realpath -m -- "${2:-$repo/reports/speed}")"
extra=("${@:3}")
[ "${#extra[@]}" -gt 0 ] ||
  extra=(--methods diger_frqud --targets paper/beauty/keyphrases --ways "fp32, graph; bf16, graph" precision=bf16)
settings=() # of those, what is not an option or the value of one
for ((i = 0; i < ${#extra[@]}; i++)); do
  case "${extra[i]}" in
    --*=* | -- | --publish) ;;
    --*) i=$((i + 1)) ;;
    *=*) settings+=("${extra[i]}") ;;
  esac
done

if [ "$folder" = - ]; then
  [ -x "$repo/.venv/bin/python" ] || fail "there is no .venv: bash scripts/setup.sh makes it, or name a folder of scripts/pack_offline.sh"
  run=("$repo/.venv/bin/python")
else
  folder="$(realpath -m -- "$folder")"
  run=(bash "$repo/scripts/run_offline.sh" "$folder")
  # The set-up comes first, so that a broken one is told from a failed measurement.
  "${run[@]}" python -c 'import benchmark' || exit 2
  run+=(python)
fi
git -C "$repo" rev-parse HEAD >/dev/null 2>&1 || [[ "${DIGER_BENCH_COMMIT:-}" =~ ^[0-9a-f]{40}$ ]] ||
  fail "this copy has no git: set DIGER_BENCH_COMMIT to what git rev-parse HEAD gives where it was made"
mkdir -p "$out" || fail "cannot write to $out"
nvidia-smi >"$out/gpu.txt" 2>&1 || say "note: nvidia-smi does not run here"
cd "$repo" || exit 2

export PYTHONUNBUFFERED=1
# A process for each part: an error on the GPU ends all of a process. What the figures rest on comes
# first, then what has bounds, of it last what waits for a service of NVIDIA's that may not answer,
# then what there is time for. To start, to load data and to record
# steps takes several times the budgets, and is in none of them.
worst=0
failed=()
interrupted=0
trap 'interrupted=1' INT
kernels_limit=120 # which takes seconds: one that hangs is to leave time for the others
# All parts are of one state of the checkout, whatever else a batch system writes into it meanwhile.
export DIGER_BENCH_SPEED_SESSION="$$-$(date +%s)"
: >"$out/log.txt"
for part in $parts; do
  left=$((limit - SECONDS))
  code=124
  case "${part%:*}" in
    kernels)
      what=(-m benchmark.speed.kernels)
      [ "$left" -le "$kernels_limit" ] || left=$kernels_limit
      ;;
    profile) what=(-m benchmark.speed.profile --device cuda --methods diger_frqud --out "$out" ${settings[@]+"${settings[@]}"}) ;;
    *)
      what=(-m benchmark.speed --device cuda --only "${part%:*}"
        --budget-seconds "${part#*:}" --out "$out" ${extra[@]+"${extra[@]}"})
      ;;
  esac
  if [ "$left" -gt 0 ]; then
    timeout --foreground --signal=INT --kill-after=20 "$left" \
      "${run[@]}" "${what[@]}" 2>&1 | tee -i -a "$out/log.txt"
    code=${PIPESTATUS[0]}
  fi
  if [ "$interrupted" = 1 ]; then
    say "interrupted after $SECONDS s: what was measured until then is in $out"
    exit 130
  fi
  [ "$code" -eq 0 ] || failed+=("${part%:*} ($code)")
  case "$worst:$code" in # a part that failed says more than one for which there was no time
    *:0) ;;
    0:* | 124:* | 137:*) worst=$code ;;
  esac
done
case "$worst" in
  0) say "done in $SECONDS s: $out" ;;
  124 | 137) say "error: cut short after $SECONDS s, without ${failed[*]}; what was measured until then is in $out" ;;
  *) say "error: ended with code $worst after $SECONDS s, without ${failed[*]}; what was measured is in $out" ;;
esac
exit "$worst"
