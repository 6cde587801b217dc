#!/usr/bin/env bash
# Sets up the environment if need be and runs the tests; arguments go to pytest:
#   ./run_tests.sh                 all but the slow tests
#   ./run_tests.sh -m slow         the slow ones
#   ./run_tests.sh tests/test_data.py -k ml100k
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
bash scripts/setup.sh
exec .venv/bin/python -m pytest "$@"
