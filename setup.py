"""What TOML cannot say: the two C extensions, built against the limited API (one abi3 wheel for 3.11 and later)."""

import sys

from setuptools import Extension, setup

FLAGS = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror=implicit-function-declaration"]
LIMITED_API = [("Py_LIMITED_API", "0x030B0000")]

extensions = [
    Extension("wire._columns", ["wire/_columns.c"], extra_compile_args=FLAGS, define_macros=LIMITED_API, py_limited_api=True)
]
if sys.platform == "linux":
    extensions.append(
        Extension("agent._tpacket", ["agent/_tpacket.c"], extra_compile_args=FLAGS, define_macros=LIMITED_API, py_limited_api=True)
    )

setup(ext_modules=extensions, options={"bdist_wheel": {"py_limited_api": "cp311"}})
