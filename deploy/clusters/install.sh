#!/bin/sh
# Installs raydqn and its dependencies on a node, into ~/raydqn/venv. The cluster files and the Dockerfile run it:
#
#   sh ~/raydqn/source/deploy/clusters/install.sh [aws|gcp|azure]...
#
# The lock files in this folder name each package, its version, and the SHA-256 of its files on PyPI: pip
# installs no other file, and builds none. The CPU build of torch is the one exception. PyPI does not have it, and
# a hash that this project has not seen at its source would be a guess: this build is checked by HTTPS only.
# To pin it, too, replace "$torch" below by -r FILE, with `torch==VERSION --hash=sha256:…` in that file.
#
#   RAYDQN_TORCH        cuda, cpu, or auto (default): cuda where the node has a GPU of NVIDIA's
#   RAYDQN_TORCH_INDEX  the index of the CPU build, for nodes that reach PyPI through a mirror
set -eu
locks=$(cd "$(dirname "$0")" && pwd)
source=$(dirname "$(dirname "$locks")")
venv=~/raydqn/venv
index=${RAYDQN_TORCH_INDEX:-https://download.pytorch.org/whl/cpu}
build=${RAYDQN_TORCH:-auto}

install() {
    "$venv/bin/pip" install --quiet --disable-pip-version-check "$@"
}

if [ "$build" = auto ]; then
    # The second look finds a GPU whose driver does not run yet: the first boot may still install it.
    if nvidia-smi > /dev/null 2>&1 || grep -qs 0x10de /sys/bus/pci/devices/*/vendor; then
        build=cuda
    else
        build=cpu
    fi
fi

case $build in
cuda)
    # To pip, the CPU build of a version is that version: it would stay.
    for installed in "$venv"/lib/python3.*/site-packages/torch-*+cpu.dist-info; do
        [ ! -e "$installed" ] || "$venv/bin/pip" uninstall --quiet --yes torch
    done
    set -- torch nodes "$@"
    ;;
cpu)
    torch=$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' "$locks/torch.lock")
    install --no-deps --index-url "$index" "$torch" || {
        echo "install.sh: cannot install the CPU build of $torch from $index: set RAYDQN_TORCH_INDEX to an" \
            "index that has it, or RAYDQN_TORCH=cuda for PyPI's build" >&2
        exit 1
    }
    set -- nodes "$@"
    ;;
*)
    echo "install.sh: RAYDQN_TORCH=$build: must be auto, cpu or cuda" >&2
    exit 2
    ;;
esac

for lock in "$@"; do # each name becomes two words: -r FILE
    set -- "$@" -r "$locks/$lock.lock"
    shift
done
install --require-hashes --only-binary :all: "$@"
install --no-deps --no-build-isolation "$source"
