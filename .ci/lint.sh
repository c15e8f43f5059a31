#!/usr/bin/env bash
# Lints Dockerfiles and shell scripts, with prebuilt programs that are pinned by their checksums.
#
# usage: lint.sh VENV
set -euo pipefail
cd "$(dirname "$0")/.."
"$1/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r .ci/lint.txt
"$1/bin/hadolint" --config docker/.hadolint.yaml docker/*.Dockerfile
# By what they are, not by name: .ci/run has no ending.
mapfile -t scripts < <(git grep -lE '^#!(/usr/bin/env |/bin/)(ba)?sh' -- ':!*.py' ':!*.rs' ':!*.md')
"$1/bin/shellcheck" "${scripts[@]}"
dockerfiles=(docker/*.Dockerfile)
echo "${#dockerfiles[@]} Dockerfiles, ${#scripts[@]} scripts"
