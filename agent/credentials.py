"""What the agent shows the NATS server: a JWT from the hub and the key it was made for. Renewing it can't lock us out.

    user.jwt        the JWT that let us in last        user.jwt.new    a renewed one that hasn't yet
    user.nk         the NATS user's seed

A renewed JWT lies beside the old one until the server has taken it; then it takes the old one's place.  Until then
every attempt that came to nothing is followed by one with the other of the two, so that neither a JWT the server
refuses nor one that has expired keeps the agent away while the other would do.
"""

from __future__ import annotations

import base64
import logging
import os
from pathlib import Path

from agent.segment import write_whole

log = logging.getLogger(__name__)


def renewed_path(jwt_path: Path) -> Path:
    """Where the renewed JWT waits."""
    return jwt_path.with_name(jwt_path.name + ".new")


def renew(jwt_path: Path, content: bytes) -> bool:
    """Keep a renewed JWT for the next connection; False when it is there already, in use or waiting.

    Raises:
        OSError: it can't be written; nothing has changed.
    """
    waiting = renewed_path(jwt_path)
    if content == jwt_path.read_bytes():
        waiting.unlink(missing_ok=True)  # what the hub wants is what we have
        return False
    if waiting.exists() and waiting.read_bytes() == content:
        return False
    write_whole(waiting, content)
    return True


class Credentials:
    """Answers for one connection at a time: `jwt` and `sign` at each attempt, `accepted` once one is in force."""

    def __init__(self, jwt_path: Path, seed_path: Path) -> None:
        self._jwt_path = jwt_path
        self._renewed_path = renewed_path(jwt_path)
        self._seed_path = seed_path
        self._offered: bytes | None = None
        """The JWT of an attempt of which nothing was heard yet."""
        self._offered_renewed = False
        self._complained_of: bytes | None = None

    def jwt(self) -> bytes:
        """The JWT to show now: the renewed one first, and after an attempt that failed the other.

        Raises:
            OSError: it can't be read.
        """
        failed = self._offered is not None
        use_renewed = self._renewed_path.exists() and not (failed and self._offered_renewed)
        if failed and self._offered_renewed and self._complained_of != self._offered:
            self._complained_of = self._offered  # once for each, however often it is tried
            log.warning(
                "no connection with the renewed credentials; trying the previous ones. If this goes on until those "
                "expire, enrol this agent again on the hub"
            )
        self._offered_renewed = use_renewed
        self._offered = (self._renewed_path if use_renewed else self._jwt_path).read_bytes()
        return self._offered

    def sign(self, nonce: str) -> bytes:
        """The server's nonce signed with the user's key, as base64.

        Raises:
            OSError: the seed can't be read.
        """
        import nkeys

        pair = nkeys.from_seed(bytearray(self._seed_path.read_bytes()))
        signature = base64.b64encode(pair.sign(nonce.encode()))
        pair.wipe()
        return signature

    def accepted(self) -> None:
        """The server let us in with what was shown last; renewed credentials are the proven ones from now on."""
        offered, self._offered = self._offered, None
        if offered is None or not self._offered_renewed:
            return
        self._offered_renewed = False
        try:
            if self._renewed_path.read_bytes() == offered:  # not yet newer ones
                os.replace(self._renewed_path, self._jwt_path)
                log.info("the server has taken the renewed credentials")
        except OSError as error:
            log.error("renewed credentials can't take the place of the old ones: %s", error)
