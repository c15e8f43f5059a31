"""What kustomize makes of a folder, as far as docker/kubernetes uses it.

There is no kustomize to be had from a package index. This knows `resources`, `components`, `images`
and patches of operations (RFC 6902), and refuses everything else: what it does not know cannot
pass unseen.
"""

import copy

import yaml

KNOWN = {"apiVersion", "kind", "resources", "components", "images", "patches"}
KINDS = {
    "Kustomization": "kustomize.config.k8s.io/v1beta1",
    "Component": "kustomize.config.k8s.io/v1alpha1",
}


class Fault(Exception):
    """What is wrong, and where."""


def load(path):
    """All documents of a file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def build(folder, components=()):
    """The objects that `folder` stands for, with `components` as if it named them."""
    return overlay(folder, [], [folder / name for name in components])


def overlay(folder, objects, added=()):
    """`objects`, with what the kustomization in `folder` adds and changes."""
    path = folder / "kustomization.yaml"
    (kustomization,) = load(path)
    if unknown := set(kustomization) - KNOWN:
        raise Fault(f"{path}: {sorted(unknown)} is not known here")
    if KINDS.get(kustomization["kind"]) != kustomization["apiVersion"]:
        raise Fault(f"{path}: not a kustomization of a known version")
    objects = list(objects)
    for name in kustomization.get("resources", []):
        place = folder / name
        objects += overlay(place, []) if place.is_dir() else load(place)
    for component in [*(folder / name for name in kustomization.get("components", [])), *added]:
        objects = overlay(component, objects)
    for patch in kustomization.get("patches", []):
        apply(folder / patch["path"], patch["target"], objects)
    for image in kustomization.get("images", []):
        rename(image, objects)
    return objects


def apply(path, target, objects):
    """Applies the operations in `path` to the objects that `target` means."""
    name = target.get("name")
    meant = [
        thing
        for thing in objects
        if thing["kind"] == target["kind"] and name in (None, thing["metadata"]["name"])
    ]
    if not meant:
        raise Fault(f"{path}: there is no {target} to change")
    (operations,) = load(path)
    for thing in meant:
        for operation in operations:
            try:
                operate(thing, **operation)
            except (KeyError, IndexError, ValueError) as error:
                raise Fault(f"{path}: {operation['path']} cannot be changed: {error!r}") from error


def operate(thing, op, path, value=None):
    """One operation of RFC 6902."""
    *way, last = [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:]]
    for part in way:
        thing = thing[int(part) if isinstance(thing, list) else part]
    if isinstance(thing, list) and last != "-":
        last = int(last)
    match op:
        case "add" if last == "-":
            thing.append(copy.deepcopy(value))
        case "add" if isinstance(thing, list):
            thing.insert(last, copy.deepcopy(value))
        case "add":
            thing[last] = copy.deepcopy(value)
        case "replace":
            thing[last]  # Must be there.
            thing[last] = copy.deepcopy(value)
        case "remove":
            del thing[last]
        case _:
            raise ValueError(op)


def rename(image, objects):
    """Gives containers the image that is meant by its short name."""
    for thing in objects:
        pod = thing.get("spec", {}).get("template", {}).get("spec", {})
        for container in pod.get("containers", []):
            if container["image"] == image["name"]:
                container["image"] = f"{image['newName']}:{image['newTag']}"
