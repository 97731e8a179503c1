"""What TOML cannot say: the C extensions, against the limited API (one abi3 wheel for 3.11 and later).

And where there is clang, the eBPF programs as an object that loads without any compiler.
"""

import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup  # type: ignore[import-untyped]

FLAGS = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror=implicit-function-declaration"]
LIMITED_API: list[tuple[str, str | None]] = [("Py_LIMITED_API", "0x030B0000")]


def extension(name: str, source: str, *others: str) -> Extension:
    """One C file to one module that every later Python loads. others: what it includes from elsewhere."""
    return Extension(
        name,
        [source],
        depends=[*(str(path) for path in sorted(Path(source).parent.glob("*.h"))), *others],
        extra_compile_args=FLAGS,
        define_macros=LIMITED_API,
        py_limited_api=True,
    )


extensions = [
    extension("wire._columns", "wire/_columns.c"),
    extension("agent._payload", "agent/_payload.c"),
    extension("agent._libpcap", "agent/_libpcap.c"),
    extension("hub.observe._observe", "hub/observe/_observe.c"),
    extension("hub.pool.elastic._bulk", "hub/pool/elastic/_bulk.c"),
]
if sys.platform == "linux":  # AF_PACKET is Linux's
    extensions.append(extension("agent._tpacket", "agent/_tpacket.c"))
    extensions.append(extension("agent._flows", "agent/_flows.c", "bpf/contract.h"))

subprocess.run([sys.executable, "bpf/compile.py"], cwd=Path(__file__).resolve().parent, check=False)
setup(ext_modules=extensions, options={"bdist_wheel": {"py_limited_api": "cp311"}})
