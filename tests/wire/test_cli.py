"""`wirepool decode` and `verify` as a user runs them: a process, its output, its exit status."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.captures import read_capture
from tests.support.need import need
from tests.wire import make
from tests.wire.test_chain import tombstone_over
from tests.wire.test_evidence import written

ROOT = Path(__file__).parents[2]


def cli(*arguments: str, data: bytes = b"", cwd: Path = ROOT) -> subprocess.CompletedProcess[bytes]:
    """Run `python -m wire.cli …` with `data` on standard input."""
    return subprocess.run(
        [sys.executable, "-m", "wire.cli", *arguments],
        input=data,
        capture_output=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )


def test_a_line_per_packet() -> None:
    done = cli("decode", data=b"\n".join(make.chain(3)) + b"\n")
    assert done.returncode == 0
    lines = done.stdout.decode().splitlines()
    assert len(lines) == 15
    assert lines[0].startswith("2025-06-15T15:06:40.123456789Z web1 eth0 ")
    assert "10.0.0.1:40000 > 10.0.0.2:53 UDP len" in lines[0]
    assert b"end of session" in done.stderr


def test_one_message_as_nats_translate_gives_it() -> None:
    done = cli("decode", data=make.packets_batch(3)[0])
    assert (done.returncode, len(done.stdout.splitlines()), done.stderr) == (0, 3, b"")


def test_json_lines_hold_the_bytes_when_asked() -> None:
    done = cli("decode", "--json", "--data", data=make.packets_batch(4)[0])
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [base64.b64decode(one["data"]) for one in found] == [packet[3] for packet in make.packets(4)]
    assert [one["time_ns"] for one in found] == [packet[0] for packet in make.packets(4)]
    assert found[0]["agent"] == "web1"
    assert "data" not in json.loads(cli("decode", "--json", data=make.packets_batch(1)[0]).stdout)


@pytest.mark.parametrize("form", ["--pcapng", "--pcap"])
@pytest.mark.parametrize("to_file", [False, True])
def test_capture_files_hold_the_packets(form: str, to_file: bool, tmp_path: Path) -> None:
    target = tmp_path / "out"
    done = cli("decode", form, str(target) if to_file else "-", data=b"".join(make.chain(3)))
    assert done.returncode == 0
    capture = read_capture(target.read_bytes() if to_file else done.stdout)
    assert capture.complaint is None
    expected = [packet for sequence in range(3) for packet in make.packets(5, sequence)]
    assert [(one.timestamp_ns, one.data) for one in capture.packets] == [(one[0], one[3]) for one in expected]


def test_pcapng_has_an_interface_for_each_and_the_drops() -> None:
    other = make.packets_batch(2, agent="db2", link_type=101, interface="tun0")[0]
    revised = make.packets_batch(2, sequence=3, previous=bytes(31) + b"\1", filter_revision=2)[0]
    capture = read_capture(
        cli("decode", "--pcapng", "-", data=make.chain(1, close=False)[0] + other + revised).stdout
    )
    assert [(one.name, one.link_type) for one in capture.interfaces] == [
        ("web1:eth0", 1),
        ("db2:tun0", 101),
        ("web1:eth0", 1),
    ]
    assert capture.interfaces[0].statistics == {4: 100, 5: 3, 6: 100, 8: 90}


def test_pcap_refuses_mixed_link_types_and_says_what_to_do() -> None:
    other = make.packets_batch(2, agent="db2", link_type=101)[0]
    done = cli("decode", "--pcap", "-", data=make.packets_batch(2)[0] + other)
    assert done.returncode == 2
    assert b"one link type" in done.stderr
    assert b"--pcapng" in done.stderr


def test_a_stream_that_begins_in_the_middle_and_its_gaps() -> None:
    messages = make.chain(9)
    assert cli("decode", data=b"".join(messages[4:])).returncode == 0
    done = cli("decode", data=b"".join(messages[2:4] + messages[6:]))
    assert done.returncode == 1
    assert b"missing: batch 4 to 5" in done.stderr
    assert len(done.stdout.splitlines()) == 5 * 5
    late = cli("decode", data=b"".join([*messages[:4], *messages[6:], messages[5], messages[4]]))
    assert late.returncode == 0
    assert late.stderr.count(b"late:") == 2
    assert len(late.stdout.splitlines()) == 45


def test_declared_drops_and_duplicates_are_said_and_no_failure() -> None:
    messages = make.chain(6)
    done = cli(
        "decode",
        data=b"".join([*messages[:2], tombstone_over(messages, 2, 3), messages[4], messages[1], messages[5]]),
    )
    assert done.returncode == 0
    assert b"declared drop" in done.stderr
    assert b"duplicate" in done.stderr
    assert len(done.stdout.splitlines()) == 20


def test_a_batch_that_does_not_follow_is_a_broken_chain() -> None:
    forged = make.packets_batch(2, sequence=1, previous=bytes([7]) * 32)[0]
    done = cli("decode", data=make.packets_batch(2)[0] + forged)
    assert done.returncode == 1
    assert b"broken chain" in done.stderr


def test_damage_is_skipped_and_said_or_stops() -> None:
    messages = make.chain(4)
    damaged = messages[0] + b"rubbish" + messages[1] + messages[2][:-1] + b"?" + messages[3]
    done = cli("decode", data=damaged)
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 15
    assert f"7 bytes from byte {len(messages[0])} skipped".encode() in done.stderr
    assert b"sha256" in done.stderr
    strict = cli("decode", "--strict", data=damaged)
    assert strict.returncode == 1
    assert len(strict.stdout.splitlines()) == 5
    assert b"stopped there" in strict.stderr


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", bytes(5000), make.packets_batch(2)[0][:-1]])
def test_what_holds_no_message_is_a_clear_error(data: bytes) -> None:
    done = cli("decode", data=data)
    assert done.returncode == 2
    assert b"no wirepool message" in done.stderr
    assert b"Traceback" not in done.stderr


def test_nothing_in_gives_nothing_out() -> None:
    assert cli("decode").returncode == 0
    assert read_capture(cli("decode", "--pcap", "-").stdout).complaint is None
    assert read_capture(cli("decode", "--pcapng", "-").stdout).complaint is None


def test_a_reader_that_has_enough_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "wire.cli", "decode"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    try:
        process.stdin.write(b"".join(make.chain(50, close=False)))
        process.stdin.close()
    except BrokenPipeError:
        pass
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 141
    assert said == b""


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    done = cli("decode", "--pcapng", str(tmp_path / "no" / "x"), data=b"")
    assert done.returncode == 2
    assert b"No such file" in done.stderr
    assert b"Traceback" not in done.stderr


def test_nothing_of_a_message_steers_the_terminal() -> None:
    closing = make.closing(0, bytes(32), interface="eth0")[0]
    name = make.packets_batch(1, interface="é\u202ex")[0]
    done = cli("decode", data=name + closing)
    assert b"\x1b" not in done.stdout + done.stderr
    assert "é?x" in done.stdout.decode()
    assert "\u202e" not in done.stdout.decode()


def test_verify_prints_a_table_and_its_status(tmp_path: Path) -> None:
    messages = make.chain(5)
    key, wrong = tmp_path / "hub.pub", base64.b64encode(make.OTHER_KEY.public).decode()
    key.write_bytes(base64.b64encode(make.HUB_KEY.public) + b"\n")
    drop = tombstone_over(messages, 2, 3)
    for data, arguments, status, word in (
        (written(messages), [], 0, "INTACT"),
        (written(messages), ["--hub-key", str(key)], 0, "INTACT"),
        (written(messages), ["--hub-key", key.read_text().strip()], 0, "INTACT"),
        (written(messages), ["--hub-key", wrong], 2, "INVALID"),
        (written([*messages[:2], drop, *messages[4:]]), [], 0, "DECLARED DROP"),
        (written(messages[:-1]), [], 1, "OPEN TAIL"),
        (written(messages[1:]), [], 1, "UNEXPLAINED GAP"),
    ):
        path = tmp_path / "e.wpz"
        path.write_bytes(data)
        done = cli("verify", str(path), *arguments)
        assert done.returncode == status, done
        assert f"\n{word}:" in done.stdout.decode()
        assert "hub key SHA256:" in done.stdout.decode()
        report = json.loads(cli("verify", "--json", str(path), *arguments).stdout)
        assert report["verdict"] == word.lower()


@pytest.mark.parametrize("data", [None, b"", b"PK\x03\x04" + bytes(100)])
def test_verify_of_what_is_no_evidence(data: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "e.wpz"
    if data is not None:
        path.write_bytes(data)
    done = cli("verify", str(path))
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert str(path).encode() in done.stderr
    if data is not None:
        assert b"not an evidence file (.wpz)" in done.stderr
    assert cli("verify", str(path), "--hub-key", "nonsense").returncode == 2


def test_help_teaches() -> None:
    for command, words in (
        ("decode", ("nats sub", "exit status", "--pcapng")),
        ("verify", ("open tail", "--hub-key")),
    ):
        text = cli(command, "--help").stdout.decode()
        assert all(word in text for word in words)


def test_a_start_imports_little() -> None:
    """`nats sub --translate` starts a process per message: what takes long to import isn't imported."""
    program = (
        "import sys; from wire import cli; sys.stdin = open('/dev/null'); cli.main(['decode']);"
        "print(*sorted(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
    )
    loaded = set(done.stdout.split())
    assert "wire.batch" in loaded
    assert not loaded & {
        "nacl",
        "zstandard",
        "cbor2",
        "json",
        "zipfile",
        "asyncio",
        "numpy",
        "socket",
        "ipaddress",
    }


def test_tshark_and_capinfos_read_what_decode_writes(tmp_path: Path) -> None:
    need("tshark", "capinfos")
    path = tmp_path / "out.pcapng"
    other = make.packets_batch(3, agent="db2", interface="eth1", snaplen=96)[0]
    assert cli("decode", "--pcapng", str(path), data=b"".join(make.chain(4)) + other).returncode == 0
    facts = subprocess.run(["capinfos", "-M", str(path)], capture_output=True, text=True, check=True)
    assert "Number of packets:   23" in facts.stdout
    assert "nanoseconds (9)" in facts.stdout
    assert "Name = web1:eth0" in facts.stdout
    assert "Name = db2:eth1" in facts.stdout
    fields = ["-T", "fields", "-e", "frame.time_epoch", "-e", "udp.dstport", "-e", "frame.interface_name"]
    done = subprocess.run(["tshark", "-r", str(path), *fields], capture_output=True, text=True, check=True)
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(rows) == 23
    assert rows[0] == ["1750000000.123456789", "53", "web1:eth0"]
    assert rows[-1][2] == "db2:eth1"
