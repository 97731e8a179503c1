"""Build the C extensions under AddressSanitizer and UBSan, in a copy of the tree so that the ordinary build stays.

The interpreter itself isn't built with the sanitizers, so their runtime is preloaded (LD_PRELOAD) and the leak check,
which would list the interpreter's own, is off. A finding ends the process, which fails the run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g -O1 -Werror"
COPIED = ("wire", "agent", "bpf", "hub", "web", "tests", "docs", "perf")
COPIED_FILES = ("pyproject.toml", "setup.py", "README.md")


class Unavailable(RuntimeError):
    """There is no compiler with the sanitizers' runtimes here."""


def build(root: Path, tree: Path) -> Path:
    """Copy the sources to `tree`, build the extensions in place there, and see that they are the ones loaded."""
    runtimes()
    shutil.rmtree(tree, ignore_errors=True)
    leave_out = shutil.ignore_patterns("*.so", "__pycache__", ".*_cache")
    for name in COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, tree / name, ignore=leave_out)
    for name in COPIED_FILES:
        if (root / name).is_file():
            shutil.copy(root / name, tree / name)
    run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], tree, {**os.environ, "CFLAGS": FLAGS})
    names = (
        "agent._flows",
        "agent._libpcap",
        "agent._payload",
        "agent._tpacket",
        "hub.observe._observe",
        "hub.pool.elastic._bulk",
        "wire._columns",
    )
    probe = f"import importlib; print([importlib.import_module(name).__file__ for name in {names}])"
    loaded = run([sys.executable, "-P", "-c", probe], tree, {**os.environ, **environment(tree)})
    if loaded.count(str(tree)) != len(names):
        raise AssertionError(f"the sanitized extensions are not the ones imported: {loaded}")
    return tree


def run(command: list[str], cwd: Path, variables: dict[str, str]) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout)
    return done.stdout


def runtimes() -> list[str]:
    """The shared runtimes of gcc's sanitizers."""
    found = []
    for name in ("libasan.so", "libubsan.so"):
        try:
            path = run(["gcc", f"-print-file-name={name}"], Path("/"), dict(os.environ)).strip()
        except FileNotFoundError:
            raise Unavailable("gcc") from None
        if not os.path.isabs(path):  # gcc echoes the bare name of what it doesn't have
            raise Unavailable(f"gcc's {name}")
        found.append(os.path.realpath(path))
    return found


def environment(tree: Path) -> dict[str, str]:
    """What a process needs in its environment to load the sanitized extensions."""
    return {
        "WIREPOOL_SANITIZED": "1",
        "PYTHONPATH": str(tree),
        "PYTHONMALLOC": "malloc",  # the interpreter's arenas would hide an overrun from the sanitizer
        "LD_PRELOAD": " ".join(runtimes()),
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "halt_on_error=1:abort_on_error=1:print_stacktrace=1",
    }
