"""The agent's command line: it teaches, and its complaints say what to do."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from agent.identity import IdentityError, load_identity, make_request, take_enrolment
from tests.support.need import need
from wire.control import seal_certificate
from wire.enrolment import Enrolment, EnrolmentRequest
from wire.keys import SigningKey

ROOT = Path(__file__).resolve().parents[2]
HUB = SigningKey(bytes(32))


def agent(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "agent.cli", *arguments],
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )


def answer(request: EnrolmentRequest, tmp_path: Path, **changes: object) -> bytes:
    """What a hub would answer."""
    need("openssl")
    pem = tmp_path / "ca.pem"
    if not pem.exists():
        what = ["req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=ca"]
        into = ["-keyout", str(tmp_path / "ca.key"), "-out", str(pem)]
        subprocess.run(["openssl", *what, *into], check=True, capture_output=True)
    fields = {
        "agent": request.agent,
        "servers": ("tls://hub.example:4222",),
        "ca_pem": pem.read_text(),
        "hub_public": HUB.public,
        "user_jwt": "a.b.c",
        "certificate": seal_certificate(
            request.agent, request.signing_public, not_before_ns=1, not_after_ns=2, issued_ns=1, key=HUB
        ),
    } | changes
    return Enrolment(**fields).to_json().encode()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "command", [[], ["run"], ["request"], ["enrol"], ["check-config"], ["interfaces"], ["replay"]]
)
def test_help_teaches(command: list[str]) -> None:
    done = agent(*command, "--help")
    assert done.returncode == 0
    assert len(done.stdout) > 300
    assert "wirepool agent" in done.stdout


def test_request_and_enrol(tmp_path: Path) -> None:
    state = tmp_path / "state"
    done = agent("request", "web1", "--state", str(state))
    assert done.returncode == 0, done.stderr
    request = EnrolmentRequest.from_json(done.stdout)
    assert request.agent == "web1"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (*state.iterdir(), state)}
    assert modes["user.nk"] == modes["signing.key"] == 0o600
    assert modes["state"] == 0o700
    assert agent("request", "web1", "--state", str(state)).stdout == done.stdout  # the keys stay
    other = agent("request", "web2", "--state", str(state))
    assert other.returncode == 1
    assert "holds the keys of agent 'web1'" in other.stderr

    unready = agent("run", "--state", str(state))
    assert unready.returncode == 1
    assert "isn't enrolled" in unready.stderr
    assert "wirepool agent request" in unready.stderr

    enrolled = agent("enrol", "-", "--state", str(state), stdin=answer(request, tmp_path).decode())
    assert enrolled.returncode == 0, enrolled.stderr
    identity = load_identity(state)
    assert identity.name == "web1"
    assert identity.jwt_path.read_text() == "a.b.c"
    assert stat.S_IMODE(identity.jwt_path.stat().st_mode) == 0o600


def test_the_secrets_are_not_in_the_request(tmp_path: Path) -> None:
    make_request(tmp_path / "s", "web1")
    text = (tmp_path / "s" / "request.json").read_text()
    seed = (tmp_path / "s" / "user.nk").read_text().strip()
    assert seed.startswith("SU")
    assert seed not in text
    key = SigningKey.load(tmp_path / "s" / "signing.key")
    assert key.seed.hex() not in text


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda text: "", "not JSON"),
        (lambda text: text.replace("web1", "web2"), "another agent"),
        (lambda text: text.replace("BEGIN CERTIFICATE", "BEGIN NOTHING"), "ca_pem"),
        (lambda text: json.dumps(json.loads(text) | {"servers": []}), "at least one"),
        (lambda text: json.dumps(json.loads(text) | {"certificate": "AAAA"}), "not an enrolment"),
        (lambda text: text.replace("wirepool-enrolment-1", "wirepool-enrolment-9"), "kind"),
    ],
)
def test_enrolments_that_are_none(tmp_path: Path, change, word: str) -> None:  # type: ignore[no-untyped-def]
    request = make_request(tmp_path / "s", "web1")
    good = answer(request, tmp_path).decode()
    with pytest.raises(IdentityError, match=word):
        take_enrolment(tmp_path / "s", change(good).encode())
    assert not (tmp_path / "s" / "enrolment.json").exists()


def test_an_enrolment_for_other_keys(tmp_path: Path) -> None:
    elsewhere = make_request(tmp_path / "other", "web1")
    make_request(tmp_path / "s", "web1")
    with pytest.raises(IdentityError, match="for other keys"):
        take_enrolment(tmp_path / "s", answer(elsewhere, tmp_path))
    with pytest.raises(IdentityError, match="request NAME"):
        take_enrolment(tmp_path / "nowhere", answer(elsewhere, tmp_path))


def test_keys_others_can_read_are_refused(tmp_path: Path) -> None:
    request = make_request(tmp_path / "s", "web1")
    take_enrolment(tmp_path / "s", answer(request, tmp_path))
    load_identity(tmp_path / "s")
    for name in ("user.nk", "signing.key"):
        (tmp_path / "s" / name).chmod(0o644)
        with pytest.raises(IdentityError, match="chmod 600"):
            load_identity(tmp_path / "s")
        (tmp_path / "s" / name).chmod(0o600)
    (tmp_path / "s" / "enrolment.json").write_text("{")
    with pytest.raises(IdentityError, match="Enrol this agent again"):
        load_identity(tmp_path / "s")


@pytest.mark.parametrize("name", ["", "Web1", "a" * 49, "a.b", "a b", "ä"])
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(IdentityError, match="Pick a short name"):
        make_request(tmp_path / "s", name)


def test_check_config(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("spool: {max_bytes: 60 TiB}\n")
    bad.write_text("spol: {}\n")
    done = agent("check-config", str(good))
    assert (done.returncode, done.stdout) == (0, f"{good}: good (1 settings)\n")
    assert "line 1: spool.max_bytes is more than" in done.stderr
    done = agent("check-config", str(bad))
    assert done.returncode == 1
    assert f"{bad}:1: spol: unknown key. Did you mean `spool`?" in done.stderr
    assert agent("check-config").returncode == 1


def test_a_name_that_is_not_the_enrolled_one(tmp_path: Path) -> None:
    state = tmp_path / "s"
    take = answer(make_request(state, "web1"), tmp_path)
    take_enrolment(state, take)
    (tmp_path / "agent.yaml").write_text("\nname: web7\n")
    done = agent("run", "--config", str(tmp_path / "agent.yaml"), "--state", str(state))
    assert done.returncode == 1
    assert "agent.yaml:2: name: 'web7', but this host is enrolled as 'web1'" in done.stderr


def test_interfaces_marks_the_best() -> None:
    done = agent("interfaces")
    assert done.returncode == 0
    assert "lo" in done.stdout
    *rows, choice = done.stdout.splitlines()
    assert choice.startswith("* ")
    assert ": it " in choice
    (loopback,) = (row for row in rows if row.split()[0] == "lo" or row.split()[1] == "lo")
    assert "mtu " in loopback
    assert " packets" in loopback
    assert "127.0.0.1/8" in loopback
    assert "(loopback)" in loopback


def test_a_state_directory_that_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = agent("request", "web1", "--state", str(tmp_path / "file" / "state"))
    assert done.returncode == 1
    assert "--state" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_agent_stays_small() -> None:
    """Neither numpy nor cryptography is loaded, and the command line starts without the network parts."""
    probe = (
        "import sys, agent.pipeline, agent.cli, agent.sources.ring, agent.sources.replay;"
        "print([m for m in ('numpy', 'cryptography', 'hub', 'litestar') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    light = (
        "import sys, agent.cli; print([m for m in ('nats', 'yaml', 'zstandard', 'nacl') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", light],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.strip() == "[]"
