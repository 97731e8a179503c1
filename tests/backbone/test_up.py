"""`wirepool up` as a user runs it: started, interrupted, its children killed, itself killed; and what is left
afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub.backbone import accounts, first_start, nats_server
from hub.backbone.state import StateDir
from hub.commands.up import ONE_INTERRUPT_S
from hub.ledger.session_books import session_books
from hub.registry import Registry
from tests.support.nats_backbone import backbone, need_nats_server, until
from tests.support.need import need

ROOT = Path(__file__).resolve().parents[2]
HUB = (sys.executable, "-P", "-m", "hub.cli")
READY_S = 60.0


class Up:
    """One `wirepool up` in a session of its own, with a state directory and ports of its own."""

    def __init__(self, directory: Path) -> None:
        need_nats_server()
        self.state = StateDir(directory / "state")
        self.output_file = directory / "output"
        self.page_port = nats_server.free_port("127.0.0.1")
        self.nats_port = nats_server.free_port("127.0.0.1")
        # Inherited by every process below, so that each can be found, whoever its parent is.
        self.mark = f"WIREPOOL_TEST_MARK={directory}"
        name, _, value = self.mark.partition("=")
        self.environment = {
            **os.environ,
            name: value,
            "PYTHONPATH": str(ROOT),
            "XDG_CONFIG_HOME": str(directory / "config"),
        }
        self.process: subprocess.Popen[bytes] | None = None

    def archived_packets(self, agent: str) -> int:
        """Of all sessions of one agent, as the hub's registry has it."""
        registry = Registry(self.state.database)
        try:
            sessions = registry.sessions.all(agent=agent)
            return sum(session_books(registry, one.id).archived_packets for one in sessions)
        finally:
            registry.close()

    def start(self, *options: str, ports: bool = True, through: tuple[str, ...] = ()) -> None:
        argv = [
            *through,
            *HUB,
            "up",
            "--state",
            str(self.state.root),
            "--budget",
            "512M",
            "--name",
            "here",
            *options,
        ]
        if ports:
            argv += ["--port", str(self.page_port), "--nats-port", str(self.nats_port)]
        with self.output_file.open("wb") as output:
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.environment,
                cwd="/",
                start_new_session=True,
            )

    def output(self) -> str:
        return self.output_file.read_text(errors="replace")

    def wait_until_up(self) -> None:
        self.wait_for(lambda: "Ctrl-C stops everything" in self.output(), READY_S)

    def wait_for(self, condition: object, timeout_s: float = 30.0) -> None:
        assert callable(condition)
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert self.process is not None
            assert self.process.poll() is None, f"up ended with {self.process.returncode}:\n{self.output()}"
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.02)

    def below(self) -> dict[int, str]:
        """Every live process that carries our mark: pid → command line."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (path / "environ").read_bytes().split(b"\0"):
                    command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if command:
                        found[int(path.name)] = command
            except OSError:
                continue
        return found

    def pid_of(self, *words: str) -> int | None:
        for pid, command in self.below().items():
            if all(word in command for word in words):
                return pid
        return None

    def finish(self, number: signal.Signals, timeout_s: float = 40.0) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout_s)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*HUB, *arguments, "--state", str(self.state.root)],
            env=self.environment,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    instance = Up(tmp_path)
    try:
        yield instance
    finally:
        if instance.process is not None and instance.process.poll() is None:
            instance.process.kill()
            instance.process.wait()
        for pid in instance.below():
            os.kill(pid, signal.SIGKILL)


def gone(up: Up, within_s: float = 5.0) -> dict[int, str]:
    """What is left after a while; the kernel needs a moment to reap."""
    deadline = time.monotonic() + within_s
    while (left := up.below()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def test_up_and_ctrl_c_leave_nothing_running(up: Up) -> None:
    up.start()
    up.wait_until_up()
    text = up.output()
    assert f"https://127.0.0.1:{up.page_port}" in text
    password = re.search(r"one-time password (\S+)", text)
    assert password is not None
    assert str(up.state.ca_certificate) in text
    for words in (("nats-server", "--config"), ("hub.cli hub",), ("agent.cli run",)):
        assert up.pid_of(*words), (words, up.below())
    assert up.finish(signal.SIGINT) == 0, up.output()
    assert gone(up) == {}
    assert "killed" not in up.output()
    assert nats_server.port_is_free("127.0.0.1", up.nats_port)
    assert nats_server.port_is_free("127.0.0.1", up.page_port)
    # The secret was for the terminal: no log has it.
    for log in up.state.logs.iterdir():
        assert password[1] not in log.read_text(errors="replace"), log
    # A second start finds everything as it was, ports included, and shows no password.
    ca = up.state.ca_certificate.read_bytes()
    up.start(ports=False)
    up.wait_until_up()
    assert "one-time password" not in up.output()
    assert f"https://127.0.0.1:{up.page_port}" in up.output()
    assert up.state.ca_certificate.read_bytes() == ca
    assert up.finish(signal.SIGTERM) == 0
    assert gone(up) == {}


@pytest.mark.slow
def test_killed_children_come_back(up: Up) -> None:
    up.start()
    up.wait_until_up()
    for words in (("nats-server", "--config"), ("hub.cli hub",), ("agent.cli run",)):
        pid = up.pid_of(*words)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        up.wait_for(lambda words=words, pid=pid: up.pid_of(*words) not in (None, pid))
    up.wait_for(lambda: up.output().count("runs again") >= 3)
    assert up.finish(signal.SIGINT) == 0
    assert gone(up) == {}


@pytest.mark.slow
def test_nothing_survives_kill_9_of_up(up: Up) -> None:
    up.start()
    up.wait_until_up()
    assert len(up.below()) >= 4
    assert up.finish(signal.SIGKILL) == -signal.SIGKILL
    assert gone(up) == {}
    # And it starts again in what that left behind.
    up.start(ports=False)
    up.wait_until_up()
    assert up.finish(signal.SIGINT) == 0


def test_ctrl_c_during_the_start_stops_cleanly_and_does_not_lose_the_password(up: Up) -> None:
    up.start()
    up.wait_for(lambda: up.pid_of("nats-server", "--config") is not None)
    assert up.finish(signal.SIGINT) == 0
    assert gone(up) == {}
    assert "one-time password" in up.output()


@pytest.mark.slow
@pytest.mark.parametrize("address", ["127.0.0.5", "::1", "0.0.0.0"])
def test_other_addresses_to_listen_on(up: Up, address: str) -> None:
    """The certificate covers them, and the agent here is told where to go."""
    up.start("--bind", address)
    up.wait_until_up()
    shown = re.findall(r"https://(\S+):\d+", up.output())
    if address == "0.0.0.0":
        assert "localhost" in shown
        assert len(shown) >= 1
    else:
        assert shown[0].strip("[]") == address
    assert up.state.settings().page_bind == address
    assert up.finish(signal.SIGINT) == 0
    # Remembered.
    up.start(ports=False)
    up.wait_until_up()
    assert re.findall(r"https://(\S+):\d+", up.output()) == shown


@pytest.mark.slow
def test_second_ctrl_c_kills(up: Up) -> None:
    up.start()
    up.wait_until_up()
    agent = up.pid_of(
        "agent.cli run",
    )
    assert agent is not None
    os.kill(agent, signal.SIGSTOP)  # it can't react to SIGTERM: up waits for its deadline
    assert up.process is not None
    up.process.send_signal(signal.SIGINT)
    up.process.send_signal(signal.SIGINT)  # a wrapper passes the terminal's Ctrl-C on: still the first
    up.wait_for(lambda: "stopping:" in up.output())
    time.sleep(ONE_INTERRUPT_S + 0.1)
    assert "killing" not in up.output()
    began = time.monotonic()
    up.finish(signal.SIGINT)
    assert time.monotonic() - began < 10
    assert gone(up) == {}


@pytest.mark.slow
def test_without_the_right_to_capture_the_rest_works_and_it_says_how_to(up: Up) -> None:
    need("root", "setpriv")
    up.start(through=("setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw"))
    up.wait_until_up()
    assert "it can't capture" in up.output()
    assert "sudo" in up.output()
    assert "setcap cap_net_raw" in up.output()
    assert up.pid_of("agent.cli run") is not None
    assert up.finish(signal.SIGINT) == 0


def test_a_taken_port_is_an_error_when_it_was_asked_for(up: Up) -> None:
    with socket.create_server(("127.0.0.1", up.page_port)):
        up.start()
        assert up.process is not None
        assert up.process.wait(READY_S) == 1
    assert f"port {up.page_port} on 127.0.0.1 is taken by another program" in up.output()
    assert "--port" in up.output()
    assert gone(up) == {}


@pytest.mark.slow
def test_a_taken_default_port_is_replaced_and_said(up: Up) -> None:
    up.start()
    up.wait_until_up()
    assert up.finish(signal.SIGINT) == 0
    with socket.create_server(("127.0.0.1", up.nats_port)):
        up.start(ports=False)
        up.wait_until_up()
        match = re.search(rf"port {up.nats_port} is taken by another program: using (\d+)", up.output())
        assert match is not None
        assert up.state.settings().nats_port == int(match[1])
        # The agent here was told: it is enrolled for the new port.
        answer = json.loads((up.state.agent("here") / "enrolment.json").read_text())
        assert answer["servers"] == [f"tls://127.0.0.1:{match[1]}"]
        assert up.finish(signal.SIGINT) == 0


@pytest.mark.slow
def test_one_directory_one_up(up: Up) -> None:
    up.start()
    up.wait_until_up()
    second = up.command("up")
    assert second.returncode == 1
    assert "in use by `wirepool up`" in second.stderr


@pytest.mark.parametrize(
    "option", [("--bind", "somewhere"), ("--bind", "192.0.2.1"), ("--name", "Not A Name"), ("--budget", "1M")]
)
def test_wrong_options_are_clear_errors(up: Up, option: tuple[str, str]) -> None:
    up.start(*option)
    assert up.process is not None
    if option[0] == "--name":
        up.wait_until_up()
        assert "agent isn't started: not an agent id" in up.output()
        return
    assert up.process.wait(READY_S) == 1
    assert "Traceback" not in up.output()
    assert option[1].rstrip("M") in up.output()


def write_pcap(path: Path, count: int) -> None:
    """A pcap file of Ethernet frames of 60 bytes."""
    packets = b"".join(
        (1_700_000_000 + i).to_bytes(4, "little")
        + bytes(4)
        + (60).to_bytes(4, "little") * 2
        + bytes([i % 256]) * 60
        for i in range(count)
    )
    head = bytes.fromhex("d4c3b2a1 0200 0400 00000000 00000000 ffff0000 01000000")
    path.write_bytes(head + packets)


@pytest.mark.slow
def test_import_and_viewer_beside_a_running_up(up: Up, tmp_path: Path) -> None:
    up.start()
    up.wait_until_up()
    file = tmp_path / "one.pcap"
    write_pcap(file, 7)
    done = up.command("import", str(file), "--as", "recorded")
    assert done.returncode == 0, done.stderr
    assert re.search(r"acknowledged\s+7\b", done.stdout + done.stderr)
    assert f"https://127.0.0.1:{up.page_port}/sessions/" in done.stdout
    wrong = up.command("import", str(file), "--as", "recorded", "--filter", "tcp prt 80")
    assert wrong.returncode == 1
    assert "nothing was imported: filter: can't parse filter expression" in wrong.stderr
    assert "--session" not in wrong.stderr  # it would be refused again
    with contextlib.closing(Registry(up.state.database)) as registry:
        assert registry.sessions.all(agent="recorded", active_only=True) == []
    mixed = up.command("import", str(file), "--as", "here")
    assert mixed.returncode == 1
    assert "captures by itself" in mixed.stderr
    for path, words in (
        (tmp_path, "is a directory"),
        (tmp_path / "none", "No such file"),
        (ROOT / "setup.py", "neither"),
    ):
        refused = up.command("import", str(path), "--as", "recorded")
        assert refused.returncode == 1
        assert words in refused.stderr
        assert "Traceback" not in refused.stderr
    unknown = up.command("viewer", "anna", "--agents", "nobody")
    assert unknown.returncode == 1
    assert "known: here, recorded" in unknown.stderr
    granted = up.command("viewer", "anna", "--agents", "recorded")
    assert granted.returncode == 0, granted.stderr
    assert "nats --context wirepool-anna sub 'cap.recorded.>'" in granted.stdout
    revoked = up.command("revoke", "--viewer", "anna")
    assert revoked.returncode == 0
    assert "no server runs" not in revoked.stdout
    assert not up.state.viewer_credentials("anna").exists()


@pytest.mark.slow
async def test_an_existing_server_by_url_and_credentials(up: Up, tmp_path: Path) -> None:
    """Somebody else's server (here: a second one of ours): the streams, agents and imports work there."""
    directory = tmp_path / "theirs"
    directory.mkdir()
    async with backbone(directory, with_streams=False) as theirs:
        external = theirs.state
        options = ["--nats-url", theirs.url, "--nats-creds", str(external.hub_credentials)]
        options += ["--nats-ca", str(external.ca_certificate), "--nats-tls-first"]
        account = accounts.public_of(first_start.read_seed(external.account_key))
        up.start(
            "--budget",
            "200M",
            *options,
            "--nats-account",
            account,
            "--nats-signing-key",
            str(external.signing_key),
        )
        await asyncio.to_thread(up.wait_until_up)
        assert theirs.url in up.output()
        assert up.pid_of("nats-server", str(up.state.nats_config)) is None
        hub = await theirs.connect_hub()

        async def streams_made() -> bool:
            return "CAPTURE" in [stream.config.name for stream in await hub.jetstream().streams_info()]

        await until(streams_made, 20)
        file = tmp_path / "one.pcap"
        write_pcap(file, 7)
        done = await asyncio.to_thread(up.command, "import", str(file), "--as", "recorded")
        assert done.returncode == 0, done.stderr
        assert (await hub.jetstream().stream_info("CAPTURE")).state.messages >= 1
        refused = await asyncio.to_thread(up.command, "revoke", "recorded")
        assert refused.returncode == 1
        assert "revoke U" in refused.stderr
        assert await asyncio.to_thread(up.finish, signal.SIGINT) == 0
        assert gone(up) == {}


