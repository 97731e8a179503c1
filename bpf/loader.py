"""Load capture.c into the kernel, hand its programs and maps over as descriptors, and end.

    loader.py bcc SOCKET        compile capture.c with BCC; run it by the Python that BCC was installed for
    loader.py object SOCKET     load capture.o, compiled ahead of time, through libbpf; any Python

With `plain` behind it, maps that forget their oldest entries are not asked for, as on a kernel that has none.

SOCKET is the number of an inherited Unix socket. The answer is one message: a JSON object, and as ancillary data the
descriptors that its list `descriptors` names, in that order; or `error` with a sentence instead. What compiler, libbpf
and the kernel's verifier say goes to stderr.

A program, never imported: BCC brings a compiler of more than 100 MB, which must not stay in the agent, and belongs to
the distribution's Python, which may be another one than the agent's. Standard library, bcc and libbpf only.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import re
import socket
import struct
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROGRAMS = ("entry", "keep", "steer")
MAPS = (
    *("jumps", "settings", "counters", "parsed", "flows", "flow_counters"),
    *("steering", "priority_networks", "priority_ports"),
)
FORGETTING = ("flows", "flow_counters")
"""LRU maps, and plain ones before Linux 4.10: those don't forget, but take nothing new when they are full."""
MAP_CREATE, HASH, LRU_HASH = 0, 1, 9  # enum bpf_cmd, enum bpf_map_type
NUMBERS = {"x86_64": 321, "aarch64": 280, "armv7l": 386, "i686": 357, "ppc64le": 361, "riscv64": 280}
"""Of bpf(2), by machine; elsewhere maps that forget are taken for granted."""
libc = ctypes.CDLL(None, use_errno=True)
VERSION_FOR_BCC = str(6 << 16)
"""BCC asks the running kernel's headers for its version, and there are none; socket filters don't carry one."""


class CannotLoad(Exception):
    """A sentence for the user: what is missing or who refused."""


def source(name: str) -> str:
    """A file with its own includes in their places: BCC rewrites calls on maps in the main file only."""
    text = (HERE / name).read_text(encoding="utf-8")
    return re.sub(r'^#include "(.+)"$', lambda found: source(found[1]), text, flags=re.MULTILINE)


def by_bcc(plain: bool) -> tuple[str, list[int]]:
    """(what loaded it, descriptors in the order of PROGRAMS and MAPS)."""
    os.environ["BCC_KERNEL_SOURCE"] = str(HERE / "headers")
    os.environ["BCC_LINUX_VERSION_CODE"] = VERSION_FOR_BCC
    try:
        import bcc
    except ImportError as error:
        raise CannotLoad(f"BCC is not installed for {sys.executable} ({error})") from None
    version = getattr(bcc, "__version__", "of unknown version")
    flags = ["-DWIREPOOL_BCC", "-Wno-everything", *(["-DWIREPOOL_PLAIN_HASH"] if plain else [])]
    try:
        module = bcc.BPF(text=source("capture.c"), cflags=flags)
        programs = [module.load_func(name, bcc.BPF.SOCKET_FILTER).fd for name in PROGRAMS]
        maps = [module[name.encode()].map_fd for name in MAPS]
    except Exception as error:  # BCC raises nothing more specific
        raise CannotLoad(f"BCC {version}: {error}") from None
    global _kept
    _kept = module  # its descriptors are closed with it
    return f"BCC {version}", [*programs, *maps]


_kept: object = None


def by_libbpf(plain: bool) -> tuple[str, list[int]]:
    """The same for the object that was compiled ahead of time."""
    path = HERE / "capture.o"
    if not path.exists():
        raise CannotLoad(f"{path.name} was not compiled (that needs clang)")
    library = libbpf()
    name = os.fsencode(path)
    opened = library.bpf_object__open_file(name, None)
    if not opened or library.libbpf_get_error(opened):
        raise CannotLoad(f"libbpf can't read {path.name}")
    for each in FORGETTING if plain else ():
        library.bpf_map__set_type(library.bpf_object__find_map_by_name(opened, each.encode()), HASH)
    failure = library.bpf_object__load(opened)
    if failure:
        raise CannotLoad(f"the kernel refused {path.name}: {os.strerror(abs(failure))}")
    descriptors = []
    for kind, names in (("program", PROGRAMS), ("map", MAPS)):
        for each in names:
            find = getattr(library, f"bpf_object__find_{kind}_by_name")
            number = getattr(library, f"bpf_{kind}__fd")(find(opened, each.encode()))
            if number < 0:
                raise CannotLoad(f"{path.name} has no {kind} {each}")
            descriptors.append(number)
    return f"libbpf {library.libbpf_major_version()}.{library.libbpf_minor_version()}", descriptors


def libbpf() -> ctypes.CDLL:
    """Version 1 or a late 0: with the functions used here."""
    for name in ("libbpf.so.1", "libbpf.so.0"):
        try:
            library = ctypes.CDLL(name)
            library.bpf_object__open_file.restype = ctypes.c_void_p
            library.bpf_object__open_file.argtypes = (ctypes.c_char_p, ctypes.c_void_p)
            library.libbpf_get_error.restype = ctypes.c_long
            library.libbpf_get_error.argtypes = (ctypes.c_void_p,)
            library.bpf_object__load.argtypes = (ctypes.c_void_p,)
            for kind in ("program", "map"):
                find = getattr(library, f"bpf_object__find_{kind}_by_name")
                find.restype = ctypes.c_void_p
                find.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
                getattr(library, f"bpf_{kind}__fd").argtypes = (ctypes.c_void_p,)
            library.bpf_map__set_type.argtypes = (ctypes.c_void_p, ctypes.c_int)
            library.libbpf_major_version, library.libbpf_minor_version  # noqa: B018 - since 0.6
        except (OSError, AttributeError):
            continue
        return library
    raise CannotLoad("libbpf is not installed (Debian, Ubuntu: libbpf1)")


def has_forgetting_maps() -> bool:
    """Whether the kernel knows BPF_MAP_TYPE_LRU_HASH (Linux 4.10); also when it says no for another reason."""
    number = NUMBERS.get(platform.machine())
    if number is None:
        return True
    attributes = ctypes.create_string_buffer(struct.pack("=5I", LRU_HASH, 4, 4, 64, 0), 20)
    descriptor = libc.syscall(ctypes.c_long(number), MAP_CREATE, attributes, ctypes.c_uint(20))
    if descriptor < 0:
        return ctypes.get_errno() != errno.EINVAL
    os.close(descriptor)
    return True


def main(way: str, number: str, *wishes: str) -> int:
    """See the module. 0 when descriptors were handed over."""
    with socket.socket(fileno=int(number)) as channel:
        try:
            plain = "plain" in wishes or not has_forgetting_maps()
            by, descriptors = {"bcc": by_bcc, "object": by_libbpf}[way](plain)
        except CannotLoad as reason:
            channel.sendall(json.dumps({"error": str(reason)}).encode())
            return 1
        answer = {"by": by, "descriptors": [*PROGRAMS, *MAPS]}
        socket.send_fds(channel, [json.dumps(answer).encode()], descriptors)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
