#!/usr/bin/env bash
# Packs what a GPU node without a network lacks, to be taken along with this checkout:
#
#   bash scripts/pack_offline.sh [--without-pyarrow] [--without-matplotlib] [FOLDER] [dataset ...]
#
# FOLDER (.offline) then holds wheels/, the packages that such a node is not sure to have, and
# cache/, the data sets (ml-100k and beauty/keyphrases) as they are prepared: splits, vectors of the
# items, and the tokenizers that are trained already. scripts/run_offline.sh uses it there. The node
# is expected to have Linux on x86-64 and a Python with torch, transformers, sentence-transformers,
# pandas, scipy, numpy and scikit-learn, and what these need themselves.
#
# All of it stays under 64 MiB, which leaves no room for pyarrow's wheel, of 52 MiB, beside a data
# set: a node without pyarrow needs a larger LIMIT_MIB. --without-pyarrow spares the download, and
# --without-matplotlib 18 MiB, for a node that has its own.
#
#   PYTHON_VERSION=3.12       of the node
#   PYTHON=.venv/bin/python   the Python that packs; the suite must be installed in it
#   LIMIT_MIB=64
set -euo pipefail

say() { printf 'pack_offline: %s\n' "$*" >&2; }
fail() { say "error: $*"; exit 2; }
usage() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "${BASH_SOURCE[0]}"; }

# What benchmark.run, .experiment, .report and .speed import beyond the packages above, and what
# that needs in turn; tests/test_offline_scripts.py compares the list with the imports. Not numba:
# its loops are for training on a CPU, which comes to the same without them, only later.
packages=(
  hydra-core omegaconf pooch platformdirs requests urllib3 idna certifi charset-normalizer
  filelock tqdm psutil threadpoolctl packaging
  # RecBole, and what the parts of it that are used here import of its own long list
  recbole colorlog texttable colorama tensorboard absl-py protobuf
)
matplotlib=(matplotlib contourpy cycler fonttools kiwisolver pillow pyparsing)
compiled=(psutil matplotlib contourpy kiwisolver pillow pyarrow) # all others have wheels for any
built=(antlr4-python3-runtime) # no index has the release that Hydra needs as a wheel
platforms=(manylinux{_2_28,_2_27,_2_17,2014,_2_12,2010,_2_5,1}_x86_64)

with_pyarrow=1
words=()
for argument in "$@"; do
  case "$argument" in
    --without-pyarrow) with_pyarrow=0 ;;
    --without-matplotlib) matplotlib=() ;;
    -h | --help) usage; exit 0 ;;
    -*) fail "no option $argument; there are --without-pyarrow and --without-matplotlib" ;;
    *) words+=("$argument") ;;
  esac
done

repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
is_dataset() { [ -f "$repo/benchmark/conf/dataset/$1.yaml" ]; }
folder="${words[0]:-$repo/.offline}"
! is_dataset "$folder" || fail "the first word is the folder to pack into, and $folder is a data set"
folder="$(realpath -m -- "$folder")"
datasets=("${words[@]:1}")
[ "${#datasets[@]}" -gt 0 ] || datasets=(ml-100k beauty/keyphrases)
for dataset in "${datasets[@]}"; do
  is_dataset "$dataset" || fail "no data set $dataset; they are in benchmark/conf/dataset"
done
version="${PYTHON_VERSION:-3.12}"
[[ "$version" =~ ^3\.1[12]$ ]] || fail "PYTHON_VERSION must be 3.11 or 3.12, got $version"
limit="${LIMIT_MIB:-64}"
[[ "$limit" =~ ^[1-9][0-9]*$ ]] || fail "LIMIT_MIB must be a whole number from 1, got $limit"
python="$(realpath -ms -- "${PYTHON:-$repo/.venv/bin/python}")"
[ -x "$python" ] || fail "$python does not run: bash scripts/setup.sh makes .venv, or set PYTHON="
if [ -e "$folder" ] && [ ! -f "$folder/packed.txt" ] && [ -n "$(ls -A "$folder")" ]; then
  fail "$folder is not empty, and is none that this script has made: name another folder"
fi
cd "$repo"

log="$(mktemp)"
trap 'rm -f "$log"' EXIT
pip() {
  "$python" -m pip --disable-pip-version-check "$@" >"$log" 2>&1 && return
  fail "pip $1 failed: $(grep -m 1 '^ERROR' "$log" || tail -n 1 "$log")"
}

pinned() { # name==version of each package, as constraints.txt has it
  local name
  for name in "$@"; do
    grep -m 1 "^$name==" constraints.txt || fail "constraints.txt has no $name"
  done
}

