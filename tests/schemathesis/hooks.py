"""Takes generated requests further in: they name the model that is served."""

import schemathesis

# As run.sh starts the server.
SERVED = "test"


@schemathesis.hook
def map_body(_context, body):
    """Puts the served name for every other. Unknown names have tests of their own."""
    if isinstance(body, dict) and isinstance(body.get("model"), str):
        body["model"] = SERVED
    return body
