"""`./wirepool test`: every check there is, as steps with their times, and one line at the end that adds them up.

    static      ruff, ruff format, mypy --strict, import-linter, shellcheck
    pytest      the whole of tests/ (--quick: what isn't marked slow), warnings are errors
    sanitizers  the C extensions once more under AddressSanitizer and UBSan, with the tests that reach them
    fuzz        every tests/**/fuzz_*.py for a bounded number of runs

A step counts as one passed or failed check; pytest counts its tests. Something that is missing is counted as skipped
with its reason; as root, where `./wirepool` has installed all of it, it is a failure (WIREPOOL_REQUIRE_ALL).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests import sanitized
from tests.support import descent

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
PYTEST_LIMIT_S = 50 * 60
"""A test that hangs must fail the run, not outlive it."""
FUZZ_RUNS = 60_000


@dataclass(frozen=True)
class Outcome:
    """What one step found. `why` says what failed or why it was skipped."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    why: str = ""


def python(*arguments: str) -> list[str]:
    return [sys.executable, "-P", *arguments]


def checked(command: Sequence[str]) -> Outcome:
    """A quiet tool: its output is shown when it fails."""
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode == 0:
        return Outcome(passed=1)
    print(done.stdout, flush=True)
    return Outcome(failed=1, why=f"exit {done.returncode}: {' '.join(command[:4])} …")


def shellcheck() -> Outcome:
    if shutil.which("shellcheck") is None:
        return missing("shellcheck")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    named = [ROOT / line for line in listed.splitlines()] or [ROOT / "wirepool"]
    scripts = [str(path) for path in named if path.is_file() and is_shell(path)]
    return checked(["shellcheck", *scripts])


def is_shell(path: Path) -> bool:
    with path.open("rb") as file:
        first = file.readline(64)
    return first.startswith((b"#!/bin/sh", b"#!/usr/bin/env bash", b"#!/bin/bash"))


def missing(what: str) -> Outcome:
    if os.environ.get("WIREPOOL_REQUIRE_ALL") == "1":
        return Outcome(failed=1, why=f"{what} is missing")
    return Outcome(skipped=1, why=f"{what} is missing")


def run_pytest(
    name: str, *shares: Sequence[str], cwd: Path = ROOT, environment: Mapping[str, str] | None = None
) -> Outcome:
    """pytest with each share of arguments, side by side; the counts come from its reports, not from its exit status.

    The first share's output is shown as it comes, that of the others behind it.
    """
    BUILD.mkdir(exist_ok=True)
    processes: list[subprocess.Popen[bytes]] = []
    reports = [BUILD / f"{name}-{number}.xml" for number in range(len(shares))]
    outputs = [BUILD / f"{name}-{number}.log" for number in range(len(shares))]
    for share, report, output in zip(shares, reports, outputs, strict=True):
        report.unlink(missing_ok=True)
        with output.open("wb") as file:
            processes.append(
                subprocess.Popen(
                    python(
                        "-m",
                        "pytest",
                        "-q",
                        f"--junit-xml={report}",
                        "--continue-on-collection-errors",
                        *share,
                    ),
                    cwd=cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=file if processes else None,
                    stderr=subprocess.STDOUT if processes else None,
                    env={**os.environ, **(environment or {})},
                )
            )
    in_time = descent.wait(processes, PYTEST_LIMIT_S)
    for output in outputs[1:]:
        print(output.read_text(encoding="utf-8", errors="replace"), flush=True)
    left = {} if in_time else {process.pid: "pytest" for process in processes if process.returncode is None}
    left = descent.end_children() | left
    for pid, command in left.items():
        print(f"left running: {pid} {command}", flush=True)
    if not in_time:
        return Outcome(failed=1, why=f"not done within {PYTEST_LIMIT_S // 60} minutes")
    passed = failed = skipped = 0
    why = ""
    for process, report in zip(processes, reports, strict=True):
        found = counts(report) if report.exists() else (0, 1, 0)
        if (
            process.returncode
        ):  # also an error outside any test: collection, a process left running, nothing found
            found = (found[0], max(found[1], 1), found[2])
            why = f"pytest ended with {process.returncode}, see above"
        passed, failed, skipped = passed + found[0], failed + found[1], skipped + found[2]
    if left:
        failed, why = failed + 1, "processes were left running"
    return Outcome(passed, failed, skipped, why)


BESIDE = (("agent/ebpf", "agent/sources"), ("agent", "end_to_end"), ("backbone", "house", "hub"))
"""Folders that are run beside the rest in the everyday part: they take about as long, and wait for different things."""


def shares(quick: bool) -> list[list[str]]:
    """Everything in one row, or the everyday part in rows, side by side."""
    if not quick:
        return [["--durations=15"]]
    named = {name for names in BESIDE for name in names}
    folders = {path.name for path in (ROOT / "tests").iterdir() if any(path.rglob("test_*.py"))}
    within = [f"--ignore=tests/{name}" for name in sorted(named) if "/" in name]
    rows = [sorted(folders - named), *map(list, BESIDE)]
    return [
        [
            "--durations=10",
            "-m",
            "not slow",
            *([] if "/" in row[0] else within),
            *(f"tests/{name}" for name in row),
        ]
        for row in rows
    ]


