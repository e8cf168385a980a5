#!/usr/bin/env bash
# Create .venv and install graft with the versions of constraints.txt.
# A machine whose own Python already has a torch with CUDA keeps it; any other machine gets the CPU build.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "graft needs Python 3.11 or newer; $python is $("$python" --version). Set PYTHON=/path/to/python3.11" >&2
    exit 2
}

if "$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    echo "using the torch with CUDA that $python has"
    "$python" -m venv --system-site-packages .venv
    constraints=$(mktemp)
    # What stands on the machine stays: only what is missing is installed, at our versions.
    grep -v '^torch==' constraints.txt > "$constraints"
    .venv/bin/python -m pip install --quiet -c "$constraints" -e '.[hub,sentencepiece,dev]'
else
    "$python" -m venv .venv
    # torch first and by its exact version: left to the other packages, the newest CUDA build would come along.
    .venv/bin/python -m pip install --quiet "$(grep '^torch==' constraints.txt)"
    .venv/bin/python -m pip install --quiet -c constraints.txt -e '.[hub,sentencepiece,dev]'
fi
touch .venv/ready
