#!/bin/sh
# Builds the wheel, installs it as a user would into a fresh environment outside the repository, and runs it there.
#
#   install-check.sh PYTHON    the Python to make the environment with
set -eu

python=$1
here=$(pwd)
case $python in /*) ;; *) python=$here/$python ;; esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$work/dist" "$here"
"$python" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "$work"/dist/nettrace-*.whl

cd "$work" # so that nothing is found in the repository
"$work/venv/bin/nettrace" --version
"$work/venv/bin/nettrace" explain >/dev/null
"$work/venv/bin/python" - "$work/venv" <<'CODE'
import sys
from importlib.resources import files
from pathlib import Path

import nettrace
import probes

for package in (nettrace, probes):
    assert Path(package.__file__).is_relative_to(sys.argv[1]), f"{package.__name__} does not come from the wheel"
assert files("nettrace").joinpath("data/verdict.schema.json").is_file(), "the wheel lacks the schema"
CODE
echo "the wheel installs and runs"
