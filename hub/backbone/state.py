"""The state directory: where every key, certificate, credential and setting of one hub lives, and how it is
written.

Nothing here is ever half written: a file is made beside its place, synced, then renamed over it. Directories
are 0700 and files 0600, so that a backup or another user of the host sees nothing by accident.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600
DEFAULT_NATS_PORT = 4222
DEFAULT_PAGE_PORT = 8443
SETTINGS_VERSION = 1


class StateError(Exception):
    """The state directory can't be used as it is; the message says what to do."""


def write_private(path: Path, data: bytes, mode: int = FILE_MODE) -> None:
    """Replace path by data, atomically and durably: a reader or a crash sees the old file or the new one,
    whole.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def make_directory(path: Path) -> None:
    """Make path (and its parents) readable by its owner only; an existing one is closed to others, too."""
    path.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    if path.stat().st_mode & 0o077:
        path.chmod(DIRECTORY_MODE)


@dataclass(frozen=True, slots=True)
class Settings:
    """What was decided once and must not change by itself at the next start. Kept in settings.json."""

    nats_bind: str = "127.0.0.1"
    """Address the NATS server listens on."""
    nats_port: int = DEFAULT_NATS_PORT
    """Port of the NATS server; agents elsewhere have it in their enrolment."""
    page_bind: str = "127.0.0.1"
    """Address the hub's page listens on."""
    page_port: int = DEFAULT_PAGE_PORT
    """Port of the hub's page (https)."""
    budget_bytes: int = 0
    """Disk space the archive may take, all streams together; 0 = not decided yet."""
    names: tuple[str, ...] = ()
    """More names and addresses for the server certificate, beside those found on this host."""
    external_url: str | None = None
    """An existing NATS server to use instead of our own (tls://host:port)."""
    external_credentials: str | None = None
    """Credentials file of the hub's user on the external server."""
    external_ca: str | None = None
    """CA certificate of the external server; None = the host's trust store."""
    external_tls_first: bool = False
    """Whether the external server does the TLS handshake before its greeting."""
    external_account: str | None = None
    """Public key (A…) of the external account, needed to enrol agents there."""
    external_signing_key: str | None = None
    """File with the signing key (SA…) of that account, needed to enrol agents there."""