def counts(report: Path) -> tuple[int, int, int]:
    """(passed, failed, skipped) of a JUnit report."""
    passed = failed = skipped = 0
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            failed += 1
        elif "skipped" in kinds:
            skipped += 1
        else:
            passed += 1
    return passed, failed, skipped


def run_sanitized() -> Outcome:
    """The extensions under the sanitizers, with the ordinary tests that reach them."""
    try:
        tree = sanitized.build(ROOT, BUILD / "sanitized")
    except sanitized.Unavailable as why:
        return missing(str(why))
    except subprocess.CalledProcessError as error:
        print(error.stdout, flush=True)
        return Outcome(failed=1, why="the extensions do not compile under the sanitizers")
    tests = [
        name
        for name in ("tests/wire", "tests/agent", "tests/hub/observe", "tests/hub/pool/elastic")
        if (tree / name).is_dir()
    ]
    # --capture=sys: a finding ends the process, and what pytest held back of file descriptor 2 would be lost.
    return run_pytest(
        "sanitized",
        ["--capture=sys", "-m", "not slow and not browser", *tests],
        cwd=tree,
        environment={
            "WIREPOOL_NATS_SERVER": str(ROOT / ".cache/bin/nats-server"),
            **sanitized.environment(tree),
        },
    )


def run_fuzzers() -> Outcome:
    """Each fuzzer from its corpus on, for so many runs: enough to catch a regression, bounded for everyday use."""
    candidates = sorted((ROOT / "tests").rglob("fuzz_*.py"))
    programs = [path for path in candidates if "__main__" in path.read_text(encoding="utf-8")]
    if not programs:
        return Outcome(skipped=1, why="there is no fuzzer")
    try:
        import atheris  # noqa: F401
    except ImportError:
        return missing("atheris (no wheel for this Python)")
    passed = failed = 0
    for program in programs:
        module = ".".join(program.relative_to(ROOT).with_suffix("").parts)
        print(f"   {module}", flush=True)
        corpus = BUILD / "corpus" / program.stem
        corpus.mkdir(parents=True, exist_ok=True)
        limits = [f"-runs={FUZZ_RUNS}", "-max_total_time=120", "-rss_limit_mb=1024", "-timeout=20"]
        outcome = checked(python("-m", module, *limits, f"-artifact_prefix={BUILD}/", str(corpus)))
        passed, failed = passed + outcome.passed, failed + outcome.failed
    return Outcome(passed, failed, 0, "an input that breaks it is in build/" if failed else "")


def steps(quick: bool) -> dict[str, Callable[[], Outcome]]:
    chosen: dict[str, Callable[[], Outcome]] = {
        "ruff check": lambda: checked(python("-m", "ruff", "check", "--quiet")),
        "ruff format": lambda: checked(python("-m", "ruff", "format", "--check", "--quiet")),
        "mypy": lambda: checked(python("-m", "mypy")),
        "import-linter": lambda: checked([str(Path(sys.executable).with_name("lint-imports"))]),
        "shellcheck": shellcheck,
        "pytest": lambda: run_pytest("tests", *shares(quick)),
    }
    if not quick:
        chosen["sanitizers"] = run_sanitized
        chosen["fuzz"] = run_fuzzers
    return chosen


def main(arguments: Sequence[str]) -> int:
    quick = "--quick" in arguments
    rest = [argument for argument in arguments if argument != "--quick"]
    # A shell that starts us in the background makes us ignore SIGINT, and every program that a test interrupts as well.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    descent.adopt_orphans()
    if os.geteuid() == 0:
        os.environ.setdefault("WIREPOOL_REQUIRE_ALL", "1")
    chosen = steps(quick)
    if rest:
        only = [*(["-m", "not slow"] if quick else []), *rest]
        chosen = {"pytest": lambda: run_pytest("tests", only)}
    results: dict[str, tuple[Outcome, float]] = {}
    for name, step in chosen.items():
        print(f"── {name}", flush=True)
        started = time.monotonic()
        results[name] = step(), time.monotonic() - started
    return summarise(results)


def summarise(results: Mapping[str, tuple[Outcome, float]]) -> int:
    print("\n── steps")
    for name, (outcome, seconds) in results.items():
        verdict = "FAILED" if outcome.failed else "skipped" if not outcome.passed else "passed"
        numbers = f"{outcome.passed} passed, {outcome.failed} failed, {outcome.skipped} skipped"
        print(f"{verdict:8} {name:14} {seconds:7.1f} s  {numbers}{'  ' if outcome.why else ''}{outcome.why}")
    total = [sum(getattr(o, kind) for o, _ in results.values()) for kind in ("passed", "failed", "skipped")]
    failing = [name for name, (outcome, _) in results.items() if outcome.failed]
    if failing:
        print(f"failed: {', '.join(failing)}")
    print(f"{total[0]} passed, {total[1]} failed, {total[2]} skipped", flush=True)
    return 1 if failing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
