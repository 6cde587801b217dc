#!/usr/bin/env bash
# Sets up the environment if need be and runs the tests; arguments go to pytest:
#   ./run_tests.sh                 all
#   ./run_tests.sh -m "not slow"   without those that take more than half a minute
#   ./run_tests.sh tests/test_data.py -k ml100k
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
bash scripts/setup.sh
exec .venv/bin/python -m pytest "$@"
