"""Drives a running vlmd with NVIDIA's own client for LangChain.

usage: langchain_python.py BASE_URL LEAVING_URL LEAVING_PID PICTURE PICTURE_URL

BASE_URL serves one model as `microsoft/phi-3-vision-128k-instruct`, which the client takes for a
model of the hosted dialect (`nv-vlm`), and as `microsoft/phi-3.5-vision-instruct`, which speaks
OpenAI's (`vlm`). LEAVING_URL, whose process is LEAVING_PID, breaks answers off when it is told to
end (`--drain-timeout 0`).
"""

import base64
import json
import os
import signal
import sys
import urllib.error
import urllib.request
import warnings

os.environ["NVIDIA_USAGE_TELEMETRY_ENABLED"] = "0"

from langchain_core.messages import HumanMessage  # noqa: E402
from langchain_nvidia_ai_endpoints import ChatNVIDIA, __version__  # noqa: E402
from pydantic import BaseModel, Field  # noqa: E402

warnings.simplefilter("ignore")
base_url, leaving_url, leaving_pid, picture, picture_url = sys.argv[1:6]
HOSTED, OPENAI = "microsoft/phi-3-vision-128k-instruct", "microsoft/phi-3.5-vision-instruct"

with open(picture, "rb") as file:
    data = file.read()
data_uri = "data:image/png;base64," + base64.b64encode(data).decode()
question = "Describe the picture."


def chat(model, url=base_url, **settings):
    settings = {"temperature": 0, "max_tokens": 64, **settings}
    return ChatNVIDIA(base_url=f"{url}/v1", model=model, api_key="not-used", **settings)


def shown(url, detail=None):
    image = {"url": url} | ({"detail": detail} if detail else {})
    parts = [{"type": "image_url", "image_url": image}, {"type": "text", "text": question}]
    return [HumanMessage(content=parts)]


def http(method, url, body=None, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, data=body, method=method, headers=headers)
    with urllib.request.urlopen(request) as response:
        return response.read()


# Both names are listed, as models that the client knows; the first is the default.
listed = {model.id: model for model in chat(OPENAI).available_models}
assert {HOSTED, OPENAI} <= set(listed), listed
assert listed[HOSTED].model_type == "nv-vlm" and listed[OPENAI].model_type == "vlm"
assert chat(None).model == HOSTED

# An asset, uploaded as NVIDIA's snippets do it.
made = {"contentType": "image/png", "description": "Input Image"}
asset = json.loads(
    http(
        "POST",
        f"{base_url}/v2/nvcf/assets",
        json.dumps(made).encode(),
        Content_Type="application/json",
        Accept="application/json",
        Authorization="Bearer not-used",
    )
)
signed = {"Content_Type": "image/png", "x_amz_meta_nvcf_asset_description": "Input Image"}
http("PUT", asset["uploadUrl"], data, **signed)
reference = f"data:image/png;asset_id,{asset['assetId']}"

# A picture in each form, whole and streamed, by both kinds of models.
answers = set()
for model in (HOSTED, OPENAI):
    for messages in (
        shown(data_uri),
        shown(data_uri, detail="low"),
        shown(reference),
        [HumanMessage(content=f'<img src="{data_uri}" /> {question}')],
        [HumanMessage(content=f'<img src="{reference}" /> {question}')],
    ):
        whole = chat(model).invoke(messages)
        usage = whole.usage_metadata
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"], whole
        assert whole.response_metadata["finish_reason"] == "stop", whole
        chunks = list(chat(model).stream(messages))
        assert len(chunks) > 3, chunks
        assert "".join(chunk.content for chunk in chunks) == whole.content
        # The client asks models of OpenAI's dialect for the usage.
        counted = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
        assert (counted[-1:] == [usage]) or model == HOSTED, counted
        answers.add(whole.content)
    # As the client reaches the hosted models: the model in the path.
    hosted = chat(model)
    hosted._client.infer_path = f"{base_url}/v1/vlm/{model}"
    answers.add(hosted.invoke(shown(data_uri)).content)
    answers.add("".join(chunk.content for chunk in hosted.stream(shown(data_uri))))
assert len(answers) == 1, answers
# The client sends addresses as they are: an address in a bare string is nobody's dialect.
assert chat(OPENAI).invoke(shown(picture_url)).content in answers


def expect(call, *words):
    try:
        call()
    except Exception as raised:
        assert all(word in str(raised) for word in words), raised
    else:
        raise AssertionError(f"an error with {words} was expected")


expect(lambda: chat(HOSTED).invoke(shown(picture_url)), "400", "image_url", "bare string")
expect(lambda: chat(OPENAI).invoke(shown("data:image/png;base64,AAAA")), "400", "image_url")
expect(lambda: chat("no/such-model").invoke("Hello"), "404", "no/such-model")
http("DELETE", f"{base_url}/v2/nvcf/assets/{asset['assetId']}")
expect(lambda: chat(HOSTED).invoke(shown(reference)), "400", asset["assetId"])


class Shape(BaseModel):
    """A shape."""

    colour: str = Field(pattern="^(red|green|blue)$")
    corners: int = Field(ge=3, le=8)


# Structured output, in the forms that the client knows.
for model in (HOSTED, OPENAI):
    shape = chat(model).with_structured_output(Shape).invoke("A shape?")
    assert isinstance(shape, Shape), shape
    for binding in (
        {"guided_choice": ["circle", "square"]},
        {"nvext": {"guided_choice": ["circle", "square"]}},
    ):
        chosen = chat(model).bind(**binding).invoke("Which?").content
        assert chosen in ("circle", "square"), chosen

# An answer that breaks off in the middle of a stream is an error, and no short answer.
endless = chat(OPENAI, leaving_url, max_tokens=4000).bind(ignore_eos=True)
parts = []


def read():
    for chunk in endless.stream("Tell a long story."):
        parts.append(chunk.content)
        if len(parts) == 3:
            os.kill(int(leaving_pid), signal.SIGTERM)


expect(read, "shutting down")

print(f"langchain-nvidia-ai-endpoints {__version__}: {answers.pop()!r}")
