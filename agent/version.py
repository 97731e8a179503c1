"""The program's version, as reports carry it."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("wirepool")
except PackageNotFoundError:  # run from a checkout that was never installed
    VERSION = "0.1.0"