fetch() { # wheels for the node, whatever this machine is
  local pins name pure=() own=()
  for name in "$@"; do
    if [[ " ${compiled[*]} " == *" $name "* ]]; then own+=("$name"); else pure+=("$name"); fi
  done
  local wheels=(download --no-deps --only-binary=:all: --python-version "$version" -d "$folder/wheels")
  # shellcheck disable=SC2086 # one word a package
  if [ "${#pure[@]}" -gt 0 ]; then
    pins="$(pinned "${pure[@]}")"
    pip "${wheels[@]}" --platform=any $pins
  fi
  # shellcheck disable=SC2086
  if [ "${#own[@]}" -gt 0 ]; then
    pins="$(pinned "${own[@]}")"
    pip "${wheels[@]}" --implementation cp "${platforms[@]/#/--platform=}" $pins
  fi
}

mib() { # of the files below a folder
  find "$1" -type f -printf '%s\n' | awk '{ n += $1 } END { printf "%d", (n + 1048575) / 1048576 }'
}

parts() { # the largest files, in MiB
  find "$folder" -type f -printf '%s %P\n' | sort -rn | head -n 5 |
    awk '{ printf "%s%s %.1f", (NR > 1 ? ", " : ""), $2, $1 / 1048576 }'
}

rm -rf "$folder/wheels" "$folder/cache" "$folder/venv"
mkdir -p "$folder/wheels" "$folder/cache"
: >"$folder/packed.txt" # says that the folder is ours, should this be interrupted

say "fetching wheels for Python $version"
fetch "${packages[@]}" "${matplotlib[@]}"
pins="$(pinned "${built[@]}")"
pip wheel --no-deps -w "$folder/wheels" "$pins"

say "packing ${datasets[*]}"
"$python" - "$folder/cache" "${datasets[@]}" <<'PY'
"""Copy what benchmark.run reads of prepared data sets; prepare them first where need be."""

import shutil
import sys
import tempfile
from pathlib import Path
from unittest import mock

from benchmark.config import CONF, build_method, compose_config, settings_from
from benchmark.data.prepare import prepare
from benchmark.errors import UserError
from benchmark.guard import guard
from benchmark.store import RunFolder
from diger.tokenizer import stored_at

SEEDS = range(5)


def pack(name: str, target: Path) -> None:
    settings = settings_from(compose_config([f"dataset={name}"]))
    if settings.dataset.encoder is not None and settings.dataset.encoder.reads_table:
        raise UserError(
            f"{name} reads its vectors from the raw download in every run, which is too large to "
            "pack; choose a data set whose texts are embedded"
        )
    cache, protocol = settings.cache, settings.protocol
    found = prepare(
        settings.dataset, protocol.max_history, protocol.train_prefixes, cache,
        options=settings.embedding,
    )
    copied = target / found.folder.relative_to(cache)
    shutil.copytree(found.folder, copied, ignore=shutil.ignore_patterns("*.lock", ".*"))
    vectors = cache / "embeddings" / f"{found.data.embeddings_sha256}.npy"
    files = {vectors, *tokenizers(name, found.data)}
    for file in [*files, *(file.with_suffix(".json") for file in files)]:
        if file.is_file():
            place = target / file.relative_to(cache)
            place.parent.mkdir(exist_ok=True)
            shutil.copy2(file, place)


def tokenizers(name: str, data) -> set[Path]:
    """Where the RQ-VAEs of every protocol and preset are kept, if they are trained."""
    found = set()
    with tempfile.TemporaryDirectory() as scratch:
        for protocol in (CONF / "protocol").glob("*.yaml"):
            for preset in ("released", "found"):
                overrides = [
                    f"dataset={name}", f"protocol={protocol.stem}", f"settings@preset={preset}",
                    "method=tiger",
                ]
                settings = settings_from(compose_config(overrides))
                run = RunFolder(Path(scratch), settings.cache, "cpu")

                def note(key, empty, *_, cache=settings.cache):
                    found.add(stored_at(key, cache))
                    return empty

                method = build_method(settings)
                with mock.patch("diger.rqvae.shared", note):
                    for seed in SEEDS:
                        method.make_tokenizer(data, seed, run)
    return found


def main() -> None:
    for name in sys.argv[2:]:
        pack(name, Path(sys.argv[1]))


guard(main)
PY

left_out=""
if [ "$with_pyarrow" = 1 ]; then
  fetch pyarrow
  if [ "$(mib "$folder")" -gt "$limit" ]; then
    left_out="pyarrow is left out, since $(mib "$folder") MiB is over $limit: the node needs its own, or this a larger LIMIT_MIB"
    rm "$folder"/wheels/pyarrow-*
  fi
fi
{
  printf 'made by scripts/pack_offline.sh on %s for Python %s\n' "$(date -u +%FT%TZ)" "$version"
  printf 'checkout %s\n' "$(git rev-parse HEAD 2>/dev/null || echo 'without git')"
  printf '%s\n' "${datasets[@]}"
} >"$folder/packed.txt"
size="$(mib "$folder")"
[ "$size" -le "$limit" ] ||
  fail "$folder has $size MiB, over $limit: pack fewer data sets; the largest parts, in MiB: $(parts)"
[ -z "$left_out" ] || say "$left_out"
say "$size MiB in $folder; there: bash scripts/run_offline.sh FOLDER python -m benchmark.run ..."
