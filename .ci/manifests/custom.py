"""Schemas of the custom resources in docker/kubernetes, as far as it uses them.

After the definitions of their projects: the Gateway API inference extension's InferencePool of v1,
and the Prometheus operator's PodMonitor of v1. Fields that are not listed here may exist; whoever
uses one looks it up there and adds it.
"""

PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
NAME = {"type": "string", "minLength": 1, "maxLength": 253}
LABELS = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": {
        "type": "string",
        "maxLength": 63,
        "pattern": r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$",
    },
}


def strict(required, **properties):
    """An object with these fields and no others."""
    return {
        "type": "object",
        "required": required,
        "properties": properties,
        "additionalProperties": False,
    }


def resource(spec):
    """A custom resource with such a specification."""
    metadata = strict(["name"], name=NAME, labels=LABELS)
    fields = {"apiVersion": {}, "kind": {}, "metadata": metadata, "spec": spec}
    return strict([*fields], **fields)


SELECTOR = strict(["matchLabels"], matchLabels=LABELS)
NUMBERED = strict(["number"], number=PORT)

SCHEMAS = {
    ("inference.networking.k8s.io/v1", "InferencePool"): resource(
        strict(
            ["selector", "targetPorts", "endpointPickerRef"],
            selector=SELECTOR,
            targetPorts={"type": "array", "minItems": 1, "maxItems": 8, "items": NUMBERED},
            endpointPickerRef=strict(
                # Of a service, which it is where nothing else is said, the port must be said.
                ["name", "port"],
                name=NAME,
                port=NUMBERED,
                failureMode={"enum": ["FailOpen", "FailClose"]},
            ),
        )
    ),
    ("monitoring.coreos.com/v1", "PodMonitor"): resource(
        strict(
            ["selector", "podMetricsEndpoints"],
            selector=SELECTOR,
            podMetricsEndpoints={
                "type": "array",
                "minItems": 1,
                "items": strict(
                    ["port"],
                    port=NAME,
                    path={"type": "string", "pattern": "^/"},
                    interval={"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"},
                ),
            },
        )
    ),
}
