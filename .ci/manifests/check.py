#!/usr/bin/env python3
"""Holds what docker/ says against schemas, against itself and against the sources.

Every overlay is built alone, with each component and with all of them. Objects of Kubernetes' own
must follow its published schemas, custom resources those in custom.py, and the compose file the
compose specification. Then names must lead somewhere: selectors to pods, ports to containers,
claims to volumes, settings and metrics to what vlmd has. And the context of each image must hold
the files outside of the crates that the sources are compiled with.
"""

import re
import sys
from pathlib import Path

import compose_spec
import custom
import jsonschema
import kubernetes_validate
import kustomize
from kustomize import Fault

PROJECT = Path(__file__).resolve().parents[2]
FOLDER = PROJECT / "docker/kubernetes"
VERSION = "1.37"
OVERLAYS = ["cpu", "gpu"]
COMPONENTS = ["autoscaling", "monitoring", "inference-gateway"]


def source(folder):
    """All Rust source below a folder of the project."""
    return "\n".join(path.read_text() for path in sorted((PROJECT / folder).rglob("*.rs")))


def check_schema(thing):
    """Holds one object against the schema of its kind."""
    name = f"{thing['kind']} {thing['metadata']['name']}"
    schema = custom.SCHEMAS.get((thing["apiVersion"], thing["kind"]))
    try:
        if schema:
            jsonschema.validate(thing, schema)
        else:
            kubernetes_validate.validate(thing, VERSION, strict=True)
    except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
        raise Fault(f"{name}: {error.json_path}: {error.message}") from error


def matches(selector, labels):
    """Whether a selector means a pod with such labels."""
    return selector.items() <= labels.items()


def check_names(objects, settings, metrics):
    """Follows every name of an overlay to what it stands for."""
    kinds = {thing["kind"]: thing for thing in objects}
    template = kinds["Deployment"]["spec"]["template"]
    labels = template["metadata"]["labels"]
    (container,) = template["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}

    def need(holds, what):
        if not holds:
            raise Fault(what)

    need(matches(kinds["Deployment"]["spec"]["selector"]["matchLabels"], labels), "the pod's labels")
    volumes = {volume["name"] for volume in template["spec"]["volumes"]}
    need(volumes == {mount["name"] for mount in container["volumeMounts"]}, "volumes and mounts")
    for volume in template["spec"]["volumes"]:
        if claim := volume.get("persistentVolumeClaim"):
            name = kinds["PersistentVolumeClaim"]["metadata"]["name"]
            need(claim["claimName"] == name, "the claim")
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"]:
        need(container[probe]["httpGet"]["port"] in ports, f"the port of {probe}")
    for variable in container["env"]:
        need(variable["name"] in settings, f"{variable['name']} is no setting of vlmd's")
    service = kinds["Service"]["spec"]
    need(matches(service["selector"], labels), "the service's selector")
    need(all(port["targetPort"] in ports for port in service["ports"]), "the service's ports")
    if scaler := kinds.get("HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        need(target["name"] == kinds[target["kind"]]["metadata"]["name"], "what is scaled")
        need("replicas" not in kinds["Deployment"]["spec"], "two say how many pods there are")
        for metric in scaler["spec"]["metrics"]:
            name = metric["pods"]["metric"]["name"]
            need(name in metrics, f"{name} is no metric of vlmd's")
    if monitor := kinds.get("PodMonitor"):
        need(matches(monitor["spec"]["selector"]["matchLabels"], labels), "the monitor's selector")
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            need(endpoint["port"] in ports, "the monitor's port")
    if pool := kinds.get("InferencePool"):
        need(matches(pool["spec"]["selector"]["matchLabels"], labels), "the pool's selector")
        for port in pool["spec"]["targetPorts"]:
            need(port["number"] in ports.values(), "the pool's port")


def check_compose(settings):
    """Holds the compose file against the specification, and its settings against vlmd's."""
    path = PROJECT / "docker/compose.yaml"
    options = compose_spec.PyOptions(apply_merge=True)
    # With an environment that sets nothing.
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", path.read_text())
    try:
        file = options.from_yaml(text)
        file.validate()
    except ValueError as error:
        raise Fault(f"{path.name}: {error}") from error
    for name, service in file.to_dict()["services"].items():
        if not (path.parent / service["build"]["context"] / service["build"]["dockerfile"]).exists():
            raise Fault(f"{path.name}: {name} is built from a file that is not there")
        for variable in service["environment"]:
            if variable.startswith("VLMD_") and variable not in settings:
                raise Fault(f"{path.name}: {variable} is no setting of vlmd's")
    return len(file.service_names())


def included():
    """Files outside of the crates that cargo reads, each with what names it."""
    for path in sorted((PROJECT / "crates").rglob("*.rs")):
        # Tests are not built there.
        if "tests" in path.parts or path.name == "tests.rs":
            continue
        text = path.read_text().partition("#[cfg(test)]\nmod tests {")[0]
        crate = next(folder for folder in path.parents if (folder / "Cargo.toml").exists())
        for base, pattern in [
            (path.parent, r'include_(?:str|bytes)!\(\s*"([^"]+)"'),
            (crate, r'concat!\(\s*env!\("CARGO_MANIFEST_DIR"\),\s*"/?([^"]+)"'),
        ]:
            for name in re.findall(pattern, text):
                yield (base / name).resolve(), path
    for path in sorted((PROJECT / "crates").glob("*/Cargo.toml")):
        for name in re.findall(r'path = "(\.\./\.\./[^"]+)"', path.read_text()):
            yield (path.parent / name).resolve(), path


def check_contexts():
    """Holds the contexts of the images against what the sources include."""
    needed = list(included())
    for list_ in sorted((PROJECT / "docker").glob("*.dockerignore")):
        lines = list_.read_text().splitlines()
        places = [PROJECT / line.removeprefix("!") for line in lines if line.startswith("!")]
        for place in places:
            if not place.exists():
                raise Fault(f"{list_.name}: {place.relative_to(PROJECT)} is not there")
        for path, by in needed:
            if not any(path.is_relative_to(place) for place in places):
                name = path.relative_to(PROJECT)
                raise Fault(f"{list_.name}: {name} is missing, which {by.relative_to(PROJECT)} reads")


def main():
    """Checks everything, and says how much that was."""
    settings = set(re.findall(r'env = "(VLMD_\w+)"', source("crates/cli/src")))
    metrics = set(re.findall(r'"([a-z:_]+)"', source("crates/server/src/metrics")))
    count = 0
    try:
        for overlay in OVERLAYS:
            for chosen in [[], *([name] for name in COMPONENTS), COMPONENTS]:
                components = [f"../{name}" for name in chosen]
                objects = kustomize.build(FOLDER / overlay, components)
                try:
                    for thing in objects:
                        check_schema(thing)
                    check_names(objects, settings, metrics)
                except Fault as fault:
                    raise Fault(f"{overlay} with {chosen}: {fault}") from fault
                count += len(objects)
        services = check_compose(settings)
        check_contexts()
    except Fault as fault:
        sys.exit(str(fault))
    print(f"{count} objects of {len(OVERLAYS)} overlays, {services} services")


if __name__ == "__main__":
    main()
