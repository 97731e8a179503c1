"""The supervisor with real programs: readiness, restarts, order of the end, and that nothing outlives it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hub.up.supervisor import Child, ChildFailed, Supervisor
from tests.support.nats_backbone import until

REPOSITORY = Path(__file__).resolve().parents[2]
IDLE = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


class Said:
    """What the supervisor told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, name: str, text: str) -> None:
        self.lines.append(f"{name} {text}")


def writes(path: Path, then: str) -> Child:
    """A child that is ready once its file is there."""

    async def ready() -> bool:
        return os.access(path, os.F_OK)

    return Child(path.name, python(f"{IDLE}open({str(path)!r}, 'w').close()\n{then}"), ready=ready)


async def test_start_waits_for_readiness_and_stop_reverses_the_order(tmp_path: Path) -> None:
    order = tmp_path / "order"
    report = (
        f"signal.signal(signal.SIGTERM, lambda *_: (open({str(order)!r}, 'a').write(NAME), sys.exit(0)))\n"
    )
    async with Supervisor(tmp_path, Said()) as supervisor:
        for name in ("a", "b", "c"):
            code = report.replace("NAME", repr(name + "\n")) + "time.sleep(1000)"
            running = await supervisor.start(writes(tmp_path / name, code))
            assert (tmp_path / name).exists()
            assert running.is_ready.is_set()
        pids = [running.pid for running in supervisor.running]
        await asyncio.sleep(0.2)  # the handlers are set after the file that says "ready"
        await supervisor.stop()
        assert order.read_text().split() == ["c", "b", "a"]
    assert not any(exists(pid) for pid in pids if pid)


async def test_killed_child_comes_back_with_growing_jittered_delays(tmp_path: Path) -> None:
    said = Said()
    async with Supervisor(tmp_path, said) as supervisor:
        running = await supervisor.start(writes(tmp_path / "child", "time.sleep(1000)"))
        seen = set()
        for _ in range(3):
            pid = running.pid
            assert pid is not None
            seen.add(pid)
            before = running.restarts
            os.kill(pid, signal.SIGKILL)
            await until(lambda before=before: running.restarts > before and running.is_ready.is_set())  # type: ignore[misc]
        assert len(seen) == 3
    killed = [line for line in said.lines if "was killed by SIGKILL; again in" in line]
    assert len(killed) == 3
    delays = [float(line.split("again in ")[1].split()[0]) for line in killed]
    for count, delay in enumerate(delays):
        assert 0.25 * 2**count * 0.5 - 0.05 <= delay <= 0.25 * 2**count + 0.05
    assert "child runs again" in said.lines


async def test_first_start_that_fails_tells_the_childs_last_words(tmp_path: Path) -> None:
    async with Supervisor(tmp_path, Said()) as supervisor:
        with pytest.raises(ChildFailed, match=r"broken ended with status 3. It said:\n    no such thing"):
            await supervisor.start(
                Child("broken", python("import sys; print('no such thing'); sys.exit(3)"), ready=never)
            )
        with pytest.raises(ChildFailed, match="can't be started"):
            await supervisor.start(Child("missing", ["/nonexistent/program"]))


async def never() -> bool:
    return False


async def test_child_that_is_never_ready_is_killed(tmp_path: Path) -> None:
    async with Supervisor(tmp_path, Said()) as supervisor:
        child = Child("slow", python("import time; time.sleep(1000)"), ready=never, ready_deadline_s=0.3)
        with pytest.raises(ChildFailed, match="not ready within"):
            await supervisor.start(child)


async def test_one_that_is_not_essential_is_tried_again_for_ever(tmp_path: Path) -> None:
    said = Said()
    async with Supervisor(tmp_path, said) as supervisor:
        running = await supervisor.start(
            Child("moody", python("raise SystemExit(1)"), ready=never, essential=False)
        )
        await until(lambda: running.restarts >= 2)


