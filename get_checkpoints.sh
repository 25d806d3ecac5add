#!/usr/bin/env bash
# bash get_checkpoints.sh [NAME...]: download the published checkpoints and check those that are there (--help says more).
# The first entry of Python's path would be the folder one stands in; ours must not be hidden by anything that lies there.
exec python3 -c 'import sys; sys.path[0] = sys.argv.pop(1); from engine.base import run_script; from engine.download import main; run_script(main)' \
    "$(dirname -- "${BASH_SOURCE[0]}")" "$@"
