#!/usr/bin/env python3
"""Takes the steps of cpu.Dockerfile where no image can be built, and runs what comes out.

usage: sudo docker/rehearse.py WORK [--cache TARGET=FOLDER]... [--port 8000]

In place of the base images there are roots that debootstrap makes of the same Debian, with this
host's Rust toolchain in the one of `rust`. In them it takes every FROM, COPY, RUN, ENV and WORKDIR as
docker would, each RUN in namespaces of its own with the cache mounts that it asks for (`--cache` puts
a folder of the host under one). Then it starts the entry point as the image does: its user, no
capabilities, a read-only root, the cache and /tmp to write. It must become healthy, answer, list its
profiles, and end at the signal for it; and once more as another user.

Not shown by it: the base images themselves, layers and their cache, and `docker run`. Needs root,
debootstrap, git and rustup. Leaves everything in WORK.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
DOCKERFILE = PROJECT / "docker/cpu.Dockerfile"
MIRROR = "http://deb.debian.org/debian"
# What buildpack-deps, on which the image of Rust is built, has of what a build of vlmd needs.
BUILDER_PACKAGES = "ca-certificates,gcc,g++,git,libc6-dev,python3"
RUST = {
    "RUSTUP_HOME": "/usr/local/rustup",
    "CARGO_HOME": "/usr/local/cargo",
    "PATH": "/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
}
PATIENCE = 120  # Seconds to become healthy.


def run(*command, **options):
    """Runs a command, which must succeed."""
    print("+", shlex.join(map(str, command)), flush=True)
    subprocess.run(command, check=True, **options)


def instructions(path):
    """The instructions of a Dockerfile with their arguments, comments left out."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]


class Stage:
    """A root file system, and what the image says of how to use it."""

    def __init__(self, image, root, options):
        self.root, self.options = root, options
        self.env = {"PATH": RUST["PATH"].partition(":")[2]}
        self.workdir = "/"
        self.user, self.healthcheck, self.entrypoint, self.signal = "0:0", None, None, "SIGTERM"
        base = options.work / re.sub(r"\W", "-", image)
        if not base.exists():
            bootstrap(image, base)
        shutil.rmtree(root, ignore_errors=True)
        run("cp", "-a", base, root)
        if image.startswith("rust:"):
            self.env |= RUST

    def path(self, name):
        """Where a name of the image's is on the host."""
        return self.root / os.path.normpath(os.path.join(self.workdir, name)).lstrip("/")

    def env_arguments(self):
        """`env` with the image's variables and no others."""
        return ["env", "-i", *(f"{name}={value}" for name, value in self.env.items())]

    def do(self, name, rest, stages):
        """Takes one step."""
        match name:
            case "RUN":
                self.step(rest)
            case "COPY":
                self.copy(rest.split(), stages)
            case "ENV":
                self.env |= dict(word.split("=", 1) for word in shlex.split(rest))
            case "WORKDIR":
                self.workdir = rest
                self.path(".").mkdir(parents=True, exist_ok=True)
            case "USER":
                self.user = rest
            case "HEALTHCHECK":
                self.healthcheck = json.loads(rest.partition("CMD ")[2])
            case "ENTRYPOINT":
                self.entrypoint = json.loads(rest)
            case "STOPSIGNAL":
                self.signal = rest
            case "EXPOSE" | "VOLUME":
                pass
            case _:
                sys.exit(f"{name}: this step is not known here")

    def step(self, rest):
        """A RUN, with its cache mounts."""
        script = ["set -e", f"mount -t proc proc {self.root}/proc", f"mount --rbind /dev {self.root}/dev"]
        while found := re.match(r"--mount=type=cache,target=(\S+)\s+", rest):
            rest = rest[found.end() :]
            folder = self.options.caches.get(found[1]) or self.options.work / found[1].replace("/", "-")
            folder.mkdir(parents=True, exist_ok=True)
            self.path(found[1]).mkdir(parents=True, exist_ok=True)
            script.append(f"mount --bind {shlex.quote(str(folder))} {self.path(found[1])}")
        shutil.copy("/etc/resolv.conf", self.root / "etc/resolv.conf")
        environment = self.env_arguments()
        # Where a proxy stands between, its certificate is the host's affair.
        if bundle := os.environ.get("SSL_CERT_FILE"):
            shutil.copy(bundle, self.root / "run/ca.crt")
            environment += ["SSL_CERT_FILE=/run/ca.crt", "CARGO_HTTP_CAINFO=/run/ca.crt"]
        inside = f"cd {self.workdir} && {rest}"
        command = ["chroot", str(self.root), *environment, "/bin/sh", "-c", inside]
        script.append(f"exec {shlex.join(command)}")
        run("unshare", "--mount", "--pid", "--fork", "sh", "-c", "\n".join(script))
        (self.root / "run/ca.crt").unlink(missing_ok=True)

    def copy(self, words, stages):
        """A COPY, of another stage's files or of the context's."""
        *sources, place = [word for word in words if not word.startswith("--")]
        origin = [word.removeprefix("--from=") for word in words if word.startswith("--from=")]
        target = self.path(place)
        target.mkdir(parents=True, exist_ok=True)
        if origin:
            stage = stages[origin[0]]
            for source in sources:
                run("cp", "-a", f"{stage.path(source)}/.", target)
        else:
            assert sources == ["."], sources
            copy_context(target)


