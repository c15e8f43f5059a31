#!/usr/bin/env bash
# The official clients of OpenAI and Anthropic, what is built on them, and NVIDIA's benchmark, against the
# real binary.
#
# usage: tests/clients/run.sh VLMD_BINARY [PICTURE.png]
#
# Installs the clients from their registries into a folder of its own under target/, starts the
# server with the embedded model on a free port, another with a model that calls tools, one under names
# that NVIDIA's client knows, one that leaves in the middle of an answer, and a file server for the
# picture by URL, and ends all of them.
set -euo pipefail
cd "$(dirname "$0")/../.."
binary=$1
picture=$(realpath "${2:-models/tiny/examples/shapes.png}")
work=target/clients
mkdir -p "$work"

[ -x "$work/venv/bin/python" ] || python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check -r tests/clients/requirements.txt
cp tests/clients/package.json tests/clients/*.mjs "$work/"
# AIPerf wants other versions of what the clients stand on.
[ -x "$work/aiperf/bin/python" ] || python3 -m venv "$work/aiperf"
"$work/aiperf/bin/pip" install --quiet --disable-pip-version-check -r tests/clients/aiperf_requirements.txt
npm install --prefix "$work" --no-audit --no-fund --no-package-lock --loglevel=error

cleanup() { kill "${server:-}" "${tools:-}" "${named:-}" "${leaving:-}" "${files:-}" 2>/dev/null || true; }
trap cleanup EXIT

python3 - "$(dirname "$picture")" >"$work/files.port" <<'PY' &
import functools, http.server, sys
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[1])
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
print(server.server_port, flush=True)
server.serve_forever()
PY
files=$!
"$binary" serve --host 127.0.0.1 --port 0 --allow-media-host 127.0.0.1 >"$work/server.out" 2>"$work/server.log" &
server=$!
"$binary" serve --host 127.0.0.1 --port 0 --model tests/golden/mllama >"$work/tools.out" 2>"$work/tools.log" &
tools=$!
"$binary" serve --host 127.0.0.1 --port 0 --allow-media-host 127.0.0.1 \
  --served-model-name microsoft/phi-3-vision-128k-instruct,microsoft/phi-3.5-vision-instruct \
  >"$work/named.out" 2>"$work/named.log" &
named=$!
"$binary" serve --host 127.0.0.1 --port 0 --model tests/golden/phi3_v --drain-timeout 0 \
  --served-model-name microsoft/phi-3.5-vision-instruct >"$work/leaving.out" 2>"$work/leaving.log" &
leaving=$!

wait_for() { for _ in $(seq 300); do "$@" && return; sleep 0.1; done; cat "$work"/*.log; return 1; }
url() { sed -nE 's/.*(http:[^ ]+).*/\1/p' "$work/$1.out" | head -n 1; }
ready() { [ -n "$(url "$1")" ] && curl --silent --fail --output "$work/ready" "$(url "$1")/v1/health/ready"; }
wait_for ready server
wait_for ready tools
wait_for ready named
wait_for ready leaving
wait_for test -s "$work/files.port"
picture_url="http://127.0.0.1:$(cat "$work/files.port")/$(basename "$picture")"

base_url=$(url server)
tests/clients/curl.sh "$base_url" "$picture" "$picture_url"
"$work/venv/bin/python" tests/clients/openai_python.py "$base_url" "$picture" "$picture_url"
(cd "$work" && node openai_node.mjs "$base_url" "$picture" "$picture_url")
"$work/venv/bin/python" tests/clients/litellm_python.py "$base_url" "$picture" "$picture_url"
"$work/venv/bin/python" tests/clients/langchain_python.py \
  "$(url named)" "$(url leaving)" "$leaving" "$picture" "$picture_url"
tools_url=$(url tools)
"$work/venv/bin/python" tests/clients/responses_python.py "$base_url" "$picture" "$tools_url"
"$work/venv/bin/python" tests/clients/anthropic_python.py "$base_url" "$picture" "$picture_url" "$tools_url"
"$work/venv/bin/python" tests/clients/tools_python.py "$tools_url"
(cd "$work" && node tools_node.mjs "$tools_url")
(cd "$work" && node ai_node.mjs "$base_url" "$picture" "$tools_url")
# AIPerf asks for a tokenizer of transformers' form, to draw words with.
mkdir -p "$work/tokenizer"
cp models/tiny/tokenizer.json "$work/tokenizer/"
echo '{"tokenizer_class": "PreTrainedTokenizerFast"}' >"$work/tokenizer/tokenizer_config.json"
"$work/venv/bin/python" tests/clients/aiperf_runs.py "$base_url" "$work/aiperf/bin/aiperf" "$PWD/$work/tokenizer"
