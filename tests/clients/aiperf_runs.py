"""NVIDIA's AIPerf, the successor of genai-perf, against the server: every answer has the length asked for.

usage: aiperf_runs.py BASE_URL AIPERF TOKENIZER_FOLDER

A benchmark's figures are of use only if `max_tokens`, `min_tokens` and `ignore_eos` are kept to.
The runs ask the way that NIM's documentation of genai-perf does: prompts of drawn words, with and
without a drawn picture, streamed or not, with these three as extra inputs.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

MODEL = "vlmd/tiny"
REQUESTS = 6

base_url, aiperf, tokenizer = sys.argv[1:]

PICTURE = [
    "--image-width-mean=48",
    "--image-width-stddev=0",
    "--image-height-mean=32",
    "--image-height-stddev=0",
    "--image-format=png",
]


def run(*arguments):
    """The report of one run of AIPerf."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            aiperf,
            "profile",
            f"--model={MODEL}",
            f"--url={base_url}",
            "--endpoint-type=chat",
            f"--tokenizer={tokenizer}",
            f"--request-count={REQUESTS}",
            "--concurrency=2",
            "--synthetic-input-tokens-mean=20",
            "--synthetic-input-tokens-stddev=0",
            "--use-server-token-count",
            "--ui-type=none",
            f"--artifact-dir={folder}",
            *arguments,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        report = Path(folder, "profile_export_aiperf.json")
        assert done.returncode == 0 and report.exists(), done.stdout[-2000:] + done.stderr[-2000:]
        return json.loads(report.read_text())


def lengths(report):
    """Fewest and most tokens of an answer, once all requests were answered."""
    assert report["error_summary"] == [], report["error_summary"]
    assert report["request_count"]["avg"] == REQUESTS, report["request_count"]
    length = report["output_sequence_length"]
    return length["min"], length["max"]


for tokens, arguments in [(7, ["--streaming", *PICTURE]), (40, ["--streaming"]), (40, PICTURE)]:
    extra = [f"--extra-inputs={name}:{tokens}" for name in ("max_tokens", "min_tokens")]
    report = run(*extra, "--extra-inputs=ignore_eos:true", *arguments)
    assert lengths(report) == (tokens, tokens), report["output_sequence_length"]

# The model itself has little to say: without `ignore_eos` it may stop from `min_tokens` on.
report = run("--streaming", *PICTURE, "--extra-inputs=max_tokens:200", "--extra-inputs=min_tokens:3")
fewest, most = lengths(report)
assert 3 <= fewest and most < 200, (fewest, most)
print("aiperf: ok")