def copy_context(target):
    """Copies what the file beside the Dockerfile lets into the context, of what git knows."""
    first, *rest = [
        line
        for line in Path(f"{DOCKERFILE}.dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert first == "*" and all(line.startswith("!") for line in rest), "another kind of list"
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--"]
    command += [line.removeprefix("!") for line in rest]
    listed = subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.PIPE, text=True)
    for name in filter(None, listed.stdout.split("\0")):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(PROJECT / name, target / name)


def bootstrap(image, root):
    """Makes a root of what a base image is made of."""
    name, _, tag = image.partition(":")
    release = re.search("bookworm|trixie", tag)
    if name not in ("debian", "rust") or not release:
        sys.exit(f"there is no telling what {image} is made of")
    packages = [f"--include={BUILDER_PACKAGES}"] if name == "rust" else []
    # Under its own name only once it is whole.
    finished, root = root, root.with_suffix(".part")
    shutil.rmtree(root, ignore_errors=True)
    run("debootstrap", "--variant=minbase", *packages, release[0], root, MIRROR)
    if name == "rust":
        version, sysroot = asked("--version"), asked("--print", "sysroot")
        if not version.startswith(f"rustc {tag.partition('-')[0]}."):
            sys.exit(f"{image} is another Rust than {version}")
        (root / "usr/local/rust").mkdir()
        # Without its manuals, which are most of its files.
        run("cp", "-a", f"{sysroot}/bin", f"{sysroot}/lib", root / "usr/local/rust")
        (root / "usr/local/cargo").mkdir()
        (root / "usr/local/cargo/bin").symlink_to("../rust/bin")
    root.rename(finished)


def asked(*arguments):
    """What this project's Rust compiler says."""
    command = ["rustc", *arguments]
    answer = subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.PIPE, text=True)
    return answer.stdout.strip()


def build(options):
    """Takes all steps, and gives the last stage."""
    stages, stage = {}, None
    for name, rest in instructions(DOCKERFILE):
        print(f"==> {name} {rest}", flush=True)
        if name == "FROM":
            image, *named = rest.split()
            stage = Stage(image, options.work / f"stage{len(stages)}", options)
            stages[named[1] if named else str(len(stages))] = stage
        else:
            stage.do(name, rest, stages)
    return stage


def inside(stage, user, command, cache, port):
    """A command in the finished image: read-only, without capabilities."""
    script = [
        "set -e",
        f"mount --bind {stage.root} {stage.root}",
        f"mount -o remount,bind,ro {stage.root}",
        f"mount -t tmpfs -o mode=1777 tmpfs {stage.root}/tmp",
        f"mount --bind {cache} {stage.root}/opt/nim/.cache",
        f"mount -t proc proc {stage.root}/proc",
    ]
    environment = stage.env_arguments() + [f"VLMD_PORT={port}"]
    chroot = ["chroot", f"--userspec={user}", "--groups=", str(stage.root), *environment]
    script.append(f"exec {shlex.join([*chroot, 'setpriv', '--no-new-privs', *command])}")
    return ["unshare", "--mount", "sh", "-c", "\n".join(script)]


def output(*arguments):
    """What a command in the image prints. It must succeed."""
    command = inside(*arguments)
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def serve(stage, user, options):
    """Starts the image, has it answer, and ends it."""
    print(f"==> as user {user}", flush=True)
    cache = options.work / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    # As a volume is made, after the folder in the image.
    run("cp", "-a", stage.root / "opt/nim/.cache", cache)
    rest = [cache, options.port]
    listed = output(stage, user, ["list-model-profiles"], *rest)
    assert "vlmd/tiny" in listed, listed
    output(stage, user, ["env", "NIM_CACHE_PATH=/opt/nim/.cache", "check-cache-env"], *rest)
    output(stage, user, ["sh", "-c", "! touch /usr/local/x && touch /opt/nim/.cache/x /tmp/x"], *rest)
    server = subprocess.Popen(inside(stage, user, stage.entrypoint, *rest))
    try:
        begin = time.monotonic()
        check = inside(stage, user, stage.healthcheck, *rest)
        # Told by the exit status, as docker is told.
        while subprocess.run(check, check=False, stderr=subprocess.DEVNULL).returncode:
            assert server.poll() is None, "it ended"
            assert time.monotonic() < begin + PATIENCE, "it does not become healthy"
            time.sleep(0.5)
        messages = [{"role": "user", "content": "Hello!"}]
        body = json.dumps({"model": "vlmd/tiny", "max_tokens": 8, "messages": messages}).encode()
        url = f"http://127.0.0.1:{options.port}/v1/chat/completions"
        request = urllib.request.Request(url, body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            print(json.load(response)["choices"][0]["message"]["content"])
    finally:
        server.send_signal(signal.Signals[stage.signal])
        code = server.wait(timeout=PATIENCE)
    assert code == 0, f"it ends with {code}"


def main():
    """Builds, then runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--cache", action="append", default=[], metavar="TARGET=FOLDER")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    options.work = options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    pairs = (entry.split("=", 1) for entry in options.cache)
    options.caches = {target: Path(folder).resolve() for target, folder in pairs}
    image = build(options)
    document = json.loads((image.root / "usr/share/doc/vlmd/vlmd.cdx.json").read_text())
    print(f"==> {len(document['components'])} components in the bill of materials")
    for user in (image.user, "12345:0"):
        serve(image, user, options)


if __name__ == "__main__":
    main()
