#!/usr/bin/env bash
# curl as scripts use it: whole and streamed, pictures by URL and from a file, large bodies, HTTP/1.0.
#
# usage: curl.sh BASE_URL PICTURE.png PICTURE_URL
set -euo pipefail
base_url=$1 picture=$2 picture_url=$3

ask() { curl --silent --show-error --fail-with-body "$@" "$base_url/v1/chat/completions"; }
json=(--header 'Content-Type: application/json')
answer() { python3 -c 'import json, sys; print(json.load(sys.stdin)["choices"][0]["message"]["content"])'; }
expect() { # NAME FOUND WANTED
  [ "$2" = "$3" ] || { printf '%s: found %q, wanted %q\n' "$1" "$2" "$3"; exit 1; }
}

question() { # URL [MORE]
  printf '{"model": "vlmd/tiny", "temperature": 0%s, "messages": [{"role": "user", "content": [
    {"type": "image_url", "image_url": {"url": "%s"}}, {"type": "text", "text": "Describe the image."}]}]}' "${2:-}" "$1"
}

by_url=$(ask "${json[@]}" --data "$(question "$picture_url")" | answer)
[ -n "$by_url" ] || { echo 'no answer'; exit 1; }

# From a file through standard input, as no argument holds a photograph.
inline=$(question "data:image/png;base64,$(base64 -w 0 "$picture")")
expect 'by value' "$(printf '%s' "$inline" | ask "${json[@]}" --data @- | answer)" "$by_url"
# What curl calls a body where nobody says otherwise is a form, and refused as one.
form=$(curl --silent --output /dev/null --write-out '%{http_code}' --data "$inline" "$base_url/v1/chat/completions")
expect 'as a form' "$form" 415
expect 'HTTP/1.0' "$(printf '%s' "$inline" | ask --http1.0 "${json[@]}" --data-binary @- | answer)" "$by_url"
expect 'chunked' "$(printf '%s' "$inline" | ask "${json[@]}" --header 'Transfer-Encoding: chunked' --data-binary @- | answer)" "$by_url"
# curl waits for `100 Continue` before it sends more than a mebibyte.
expect 'a large body' "$(printf '%s%*s' "$inline" 2000000 '' | ask "${json[@]}" --data-binary @- | answer)" "$by_url"

stream=$(ask --no-buffer "${json[@]}" --data "$(question "$picture_url" ', "stream": true')")
expect 'the last event' "$(grep -v '^\r*$' <<<"$stream" | tail -n 1 | tr -d '\r')" 'data: [DONE]'
streamed=$(sed -n 's/^data: {/{/p' <<<"$stream" | python3 -c 'import json, sys
chunks = [json.loads(line) for line in sys.stdin]
print("".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]))')
expect 'streamed' "$streamed" "$by_url"

refused=$(curl --silent --write-out ' %{http_code}' "${json[@]}" --data '{"messages": []}' "$base_url/v1/chat/completions")
[[ $refused == *'"error"'*' 400' ]] || { echo "$refused"; exit 1; }
expect 'HEAD' "$(curl --silent --head --output /dev/null --write-out '%{http_code}' "$base_url/v1/models")" 200
echo 'curl: ok'
