"""The state directory: made once, whole after any crash, closed to others, renewed in time."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import stat
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nats.errors import ConnectionClosedError

from hub.backbone import accounts, enrolment, first_start, nats_server, pki, server_config, system_account
from hub.backbone.renewal import Renewed, keep_renewed, renew_if_due
from hub.backbone.state import Settings, StateDir, StateError, parse_settings, write_private
from tests.support.nats_backbone import MEBIBYTE, backbone, need_nats_server

BUDGET = 256 * MEBIBYTE
DAY_S = 86_400
REPOSITORY = Path(__file__).resolve().parents[2]


def contents(state: StateDir) -> dict[str, bytes]:
    return {
        str(path.relative_to(state.root)): path.read_bytes()
        for path in state.root.rglob("*")
        if path.is_file()
    }


def test_second_start_changes_nothing(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    assert first_start.prepare(state, budget_bytes=BUDGET)
    before = contents(state)
    assert not first_start.prepare(state)
    assert contents(state) == before


def test_everything_is_closed_to_others(tmp_path: Path) -> None:
    os.umask(os.umask(0o000))
    previous = os.umask(0o000)  # the most careless umask there is
    try:
        state = StateDir(tmp_path / "state")
        first_start.prepare(state, budget_bytes=BUDGET)
    finally:
        os.umask(previous)
    for path in [state.root, *state.root.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.slow
async def test_killed_anywhere_in_the_first_start(tmp_path: Path) -> None:
    """Kill −9 at random moments, again and again in the same directory; then it completes and serves."""
    need_nats_server()
    directory = tmp_path / "bus"
    state = StateDir(directory / "state")
    directory.mkdir()
    program = (
        "import sys; from pathlib import Path; from hub.backbone import first_start; from hub.backbone.state import *;"
        "print('go', flush=True); first_start.prepare(StateDir(Path(sys.argv[1])), budget_bytes=256 << 20)"
    )
    seed = int(os.environ.get("WIREPOOL_SEED", time.time_ns() % 10**6))
    chance = random.Random(seed)
    survivors: dict[str, bytes] = {}
    for _ in range(12):
        process = subprocess.Popen(  # noqa: ASYNC220 - a fork, nothing to wait for
            [sys.executable, "-c", program, str(state.root)], stdout=subprocess.PIPE, cwd=REPOSITORY
        )
        assert process.stdout is not None
        process.stdout.readline()
        await asyncio.sleep(chance.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        # What was once there is never made again: agents may trust it already.
        keys = {
            name: data
            for name, data in contents(state).items()
            if name.endswith(("ca.key", ".nk")) and "/." not in name
        }
        for name, data in survivors.items():
            assert keys.get(name) == data, (seed, name)
        survivors = keys
    async with backbone(directory) as bus:
        connection = await bus.connect_agent(bus.agent("web1"))
        assert connection.is_connected, seed


def test_ca_certificate_lost_is_made_again_from_its_key_but_a_lost_key_is_an_error(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    first_start.prepare(state, budget_bytes=BUDGET)
    key = state.ca_key.read_bytes()
    state.ca_certificate.unlink()
    first_start.prepare(state)
    assert state.ca_key.read_bytes() == key
    state.ca_key.unlink()
    with pytest.raises(StateError, match=r"its key .* is gone"):
        first_start.prepare(state)


def test_server_key_without_its_certificate_is_replaced(tmp_path: Path) -> None:
    """The state that a crash between the two writes of a renewal leaves."""
    state = StateDir(tmp_path / "state")
    first_start.prepare(state, budget_bytes=BUDGET)
    other = StateDir(tmp_path / "other")
    first_start.prepare(other, budget_bytes=BUDGET)
    write_private(state.server_key, other.server_key.read_bytes())
    assert renew_if_due(state).certificate
    assert not renew_if_due(state)


def test_certificate_is_renewed_at_60_days_and_ends_at_90(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    now_s = int(time.time())
    first_start.prepare(state, budget_bytes=BUDGET, now_s=now_s)
    begin = datetime.fromtimestamp(now_s, UTC)
    assert pki.expires(state.server_certificate) - begin == timedelta(days=90)
    assert pki.expires(state.ca_certificate) - begin == timedelta(days=3650)
    assert not renew_if_due(state, now_s + 60 * DAY_S - 1)
    renewed = renew_if_due(state, now_s + 60 * DAY_S)
    assert renewed.certificate
    assert renewed.credentials
    assert pki.expires(state.server_certificate) - begin == timedelta(days=150)
    assert not renew_if_due(state, now_s + 60 * DAY_S)


def test_credentials_keep_their_key_when_renewed(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    now_s = int(time.time())
    first_start.prepare(state, budget_bytes=BUDGET, now_s=now_s)
    path = enrolment.viewer_credentials(state, "anna", ["web1"], now_s)
    before = accounts.parse_credentials(path.read_bytes())
    assert renew_if_due(state, now_s + 60 * DAY_S).viewers == ("anna",)
    after = accounts.parse_credentials(path.read_bytes())
    assert before[1] == after[1]
    claims = [
        accounts.decode(token, issuers=[accounts.public_of(first_start.issuer_seed(state))])
        for token, _ in (before, after)
    ]
    assert claims[1]["exp"] - claims[0]["exp"] == 60 * DAY_S
    assert claims[0]["nats"]["sub"] == claims[1]["nats"]["sub"]


def test_certificate_names_what_the_user_said(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    first_start.prepare(state, budget_bytes=BUDGET)
    old = state.server_certificate.read_bytes()
    first_start.prepare(state, names=["Hub.Example.org", "192.0.2.7", "2001:db8::7"])
    assert state.server_certificate.read_bytes() != old
    text = subprocess.run(
        ["openssl", "x509", "-noout", "-ext", "subjectAltName", "-in", str(state.server_certificate)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in ("DNS:hub.example.org", "IP Address:192.0.2.7", "DNS:localhost", "IP Address:127.0.0.1"):
        assert name in text
    first_start.prepare(state)  # and remembers it
    assert not renew_if_due(state)


@pytest.mark.parametrize(
    "name", ["", "a b", "a\nb", "-", "a..b", "x" * 300, "*.", "ü.example", "a/b", "$(id)", "a,DNS:evil"]
)
def test_hostile_names_are_refused(tmp_path: Path, name: str) -> None:
    state = StateDir(tmp_path / "state")
    with pytest.raises(StateError):
        first_start.prepare(state, budget_bytes=BUDGET, names=[name])


@settings(deadline=None)
@given(st.sampled_from(["agent", "u1"]), st.integers(0, 10**10), st.integers(0, 400 * DAY_S))
def test_agent_jwt_is_a_function_of_time_with_a_third_of_life_left(
    name: str, start_s: int, later_s: int
) -> None:
    issued, expires = accounts.issue_period(name, start_s)
    assert issued <= start_s
    assert expires - start_s >= 30 * DAY_S
    assert expires - issued == 90 * DAY_S
    again = accounts.issue_period(name, start_s + later_s)
    assert (again == (issued, expires)) == (start_s + later_s < issued + 60 * DAY_S)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=300))
def test_settings_file_of_garbage_is_a_clear_error(raw: bytes) -> None:
    # No random bytes are a settings file of this version.
    with pytest.raises(StateError, match=r"settings\.json: .*Repair it"):
        parse_settings(raw, Path("settings.json"))


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        '{"version":2}',
        '{"version":1,"x":1}',
        '{"version":1,"nats_port":0}',
        '{"version":1,"nats_port":true}',
        '{"version":1,"names":"a"}',
        '{"version":1,"nats_bind":null}',
        '{"version":1,"budget_bytes":-1}',
        "[" * 100000,
    ],
)
def test_settings_are_checked(text: str) -> None:
    with pytest.raises(StateError):
        parse_settings(text.encode(), Path("settings.json"))


def test_too_small_a_budget_says_so(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="too small"):
        first_start.prepare(StateDir(tmp_path / "state"), budget_bytes=MEBIBYTE)


def test_which_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WIREPOOL_STATE", str(tmp_path / "env"))
    assert StateDir.from_option(str(tmp_path / "option")).root == tmp_path / "option"
    assert StateDir.from_option().root == tmp_path / "env"
    monkeypatch.delenv("WIREPOOL_STATE")
    assert StateDir.from_option().root == REPOSITORY / "var"
    monkeypatch.setattr("hub.backbone.state.__file__", str(tmp_path / "site-packages/hub/backbone/state.py"))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert StateDir.from_option().root == tmp_path / "xdg" / "wirepool"


def test_a_directory_is_held_by_one(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    state.make_directories()
    with (
        state.locked("wirepool up"),
        pytest.raises(StateError, match=rf"wirepool up \(pid {os.getpid()}\)"),
        state.locked("another"),
    ):
        pass
    with state.locked("later"):
        pass


def test_an_unusable_place_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StateError, match="--state"):
        first_start.prepare(StateDir(tmp_path / "file" / "state"))


@pytest.mark.parametrize(
    "name",
    [
        'we"ird',
        "back\\slash",
        "blank and ; semicolon",
        "# hash",
        "${HOME}",
        "$HOME",
        "brace } {",
        "ünïcode",
        "'quote'",
        "x, y: z",
        "\\x41",
    ],
)
async def test_server_config_survives_hostile_directory_names(tmp_path: Path, name: str) -> None:
    directory = tmp_path / name
    directory.mkdir()
    async with backbone(directory, with_streams=False) as bus:
        assert (await bus.connect_hub()).is_connected
        assert bus.state.jetstream.is_dir()


@pytest.mark.parametrize("text", ["new\nline", "nul\0", "\x7f", "\udcff"])
def test_what_the_configuration_can_not_carry_is_refused(text: str) -> None:
    with pytest.raises(StateError):
        server_config.quoted(text)


def test_hostile_bind_stays_a_string() -> None:
    rendered = server_config.render(
        StateDir(Path("/nowhere")),
        Settings(nats_bind='1" debug= true', budget_bytes=BUDGET),
    )
    line = next(line for line in rendered.splitlines() if line.startswith("listen"))
    assert line == 'listen: "1\\" debug= true:4222"'


def test_leftovers_of_a_killed_start_go_when_they_are_old(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    first_start.prepare(state, budget_bytes=BUDGET)
    old, young = state.tls / ".ca.key.abcdefgh", state.tls / ".server.key.abcdefgh"
    for path in (old, young):
        path.write_text("half a key")
    os.utime(old, (1, 1))
    first_start.prepare(state)
    assert (old.exists(), young.exists()) == (False, True)


def test_ports(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert not nats_server.port_is_free("127.0.0.1", port)
        assert not nats_server.port_is_free("0.0.0.0", port)
    free = nats_server.free_port("127.0.0.1")
    assert nats_server.port_is_free("127.0.0.1", free)
    assert nats_server.server_url("::", 4222) == "tls://[::1]:4222"


@settings(deadline=None)
@given(st.text(max_size=80))
def test_jwt_decoding_of_garbage_is_an_error_of_its_own(text: str) -> None:
    with pytest.raises(accounts.JwtError):
        accounts.decode(text, issuers=["A" * 56])


def test_jwt_of_another_issuer_or_altered_is_refused() -> None:
    seed, other = (accounts.new_seed(accounts.KeyKind.ACCOUNT) for _ in range(2))
    public = accounts.public_of(seed)
    token = accounts.encode({"sub": "x"}, seed)
    assert accounts.decode(token, issuers=[public])["sub"] == "x"
    with pytest.raises(accounts.JwtError, match="somebody else"):
        accounts.decode(token, issuers=[accounts.public_of(other)])
    head, body, signature = token.split(".")
    with pytest.raises(accounts.JwtError, match="wrong signature"):
        accounts.decode(f"{head}.{body}.{'A' * len(signature)}", issuers=[public])
    foreign = accounts.encode({"sub": "y"}, other).split(".")[2]
    with pytest.raises(accounts.JwtError):
        accounts.decode(f"{head}.{body}.{foreign}", issuers=[public])
    none = accounts._b64(b'{"typ":"JWT","alg":"none"}')
    with pytest.raises(accounts.JwtError):
        accounts.decode(f"{none}.{body}.{signature}", issuers=[public])


@pytest.mark.parametrize("name", ["", "A", "web.1", "web*", ">", "web 1", "x" * 49, "web1.>", "ü"])
def test_no_permission_is_made_for_a_hostile_name(name: str) -> None:
    with pytest.raises(ValueError, match="agent id"):
        accounts.agent_permissions(name)
    with pytest.raises(ValueError, match="agent id"):
        accounts.viewer_permissions("anna", [name])
    with pytest.raises(ValueError, match="agent id"):
        accounts.viewer_permissions(name, [])


async def test_what_was_renewed_is_offered_until_it_is_in_use(tmp_path: Path) -> None:
    """On the disk it isn't due any more: a server that was away just then must still be told to reload.

    The first look tells it in any case: a hub may have died between the writing and the telling.
    """
    state = StateDir(tmp_path / "state")
    first_start.prepare(state, budget_bytes=BUDGET)
    offered: list[bool] = []
    in_use = asyncio.Event()

    async def server_away_twice(renewed: Renewed) -> None:
        offered.append(renewed.certificate)
        if len(offered) == 1:
            raise system_account.ServerRefused("away")
        if len(offered) == 2:
            raise ConnectionClosedError
        in_use.set()

    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        keeping = tasks.create_task(keep_renewed(state, server_away_twice, interval_s=0.01))
        await in_use.wait()
        keeping.cancel()
    assert offered == [True, True, True]
