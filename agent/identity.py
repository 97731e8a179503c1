"""Who this agent is: its keys, which never leave this host, and what the hub answered at enrolment.

The files, in the agent's state directory (mode 0700):

    user.nk          NATS user seed (0600)           signing.key   Ed25519 seed for batches and reports (0600)
    request.json     the request as last printed     enrolment.json  the hub's answer
    user.jwt         the NATS user's credentials (0600); user.jwt.new: renewed, not yet in use (agent/credentials.py)
"""

from __future__ import annotations

import contextlib
import os
import platform
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path

from agent import credentials
from agent.segment import write_whole
from wire.enrolment import Enrolment, EnrolmentRequest
from wire.errors import WireError
from wire.keys import SigningKey
from wire.names import check_agent_id

_PREFIX_BYTE_USER = 20 << 3
MAX_FILE_BYTES = 256 * 1024


class IdentityError(Exception):
    """The agent can't prove who it is. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Identity:
    """An enrolled agent."""

    directory: Path
    name: str
    signing_key: SigningKey
    enrolment: Enrolment

    @property
    def jwt_path(self) -> Path:
        return self.directory / "user.jwt"

    @property
    def seed_path(self) -> Path:
        return self.directory / "user.nk"

    def renew(self, user_jwt: str) -> bool:
        """Keep renewed credentials beside those in use until they have worked; False when they are there already.

        Raises:
            OSError: they can't be written; the old ones stay.
        """
        return credentials.renew(self.jwt_path, user_jwt.strip().encode())


def make_request(directory: Path, name: str) -> EnrolmentRequest:
    """Make the keys (or keep those there) and return the request for the hub.

    Raises:
        IdentityError: the name isn't one, the folder holds another agent, a file can't be written.
    """
    try:
        check_agent_id(name)
    except WireError as error:
        raise IdentityError(f"{error}. Pick a short name such as {_suggestion()!r}") from None
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        request_path = directory / "request.json"
        if request_path.exists():
            known = EnrolmentRequest.from_json(_read(request_path)).agent
            if known != name:
                raise IdentityError(
                    f"{directory} holds the keys of agent {known!r}. Use another --state for {name!r}, "
                    f"or delete that folder if {known!r} is no more"
                )
        seed = _user_seed(directory / "user.nk")
        key = _signing_key(directory / "signing.key")
        request = EnrolmentRequest(
            agent=name,
            user_public=_user_public(seed),
            signing_public=key.public,
            hostname=platform.node()[:200] or name,
        )
        write_whole(request_path, request.to_json().encode())
    except OSError as error:
        raise IdentityError(
            f"{error}. Run it as the user the agent runs as, or name a folder with --state"
        ) from None
    except WireError as error:
        raise IdentityError(
            f"{directory}: {error}. Delete the file to make a new one (and enrol again)"
        ) from None
    return request


def take_enrolment(directory: Path, content: bytes) -> Identity:
    """Check the hub's answer against the keys here and keep it.

    Raises:
        IdentityError: not an answer, another agent's, for other keys, or it can't be written.
    """
    try:
        enrolment = Enrolment.from_json(content)
        key = _load_signing_key(directory)
        certificate = enrolment.open_certificate()
        if certificate.signing_public != key.public:
            raise IdentityError(
                "the enrolment is for other keys than those in "
                f"{directory}. Send the hub the request that `wirepool agent request` prints now"
            )
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=enrolment.ca_pem)
        write_whole(directory / "user.jwt", enrolment.user_jwt.strip().encode())
        credentials.renewed_path(directory / "user.jwt").unlink(missing_ok=True)  # older than this answer
        write_whole(directory / "enrolment.json", enrolment.to_json().encode())
    except WireError as error:
        raise IdentityError(
            f"not an enrolment: {error}. Ask the hub for it again: `wirepool enroll`"
        ) from None
    except (OSError, ssl.SSLError) as error:
        raise IdentityError(f"the enrolment can't be used: {error}") from None
    return Identity(directory, enrolment.agent, key, enrolment)


def load_identity(directory: Path) -> Identity:
    """The agent that was enrolled in this folder.

    Raises:
        IdentityError: there is none, or a file is missing, damaged or readable by others.
    """
    path = directory / "enrolment.json"
    try:
        enrolment = Enrolment.from_json(_read(path))
        key = _load_signing_key(directory)
        if enrolment.open_certificate().signing_public != key.public:
            raise IdentityError(
                f"{path} is for other keys than {directory / 'signing.key'}. Enrol this agent again"
            )
        _check_private(directory / "user.nk")
        jwt = directory / "user.jwt"
        if not jwt.exists():
            write_whole(jwt, enrolment.user_jwt.strip().encode())
    except FileNotFoundError as error:
        raise IdentityError(
            f"this agent isn't enrolled: {error.filename} is missing. Run `wirepool agent request NAME --state "
            f"{directory}`, give its output to `wirepool enroll` on the hub, and `wirepool agent enrol` its answer here"
        ) from None
    except OSError as error:
        raise IdentityError(str(error)) from None
    except WireError as error:
        raise IdentityError(f"{path}: {error}. Enrol this agent again") from None
    return Identity(directory, enrolment.agent, key, enrolment)


def _load_signing_key(directory: Path) -> SigningKey:
    path = directory / "signing.key"
    if not path.exists():
        raise IdentityError(f"{path} is missing. Run `wirepool agent request NAME` first: it makes the keys")
    try:
        return SigningKey.load(path)
    except (OSError, WireError) as error:
        raise IdentityError(str(error)) from None


def _signing_key(path: Path) -> SigningKey:
    if path.exists():
        return SigningKey.load(path)
    key = SigningKey.generate()
    key.save(path)
    return key


def _user_seed(path: Path) -> bytes:
    import nkeys

    if path.exists():
        _check_private(path)
        return path.read_bytes().strip()
    seed = bytes(nkeys.encode_seed(os.urandom(32), _PREFIX_BYTE_USER))
    write_whole(path, seed)
    return seed


def _user_public(seed: bytes) -> str:
    import nkeys

    try:
        pair = nkeys.from_seed(bytearray(seed))
    except Exception as error:  # nkeys has a dozen unrelated error classes
        raise WireError(f"user.nk: not a NATS user seed ({type(error).__name__})") from None
    return bytes(pair.public_key).decode().rstrip("=")


def _check_private(path: Path) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise IdentityError(f"others may read {path} (mode {mode:04o}). Run: chmod 600 {path}")


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise WireError(f"larger than {MAX_FILE_BYTES} bytes")
    return content


def _suggestion() -> str:
    name = "".join(c if c.isascii() and c.isalnum() else "-" for c in platform.node().split(".")[0].lower())
    with contextlib.suppress(WireError):
        return check_agent_id(name.strip("-")[:48])
    return "web1"
