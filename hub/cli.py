"""`wirepool-hub VERB`, and `./wirepool VERB` in a checkout: one verb per module of `hub.commands`.

A module there is a verb: `hub/commands/viewer.py` is `viewer`, `import_.py` (since `import` is a keyword) is
`import`. It has

    add_arguments(parser)   its options
    run(args) -> int        its exit status: 0 done, 1 refused or failed, 2 asked for wrongly

and the first line of its docstring is its line in `--help`. Only the verb that was asked for is imported, since
some of them bring in the whole web application.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import hub.commands

COMMANDS = Path(hub.commands.__path__[0])


def verbs() -> dict[str, str]:
    """Verb → module name."""
    names = sorted(path.stem for path in COMMANDS.glob("*.py") if path.stem != "__init__")
    return {name.rstrip("_").replace("_", "-"): name for name in names}


def summary(module: str) -> str:
    """The first line of a verb's docstring, read without importing the verb."""
    tree = ast.parse((COMMANDS / f"{module}.py").read_text(encoding="utf-8"))
    return (ast.get_docstring(tree) or "").partition("\n")[0].rstrip(".")


def installed_version() -> str:
    """The version of the distribution, or what stands for it in a tree that was never installed."""
    try:
        return version("wirepool")
    except PackageNotFoundError:
        return "(not installed)"


def listing() -> str:
    """What `--help` shows: each verb with its line."""
    known = verbs()
    width = max(map(len, known), default=0)
    return "\n".join(f"  {verb:<{width}}  {summary(module)}" for verb, module in known.items())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    top = argparse.ArgumentParser(
        prog="wirepool",
        description="The hub of wirepool: packets of many hosts in one page, every one accounted for.",
        epilog=f"verbs:\n{listing()}\n\n`wirepool VERB --help` tells more of each.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"wirepool {installed_version()}")
    top.add_argument("verb", metavar="VERB", choices=None, help="one of those below")
    chosen = top.parse_args(arguments[:1])
    module = verbs().get(chosen.verb)
    if module is None:
        top.error(f"there is no verb '{chosen.verb}'; `wirepool --help` lists them")
    command = importlib.import_module(f"hub.commands.{module}")
    parser = argparse.ArgumentParser(
        prog=f"wirepool {chosen.verb}",
        description=command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    try:
        status: int = command.run(parser.parse_args(arguments[1:]))
    except KeyboardInterrupt:
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
