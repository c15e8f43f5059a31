"""Drives a running vlmd with LiteLLM.

usage: litellm_python.py BASE_URL PICTURE PICTURE_URL

Chat, streaming, pictures, a form that the answer keeps to, and the error classes that LiteLLM
makes of the server's.
"""

import asyncio
import base64
import json
import os
import sys

# Prices come from a file of the package's, not from the network.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm  # noqa: E402

base_url, picture, picture_url = sys.argv[1:4]
litellm.telemetry = False
litellm.suppress_debug_info = True
model = litellm.get_valid_models(
    check_provider_endpoint=True,
    custom_llm_provider="openai",
    api_base=f"{base_url}/v1",
    api_key="not-used",
)[0]
common = {
    "model": f"hosted_vllm/{model.removeprefix('openai/')}",
    "api_base": f"{base_url}/v1",
    "api_key": "not-used",
    "num_retries": 0,
    "temperature": 0,
}

with open(picture, "rb") as file:
    data_uri = "data:image/png;base64," + base64.b64encode(file.read()).decode()


def ask(url, question="Describe the picture."):
    image = {"type": "image_url", "image_url": {"url": url}}
    return [{"role": "user", "content": [image, {"type": "text", "text": question}]}]


def expect(error, **arguments):
    try:
        litellm.completion(**{**common, **arguments})
    except error as raised:
        return raised
    raise AssertionError(f"{error.__name__} expected")


# Whole answers, the picture sent both ways.
whole = litellm.completion(**common, messages=ask(data_uri))
answer = whole.choices[0].message.content
assert answer and whole.choices[0].finish_reason == "stop", whole
by_url = litellm.completion(**common, messages=ask(picture_url))
assert by_url.choices[0].message.content == answer, by_url

# The same answer, streamed, here and by the asynchronous client.
options = {"stream": True, "stream_options": {"include_usage": True}}
chunks = list(litellm.completion(**common, messages=ask(data_uri), **options))
assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == answer
usage = [chunk.usage for chunk in chunks if getattr(chunk, "usage", None)][-1]
assert usage.completion_tokens == whole.usage.completion_tokens, usage


async def asynchronous():
    stream = await litellm.acompletion(**common, messages=ask(data_uri), stream=True)
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


assert asyncio.run(asynchronous()) == answer

# What is not of the API's own goes through `extra_body`.
schema = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}},
    "required": ["colour"],
    "additionalProperties": False,
}
form = {"type": "json_schema", "json_schema": {"name": "colour", "schema": schema, "strict": True}}
formed = litellm.completion(**common, messages=ask(data_uri), response_format=form)
assert json.loads(formed.choices[0].message.content)["colour"] in ("red", "green"), formed
chosen = litellm.completion(
    **common, messages=ask(data_uri), extra_body={"guided_choice": ["circle", "square"]}
)
assert chosen.choices[0].message.content in ("circle", "square"), chosen

# Errors arrive as the classes that applications catch.
hello = [{"role": "user", "content": "Hello"}]
expect(litellm.NotFoundError, model="hosted_vllm/no/such-model", messages=hello)
wrong = expect(litellm.BadRequestError, temperature=-1, messages=hello)
assert "temperature" in str(wrong), wrong
gone = expect(litellm.BadRequestError, messages=ask("http://127.0.0.1:1/gone.png"))
assert "image_url" in str(gone) or "picture" in str(gone), gone

print(f"litellm: {answer!r}")