@pytest.mark.slow
def test_the_printed_commands_show_packets_with_the_stock_tools(up: Up, tmp_path: Path) -> None:
    """As a user would: the viewer's lines pasted into a shell, while a file is imported."""
    need("nats", "tshark")
    script = tmp_path / "bin" / "wirepool"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m wire.cli "$@"\n')
    script.chmod(0o755)
    up.environment["PATH"] = f"{script.parent}:{os.environ['PATH']}"
    up.start()
    up.wait_until_up()
    file = tmp_path / "one.pcap"
    write_pcap(file, 7)
    assert up.command("import", str(file), "--as", "recorded").returncode == 0
    granted = up.command("viewer", "anna", "--agents", "recorded")
    lines = [line for line in granted.stdout.splitlines() if line.startswith("nats ")]
    translated, piped = lines[0], lines[1]
    # --count ends the subscription after the batch and the session's closing batch.
    for line in (translated, piped):
        shell = subprocess.Popen(
            ["/bin/sh", "-c", line.replace(" sub ", " sub --count 2 ")],
            env=up.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        up.wait_for(lambda: up.pid_of("nats --context wirepool-anna sub") is not None)
        time.sleep(1)  # the stock tool says nowhere that it is subscribed when its output is raw
        assert up.command("import", str(file), "--as", "recorded").returncode == 0
        output, errors = shell.communicate(timeout=60)
        assert "recorded" in output or output.count("\n") >= 7, (line, output, errors)
        if line is piped:
            assert output.count("\n") == 7, (output, errors)


@pytest.mark.slow
def test_an_interrupted_import_goes_on_where_it_was(up: Up, tmp_path: Path) -> None:
    packets = 2111  # at 100 a second: long enough to be interrupted
    up.start()
    up.wait_until_up()
    file = tmp_path / "many.pcap"
    write_pcap(file, packets)
    log = tmp_path / "import.log"
    with log.open("wb") as output:
        importing = subprocess.Popen(
            [*HUB, "import", str(file), "--as", "slow", "--rate", "100", "--state", str(up.state.root)],
            env=up.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            up.wait_for(lambda: up.archived_packets("slow") > 0)
            importing.send_signal(signal.SIGINT)
            assert importing.wait(30) == 1
        finally:
            importing.kill()
            importing.wait()
    first = log.read_text()
    assert "second signal" not in first
    session = re.search(r"--session ([a-z2-7]{26})", first)
    assert session is not None, first
    done = up.command("import", str(file), "--as", "slow", "--session", session[1])
    assert done.returncode == 0, done.stderr
    taken = [
        int(n)
        for text in (first, done.stdout + done.stderr)
        for n in re.findall(r"acknowledged\s+(\d+)", text)
    ]
    assert len(taken) == 2, (first, done.stdout, done.stderr)
    assert 0 < taken[0] < packets
    assert sum(taken) == packets