@dataclass(frozen=True, slots=True)
class StateDir:
    """The paths of one state directory. Making the object touches nothing."""

    root: Path
    operator: Path = field(init=False)
    tls: Path = field(init=False)
    nats: Path = field(init=False)
    hub: Path = field(init=False)
    viewers: Path = field(init=False)
    agents: Path = field(init=False)
    logs: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", self.root.expanduser().absolute())
        for name in ("operator", "tls", "nats", "hub", "viewers", "agents", "logs"):
            object.__setattr__(self, name, self.root / name)

    @classmethod
    def from_option(cls, option: str | os.PathLike[str] | None = None) -> StateDir:
        """The directory of --state, else of WIREPOOL_STATE, else var/ in the checkout.

        Installed without a checkout: /var/lib/wirepool for root, else wirepool in XDG_STATE_HOME.
        """
        chosen = option or os.environ.get("WIREPOOL_STATE")
        if chosen:
            return cls(Path(chosen))
        checkout = Path(__file__).resolve().parents[2]
        if (checkout / "pyproject.toml").is_file():
            return cls(checkout / "var")
        if os.geteuid() == 0:
            return cls(Path("/var/lib/wirepool"))
        return cls(Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state") / "wirepool")

    @property
    def settings_file(self) -> Path:
        return self.root / "settings.json"

    @property
    def operator_key(self) -> Path:
        """Seed of the operator: signs accounts. Needed for revocation only; may be kept offline otherwise."""
        return self.operator / "operator.nk"

    @property
    def operator_jwt(self) -> Path:
        return self.operator / "operator.jwt"

    @property
    def account_key(self) -> Path:
        """Seed of the account WIREPOOL: its public half names the account; signs nothing after the first
        start.
        """
        return self.operator / "account.nk"

    @property
    def account_jwt(self) -> Path:
        """The account's claims, revocations included: the source that the server's resolver holds a copy of."""
        return self.operator / "account.jwt"

    @property
    def system_key(self) -> Path:
        return self.operator / "system.nk"

    @property
    def system_jwt(self) -> Path:
        return self.operator / "system.jwt"

    @property
    def signing_key(self) -> Path:
        """Seed of the account's signing key: the hub signs users' JWTs with it."""
        return self.hub / "signing.nk"

    @property
    def ca_certificate(self) -> Path:
        return self.tls / "ca.crt"

    @property
    def ca_key(self) -> Path:
        return self.tls / "ca.key"

    @property
    def server_certificate(self) -> Path:
        return self.tls / "server.crt"

    @property
    def server_key(self) -> Path:
        return self.tls / "server.key"

    @property
    def nats_config(self) -> Path:
        return self.nats / "nats-server.conf"

    @property
    def jetstream(self) -> Path:
        return self.nats / "jetstream"

    @property
    def resolver(self) -> Path:
        return self.nats / "resolver"

    @property
    def hub_credentials(self) -> Path:
        return self.hub / "hub.creds"

    @property
    def system_credentials(self) -> Path:
        return self.hub / "sys.creds"

    @property
    def control_key(self) -> Path:
        """The hub's Ed25519 key (wire.keys): signs desired, control requests and key certificates."""
        return self.hub / "control.key"

    @property
    def database(self) -> Path:
        return self.hub / "wirepool.sqlite3"

    @property
    def pool(self) -> Path:
        """Directory of the embedded store."""
        return self.hub / "pool"

    def viewer_credentials(self, name: str) -> Path:
        return self.viewers / f"{name}.creds"

    def agent(self, name: str) -> Path:
        """State of an agent that runs on this host."""
        return self.agents / name

    @property
    def exists(self) -> bool:
        return self.settings_file.is_file()

    def make_directories(self) -> None:
        """Make every directory; raises StateError where that isn't possible."""
        try:
            for path in (
                self.root,
                self.operator,
                self.tls,
                self.nats,
                self.jetstream,
                self.resolver,
                self.hub,
                self.viewers,
                self.agents,
                self.logs,
            ):
                make_directory(path)
        except OSError as error:
            raise StateError(
                f"can't use {self.root} as the state directory: {error.strerror}: {error.filename}. "
                "Choose another one with --state DIR or WIREPOOL_STATE."
            ) from error

    def settings(self) -> Settings:
        """Read settings.json; the defaults where there is none. Raises StateError when it isn't ours."""
        try:
            raw = self.settings_file.read_bytes()
        except FileNotFoundError:
            return Settings()
        return parse_settings(raw, self.settings_file)

    def save_settings(self, settings: Settings) -> None:
        document = {"version": SETTINGS_VERSION, **asdict(settings)}
        write_private(self.settings_file, json.dumps(document, indent=2).encode() + b"\n")

    def change_settings(self, **changes: Any) -> Settings:
        """Replace the named settings and return all."""
        before = self.settings()
        after = replace(before, **changes)
        if after != before or not self.exists:
            self.save_settings(after)
        return after

    @contextmanager
    def locked(self, purpose: str) -> Iterator[None]:
        """Hold the directory for this process; StateError names who holds it when it's taken.

        The kernel drops the lock when the process dies, however it dies.
        """
        descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
                raise StateError(
                    f"{self.root} is in use by {holder}. Stop that one first (Ctrl-C in its terminal), "
                    "or give this one a directory of its own with --state DIR."
                ) from None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{purpose} (pid {os.getpid()})\n".encode(), 0)
            yield
        finally:
            os.close(descriptor)


def parse_settings(raw: bytes, path: Path) -> Settings:
    """Settings of a settings.json; every key and type is checked, since people edit it. Raises StateError."""
    try:
        document = json.loads(raw)
        if not isinstance(document, dict):
            raise ValueError("not an object")
        if document.pop("version", None) != SETTINGS_VERSION:
            raise ValueError("written by another version of wirepool")
        known = {f.name: f for f in fields(Settings)}
        for key, value in document.items():
            if key not in known:
                raise ValueError(f"unknown key {key!r}")
            document[key] = _checked(key, value)
        return Settings(**document)
    except (ValueError, TypeError, RecursionError) as error:
        raise StateError(
            f"{path}: {error}. Repair it, or move it away to start with the defaults."
        ) from error


def _checked(key: str, value: Any) -> Any:
    if key == "names":
        if isinstance(value, list) and all(isinstance(name, str) for name in value):
            return tuple(value)
        raise ValueError("names: want a list of texts")
    if key in ("nats_port", "page_port"):
        if type(value) is int and 1 <= value <= 65535:
            return value
        raise ValueError(f"{key}: want a port from 1 to 65535")
    if key == "budget_bytes":
        if type(value) is int and value >= 0:
            return value
        raise ValueError(f"{key}: want a number of bytes")
    if key == "external_tls_first":
        if type(value) is bool:
            return value
        raise ValueError(f"{key}: want true or false")
    if isinstance(value, str) or (value is None and key.startswith("external_")):
        return value
    raise ValueError(f"{key}: want a text")
