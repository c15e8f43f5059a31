#!/usr/bin/env python3
"""Makes a CUDA build of torch importable on a machine without CUDA's libraries.

The usual x86-64 wheel of torch is a CUDA build that links some two gigabytes of libraries which a
CPU run never enters. After

    pip install --no-deps torch==2.13.0 torchvision==0.28.0

run this script with the same interpreter: for each missing library it writes one of the same name
with the same versioned symbols, every function of which returns an error. `torch.cuda` then says
that there is no device. Needs gcc and binutils.
"""

import re
import subprocess
import sys
import sysconfig
import tempfile
from collections import defaultdict
from pathlib import Path

# Names of libraries to replace, and of symbols that belong to them when they carry no version.
CUDA_LIBRARY = re.compile(r"lib(cu|nv|nccl)")
CUDA_SYMBOL = re.compile(
    r"_*cuda|__cuda|__nv|cu[A-Z]|cublas|cudnn|cufft|cusparse|cusolver|curand|cupti|cuFile"
    r"|nvrtc|nvshmem|nvml|nvtx|nvJit|p?nccl"
)
SYSTEM_VERSION = re.compile(r"GLIBC|GLIBCXX|CXXABI|GCC|GOMP|OMP")
# What the functions return: cudaErrorNoDevice.
NO_DEVICE = 100


def output(*command):
    """The lines a tool prints."""
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return result.stdout.splitlines()


def needed_libraries(library):
    """The libraries that `library` wants to be loaded."""
    return {
        match[1]
        for line in output("readelf", "-d", library)
        if (match := re.search(r"NEEDED.*\[(.*?)\]", line))
    }


def dynamic_symbols(library, which):
    """`(name, version)` of the symbols that `library` defines or lacks."""
    for line in output("nm", "-D", f"--{which}-only", library):
        name, _, version = line.split()[-1].partition("@")
        yield name, version.lstrip("@")


def owner(version, stubs):
    """The stub that carries symbols of `version`."""
    if version in stubs:
        return version
    family = re.split(r"[_.]", version.lower())[0]
    candidates = [name for name in stubs if family and family in name.lower()]
    if candidates:
        return candidates[-1]
    return "libnccl.so.2" if "libnccl.so.2" in stubs else stubs[0]


def missing_symbols(libraries):
    """`{version: names}` of what no library here defines and CUDA's would."""
    defined = {name for path in libraries for name, _ in dynamic_symbols(path, "defined")}
    missing = defaultdict(set)
    for path in libraries:
        for name, version in dynamic_symbols(path, "undefined"):
            if name in defined or SYSTEM_VERSION.match(version):
                continue
            if version or CUDA_SYMBOL.match(name):
                missing[version].add(name)
    return missing


def assembly(names):
    """A function for each name: texts of errors are a fixed string, the rest is an error."""
    lines = [".section .rodata", 'text: .asciz "no CUDA"', ".text"]
    for name in sorted(names):
        if "Error" in name and ("String" in name or "Name" in name):
            body = "leaq text(%rip), %rax"
        elif name.startswith("__cuda"):  # registration of kernels
            body = "xorl %eax, %eax"
        else:
            body = f"movl ${NO_DEVICE}, %eax"
        lines += [f".globl {name}", f".type {name}, @function", f"{name}:", body, "ret"]
    lines.append('.section .note.GNU-stack, "", @progbits')
    return "\n".join(lines) + "\n"


def link(path, versions):
    """Builds one stub with the symbols of `{version: names}`."""
    names = set().union(*versions.values())
    script = "".join(
        f"{version} {{ global: {' '.join(f'{name};' for name in sorted(versions[version]))} }};\n"
        for version in sorted(versions)
        if version
    )
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "stub.s"
        source.write_text(assembly(names))
        command = ["gcc", "-shared", "-nostdlib", "-fPIC", f"-Wl,-soname,{path.name}"]
        if script:
            map_file = Path(folder) / "versions.map"
            map_file.write_text(script)
            command.append(f"-Wl,--version-script={map_file}")
        subprocess.run([*command, "-o", path, source], check=True)


def main():
    """Stubs for the torch of this interpreter, or for the library folder given."""
    if len(sys.argv) > 1:
        folder = Path(sys.argv[1])
    else:
        folder = Path(sysconfig.get_paths()["purelib"]) / "torch" / "lib"
    libraries = sorted(path for path in folder.iterdir() if ".so" in path.name)
    present = {path.name for path in libraries}
    needed = set().union(*map(needed_libraries, libraries))
    stubs = sorted(name for name in needed - present if CUDA_LIBRARY.match(name))
    if not stubs:
        sys.exit(f"{folder}: nothing is missing")

    shares = {name: {} for name in stubs}
    for version, names in missing_symbols(libraries).items():
        shares[owner(version, stubs)][version] = names
    for name, versions in shares.items():
        link(folder / name, versions)
        print(f"{name}: {sum(map(len, versions.values()))} symbols")


if __name__ == "__main__":
    main()
