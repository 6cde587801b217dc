#!/usr/bin/env bash
# Makes the virtual environment .venv with everything that the suite and its tests need, or finds
# that it is there already. Safe to run again at any time: an interrupted run is simply repeated.
#
#   bash scripts/setup.sh               uses the Python of .venv, else python3.11, python3.12 or
#                                       python3, whichever is found
#   PYTHON=/path/to/python bash scripts/setup.sh
#
# Packages come from wherever pip is set up to look.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf 'setup: %s\n' "$*" >&2; }

# A stub on the PATH may exist and yet not run, so each candidate has to prove itself.
usable() {
  "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' \
    >/dev/null 2>&1
}

find_python() {
  local candidate
  if [ -n "${PYTHON:-}" ]; then
    if usable "$PYTHON"; then printf '%s\n' "$PYTHON"; return; fi
    say "error: PYTHON=$PYTHON is not a Python 3.11 or 3.12 with the venv module"
    exit 2
  fi
  # The Python of an environment that is there already comes first: whoever chose another one with
  # PYTHON= once does not have to say so every time.
  local present
  present="$(.venv/bin/python -c 'import sys; print(sys._base_executable)' 2>/dev/null || true)"
  for candidate in ${present:+"$present"} python3.11 python3.12 python3; do
    if usable "$candidate"; then printf '%s\n' "$candidate"; return; fi
  done
  say "error: no Python 3.11 or 3.12 with the venv module was found; install one, or set PYTHON=/path/to/python"
  exit 2
}

# What decides the environment: these three files, the Python and the folder (an environment that
# was moved or copied still points to its old place).
fingerprint() {
  "$1" - <<'PY'
import hashlib
import pathlib
import sys

digest = hashlib.sha256(f"{sys.version} {pathlib.Path.cwd()}".encode())
for name in ("pyproject.toml", "constraints.txt", "scripts/setup.sh"):
    digest.update(pathlib.Path(name).read_bytes())
print(digest.hexdigest())
PY
}

python="$(find_python)"
wanted="$(fingerprint "$python")"
stamp=.venv/setup-finished
started=.venv/setup-started # left behind by a run that did not end

up_to_date() { [ ! -f "$started" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && [ -x .venv/bin/python ]; }

if up_to_date; then exit 0; fi

# Two commands that start at once must not install into the same folder.
mkdir -p .cache
if command -v flock >/dev/null 2>&1; then
  exec 9>.cache/setup.lock
  flock -n 9 || { say "waiting for another set-up to finish"; flock 9; }
  if up_to_date; then exit 0; fi
fi

log=.cache/setup.log
failed() {
  tail -n 20 "$log" >&2 || true
  say "error: $1 failed (the end of $log is above); run the command again"
  exit 2
}

version() { "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null || true; }

rm -f "$stamp"
# pip may not get past a package that was half written when it was interrupted: start afresh.
if [ -f "$started" ] || [ "$(version .venv/bin/python)" != "$(version "$python")" ] ||
  ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
  say "making .venv with $python ($(version "$python"))"
  "$python" -m venv --clear .venv >"$log" 2>&1 || failed "making the virtual environment"
fi

touch "$started"
say "installing packages into .venv: once, 1 to 15 minutes (up to 3 GB is downloaded)"
pip() { .venv/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt "$@"; }
pip -e '.[dev]' >"$log" 2>&1 || failed "installing the packages"
# RecBole pins packages that only its command line uses; the parts used here need none of them.
pip --no-deps recbole==1.2.1 >"$log" 2>&1 || failed "installing recbole"

printf '%s\n' "$wanted" >"$stamp"
rm -f "$started"
say "done"
