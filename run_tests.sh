#!/usr/bin/env bash
# Sets up the environment if need be and runs the tests, a process a core; arguments go to pytest:
#   ./run_tests.sh                 all
#   ./run_tests.sh -m "not slow"   without those that take more than half a minute
#   ./run_tests.sh tests/test_data.py -k ml100k
#   TEST_JOBS=0 ./run_tests.sh     all in one process, one after the other
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
bash scripts/setup.sh
# What a file of tests makes once, a training among them, is made in one process.
exec .venv/bin/python -m pytest -n "${TEST_JOBS:-auto}" --dist loadfile "$@"