async def test_deaf_child_is_killed_at_its_deadline_with_its_own_children(tmp_path: Path) -> None:
    said, file = Said(), tmp_path / "grandchild"
    code = (
        "import signal, subprocess, sys, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "p = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(1000)'])\n"
        f"open({str(file)!r}, 'w').write(str(p.pid))\ntime.sleep(1000)"
    )

    async def ready() -> bool:
        return os.access(file, os.F_OK) and os.stat(file).st_size > 0

    async with Supervisor(tmp_path, said) as supervisor:
        running = await supervisor.start(Child("deaf", python(code), ready=ready, stop_deadline_s=0.3))
        pid = running.pid
        grandchild = int(file.read_bytes())
        began = time.monotonic()
        await supervisor.stop()
        assert 0.3 <= time.monotonic() - began < 5
    assert any("killed" in line for line in said.lines)
    await until(lambda: pid is not None and not exists(pid) and not exists(grandchild))


async def test_output_is_logged_cut_bounded_and_harmless(tmp_path: Path) -> None:
    from hub.up import supervisor as module

    code = (
        "import sys, time\nprint('\\x1b]0;evil\\x07title')\nsys.stdout.write('x' * 200000)\nprint()\n"
        "sys.stdout.buffer.write(b'\\xff\\xfe\\n')\nprint('last', flush=True)\ntime.sleep(1000)"
    )
    lines: list[str] = []
    async with Supervisor(tmp_path, Said(), lambda _, line: lines.append(line)) as supervisor:
        await supervisor.start(Child("chatty", python(code)))
        await until(lambda: "last" in lines)
    assert lines[0] == "\N{REPLACEMENT CHARACTER}]0;evil\N{REPLACEMENT CHARACTER}title"
    assert max(map(len, lines)) <= module.LINE_BYTES
    log = tmp_path / "chatty.log"
    assert log.stat().st_mode & 0o777 == 0o600
    assert "\x1b" not in log.read_text()


async def test_flood_of_output_stays_within_the_log_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.up.supervisor.LOG_BYTES", 100_000)
    code = "for _ in range(20000): print('y' * 100)\nprint('end', flush=True)\nimport time; time.sleep(1000)"
    lines: list[str] = []
    async with Supervisor(tmp_path, Said(), lambda _, line: lines.append(line)) as supervisor:
        await supervisor.start(Child("flood", python(code)))
        await until(lambda: lines[-1:] == ["end"], 20)
    assert len(lines) == 20001
    assert sum(path.stat().st_size for path in tmp_path.glob("flood.log*")) <= 3 * 100_000  # noqa: ASYNC240 - stats


async def test_nothing_survives_a_kill_of_the_supervisor_itself(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys, time\nfrom pathlib import Path\nfrom hub.up.supervisor import Child, Supervisor\n"
        "async def main():\n"
        f"    async with Supervisor(Path({str(tmp_path)!r}), print) as s:\n"
        "        for n in range(3):\n"
        "            r = await s.start(Child(f'c{n}', [sys.executable, '-S', '-c', 'import signal, time; "
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)']))\n"
        "            print(r.pid, flush=True)\n"
        "        await asyncio.sleep(1000)\n"
        "asyncio.run(main())"
    )
    process = subprocess.Popen(  # noqa: ASYNC220 - a fork, nothing to wait for
        [sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=REPOSITORY
    )
    assert process.stdout is not None
    pids = [int(process.stdout.readline()) for _ in range(3)]
    assert all(exists(pid) for pid in pids)
    process.kill()
    process.wait()
    process.stdout.close()
    await until(lambda: not any(exists(pid) for pid in pids), 5)


async def test_an_error_in_the_body_stops_the_children_and_comes_through_plain(tmp_path: Path) -> None:
    pid = None
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        async with Supervisor(tmp_path, Said()) as supervisor:
            running = await supervisor.start(writes(tmp_path / "child", "time.sleep(1000)"))
            pid = running.pid
            _ = 1 / 0
    assert pid is not None
    assert not exists(pid)
