#!/bin/bash
# Stand-in for pegasus-lite-local.sh: runs a job of the submit host in a directory of its own, with its inputs in it.
set -eu
directory=$(mktemp -d)
trap 'rm -rf -- "$directory"' EXIT
IFS=, read -r -a files <<< "${_PEGASUS_TRANSFER_INPUT_FILES:-}"
for file in "${files[@]}"; do
    cp -- "$file" "$directory"
done
cd -- "$directory"
PATH=$PEGASUS_BIN_DIR:$PATH
# 5.1.3 writes @$_CONDOR_SCRATCH_DIR/X.in.lof
"${@//\$_CONDOR_SCRATCH_DIR/$directory}"
