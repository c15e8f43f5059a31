#!/usr/bin/env bash
# Schemathesis against the real binary: requests made from the server's own OpenAPI document, good
# ones and bad ones, and the answers held against it. No answer may be a 5xx, have a status or a
# body that the document does not name, or come from a request that the document forbids. Then the
# published document of tests/openapi, in the same way.
#
# usage: tests/schemathesis/run.sh VLMD_BINARY [EXAMPLES_PER_ROUTE [SECONDS]]
#
# Installs schemathesis into a folder of its own under target/, starts the server with the embedded
# model on a free port, and ends it. The same seed makes the same requests.
set -euo pipefail
cd "$(dirname "$0")/../.."
binary=$1
examples=${2:-20}
seconds=${3:-120}
work=target/schemathesis
mkdir -p "$work"
[ -x "$work/venv/bin/python" ] || python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check -r tests/schemathesis/requirements.txt

cleanup() { kill "${server:-}" 2>/dev/null || true; }
trap cleanup EXIT
# Short answers: what is tried is the way in and out, not the model.
"$binary" serve --host 127.0.0.1 --port 0 --api-key schemathesis --served-model-name test \
  --default-max-tokens 8 \
  >"$work/server.out" 2>"$work/server.log" &
server=$!
url() { sed -nE 's/.*(http:[^ ]+).*/\1/p' "$work/server.out" | head -n 1; }
ready() { [ -n "$(url)" ] && curl --silent --fail --output "$work/ready" "$(url)/v1/health/ready"; }
for _ in $(seq 300); do if ready; then break; fi; sleep 0.1; done
ready || { cat "$work/server.log"; exit 1; }

export SCHEMATHESIS_HOOKS=hooks PYTHONPATH=tests/schemathesis PYTHONDONTWRITEBYTECODE=1
judge() {
  timeout "$seconds" "$work/venv/bin/schemathesis" run "$1" --url "$(url)" \
    --header 'Authorization: Bearer schemathesis' --checks all --exclude-checks "$2" \
    --max-examples "$examples" --seed 7 --generation-database none --continue-on-failure \
    --request-timeout 20 --no-color
}
# Not every request that a schema allows can be answered: pictures may not be there, fields may not
# go together. What must be accepted is in tests/e2e/published.rs.
judge "$(url)/openapi.json" positive_data_acceptance
# vlmd takes more than the published document does, and has more reasons to refuse.
judge tests/openapi/published.yaml \
  positive_data_acceptance,negative_data_rejection,status_code_conformance
