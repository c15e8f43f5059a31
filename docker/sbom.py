#!/usr/bin/env python3
"""Writes what is in the vlmd binary as a CycloneDX 1.6 document.

usage: docker/sbom.py [--features LIST] [--target TRIPLE] > vlmd.cdx.json

Lists the crates that are linked into it, with the licences that they declare and the checksums
that Cargo.lock holds them to, and the model that is compiled in. Crates that only the build runs
(build scripts, procedural macros, tests) are not in the binary and not in the list. Needs Python
3.11 and cargo, nothing else. The same sources give the same bytes, the serial number included.
"""

import argparse
import hashlib
import json
import subprocess
import tomllib
import uuid
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
PACKAGE = "vlmd"
EMBEDDED = PROJECT / "models/tiny/model.safetensors"
# Of serial numbers: any fixed one will do.
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_OID, "vlmd sbom")


def metadata(features, target):
    """What cargo resolved for `target`."""
    command = ["cargo", "metadata", "--locked", "--format-version=1", f"--filter-platform={target}"]
    manifest = PROJECT / "crates/cli/Cargo.toml"
    command += [f"--manifest-path={manifest}", f"--features={features}"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def host():
    """The target that cargo builds for by itself."""
    version = subprocess.run(["rustc", "-vV"], check=True, stdout=subprocess.PIPE, text=True).stdout
    return next(line.removeprefix("host: ") for line in version.splitlines() if "host: " in line)


def is_macro(package):
    """Whether the compiler runs it, and nothing links it."""
    return any("proc-macro" in target["kind"] for target in package["targets"])


def linked(packages, nodes, root):
    """Ids of everything that is linked into `root`, each with those that it needs."""
    found, queue = {}, [root]
    while queue:
        here = queue.pop()
        if here in found:
            continue
        found[here] = sorted(
            dependency["pkg"]
            for dependency in nodes[here]["deps"]
            if any(kind["kind"] is None for kind in dependency["dep_kinds"])
            and not is_macro(packages[dependency["pkg"]])
        )
        queue += found[here]
    return found


def reference(package):
    """The name of a package in the document: its package URL."""
    return f"pkg:cargo/{package['name']}@{package['version']}"


def component(package, checksums):
    """One crate."""
    entry = {
        "type": "library",
        "bom-ref": reference(package),
        "name": package["name"],
        "version": package["version"],
        "scope": "required",
    }
    if package["description"]:
        entry["description"] = " ".join(package["description"].split())
    checksum = checksums.get((package["name"], package["version"]))
    if checksum:
        entry["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    if package["license"]:
        # Before SPDX had operators, a slash meant a choice.
        entry["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    # Crates of this workspace are in no registry.
    if package["source"]:
        entry["purl"] = reference(package)
    if package["repository"]:
        entry["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return entry


def model():
    """The weights that are compiled in."""
    digest = hashlib.sha256(EMBEDDED.read_bytes()).hexdigest()
    return {
        "type": "machine-learning-model",
        "bom-ref": "vlmd-tiny",
        "name": "vlmd-tiny",
        "description": "The default model, trained from nothing by models/tiny/train.py",
        "scope": "required",
        "hashes": [{"alg": "SHA-256", "content": digest}],
        "licenses": [{"expression": "MIT OR Apache-2.0"}],
    }


def document(features, target):
    """The whole document, without its serial number."""
    resolved = metadata(features, target)
    packages = {package["id"]: package for package in resolved["packages"]}
    nodes = {node["id"]: node for node in resolved["resolve"]["nodes"]}
    root = next(
        package["id"]
        for package in resolved["packages"]
        if package["name"] == PACKAGE and package["source"] is None
    )
    lock = tomllib.loads((PROJECT / "Cargo.lock").read_text())
    checksums = {
        (package["name"], package["version"]): package["checksum"]
        for package in lock["package"]
        if "checksum" in package
    }
    graph = linked(packages, nodes, root)
    crates = sorted((packages[name] for name in graph if name != root), key=reference)
    about = component(packages[root], checksums) | {"type": "application"}
    # A root component is what the document is about: it has no scope.
    about.pop("scope")
    properties = [
        {"name": "vlmd:features", "value": features},
        {"name": "vlmd:target", "value": target},
    ]
    dependencies = [
        {"ref": reference(packages[name]), "dependsOn": [reference(packages[d]) for d in needs]}
        for name, needs in graph.items()
    ]
    for entry in dependencies:
        if entry["ref"] == about["bom-ref"]:
            entry["dependsOn"].append("vlmd-tiny")
    dependencies.append({"ref": "vlmd-tiny"})
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": about, "properties": properties},
        "components": [component(package, checksums) for package in crates] + [model()],
        "dependencies": sorted(dependencies, key=lambda entry: entry["ref"]),
    }


def main():
    """Prints the document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", default="", help="as the binary was built with")
    parser.add_argument("--target", default=host(), help="as the binary was built for")
    arguments = parser.parse_args()
    bom = document(arguments.features, arguments.target)
    serial = uuid.uuid5(NAMESPACE, json.dumps(bom, sort_keys=True))
    print(json.dumps({**bom, "serialNumber": serial.urn}, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
