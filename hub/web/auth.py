"""Who is at the page: passwords, web sessions, and the brake on guessing.

Passwords are kept as Argon2id (RFC 9106, its second recommended choice: 64 MiB, 3 passes). A login session is a random
token in a cookie, of which the registry keeps the sha256 only: a copy of the registry opens no session. Every session
has a CSRF token of its own. `hub/web/guard.py` applies all this to requests.
"""

import asyncio
import hashlib
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

from hub.registry import ConflictError, Registry, UserRecord, WebSession

COOKIE = "__Host-wirepool"
"""The prefix makes browsers insist on Secure, Path=/ and no Domain (RFC 6265bis, 4.1.3.2)."""
FIRST_USER = "admin"
MIN_PASSWORD_CHARACTERS = 10
MAX_PASSWORD_CHARACTERS = 1024
MAX_NAME_CHARACTERS = 64
HASHES_AT_ONCE = 2
"""Each hash takes 64 MiB: a burst of logins waits in line instead of taking the memory."""
LOGINS_WAITING = 32
"""Logins that may wait in that line; beyond it they are told to come back."""
TOUCH_INTERVAL_S = 60
NS = 1_000_000_000

# No 0/O, 1/l/I: the first password is read off a terminal.
_ALPHABET = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"


class PasswordRefused(ValueError):
    """A new password isn't good enough; the text says why."""


class TooManyLogins(Exception):
    """Guessing is slowed down. `retry_after_s` says for how long."""

    def __init__(self, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(f"too many failed logins; try again in {round_up(retry_after_s)}")


def round_up(seconds: float) -> str:
    """A waiting time for people."""
    whole = max(1, int(seconds + 0.999))
    if whole < 90:
        return f"{whole} s"
    return f"{(whole + 59) // 60} min"


def generate_password() -> str:
    """20 characters of 56: 116 bits, in four groups so that it can be typed."""
    characters = [secrets.choice(_ALPHABET) for _ in range(20)]
    return "-".join("".join(characters[i : i + 5]) for i in range(0, 20, 5))


def ensure_first_user(registry: Registry) -> str | None:
    """On a registry without users: add `admin` and return its password (print it once, it is kept nowhere). Else None.

    The page asks for another password at the first login.
    """
    if registry.users.all():
        return None
    password = generate_password()
    try:
        registry.users.add(FIRST_USER, _hasher().hash(password), must_change=True)
    except ConflictError:
        return None  # another process was first
    return password


def reset_password(registry: Registry, user: str = FIRST_USER) -> str:
    """Give `user` a new generated password and end the user's sessions (for the terminal). UnknownError without one."""
    password = generate_password()
    registry.users.set_password(user, _hasher().hash(password), must_change=True)
    return password


def _hasher() -> PasswordHasher:
    return PasswordHasher(
        time_cost=3, memory_cost=64 * 1024, parallelism=1, hash_len=32, salt_len=16, type=Type.ID
    )


@dataclass(slots=True)
class _Failures:
    tokens: float
    at_s: float


class LoginBrake:
    """A bucket of allowed failures per key, refilled slowly; bounded, the least recently used key goes first.

    A key that is forgotten starts with a full bucket. To push a key out an attacker needs `max_keys` failures from
    as many addresses, each slower than one guess.
    """

    def __init__(self, *, burst: int, refill_s: float, max_keys: int = 10_000) -> None:
        """`burst` failures at once, then one each `refill_s` seconds."""
        self._burst = burst
        self._refill_s = refill_s
        self._max_keys = max_keys
        self._failures: OrderedDict[str, _Failures] = OrderedDict()

    def __len__(self) -> int:
        return len(self._failures)

    def wait_s(self, key: str, now_s: float) -> float:
        """0 if an attempt is allowed now, else the seconds until it is."""
        entry = self._failures.get(key)
        if entry is None:
            return 0.0
        tokens = min(self._burst, entry.tokens + (now_s - entry.at_s) / self._refill_s)
        return 0.0 if tokens >= 1 else (1 - tokens) * self._refill_s

    def take(self, key: str, now_s: float) -> None:
        """Count an attempt before its result is known, so that parallel guesses count as well."""
        entry = self._failures.pop(key, None) or _Failures(self._burst, now_s)
        tokens = min(self._burst, entry.tokens + (now_s - entry.at_s) / self._refill_s)
        self._failures[key] = _Failures(tokens - 1, now_s)
        while len(self._failures) > self._max_keys:
            self._failures.popitem(last=False)

    def forgive(self, key: str) -> None:
        """A successful login gives its attempt back."""
        entry = self._failures.get(key)
        if entry is not None:
            entry.tokens = min(self._burst, entry.tokens + 1)


@dataclass(frozen=True, slots=True)
class Login:
    """A new web session: the token goes into the cookie and is kept nowhere else."""

    token: str
    user: UserRecord


class Authentication:
    """Logins and web sessions on the registry. Times are UTC ns from `time.time_ns`, the brake is monotonic."""

    def __init__(self, registry: Registry, *, idle_s: int = 12 * 3600, lifetime_s: int = 7 * 86400) -> None:
        """A session ends `idle_s` after its last request and `lifetime_s` after its login, whichever comes first."""
        self._registry = registry
        self._idle_ns = idle_s * NS
        self._lifetime_ns = lifetime_s * NS
        self._hasher = _hasher()
        # Verified instead of a missing user's hash, so that an unknown name takes as long as a wrong password.
        self._nobody = self._hasher.hash(generate_password())
        self._slots = asyncio.Semaphore(HASHES_AT_ONCE)
        self._waiting = 0
        self.by_user = LoginBrake(burst=10, refill_s=30.0)
        self.by_address = LoginBrake(burst=20, refill_s=5.0)

    async def log_in(self, name: str, password: str, address: str) -> Login | None:
        """A new session, or None for a wrong name or password. Raises TooManyLogins.

        The brake is per name *and address* and per address: a stranger's guesses never lock the owner out.
        """
        now_s = time.monotonic()
        user_key = f"{name[:MAX_NAME_CHARACTERS]}\0{address}"
        wait_s = max(self.by_user.wait_s(user_key, now_s), self.by_address.wait_s(address, now_s))
        if wait_s > 0:
            raise TooManyLogins(wait_s)
        self.by_user.take(user_key, now_s)
        self.by_address.take(address, now_s)
        user = self._registry.users.get(name) if len(name) <= MAX_NAME_CHARACTERS else None
        matches = await self._verify(user.password_hash if user else self._nobody, password)
        if user is None or not matches:
            return None
        self.by_user.forgive(user_key)
        self.by_address.forgive(address)
        if self._hasher.check_needs_rehash(user.password_hash):
            self._registry.users.rehash_password(user.name, await self._hash(password))
        return self.open_session(user)

    def open_session(self, user: UserRecord) -> Login:
        """A new web session for a user who has just proved to be that user."""
        token = secrets.token_urlsafe(32)
        expires_ns = time.time_ns() + min(self._idle_ns, self._lifetime_ns)
        self._registry.users.open_web_session(
            _hash_token(token), user.name, secrets.token_urlsafe(32), expires_ns
        )
        return Login(token, user)

    def session_of(self, token: str) -> WebSession | None:
        """The live session of a cookie, extended at most once a minute; None if there is none."""
        if not 20 <= len(token) <= 128:
            return None
        session = self._registry.users.web_session(_hash_token(token))
        if session is None:
            return None
        now_ns = time.time_ns()
        if now_ns - session.seen_ns > TOUCH_INTERVAL_S * NS:
            expires_ns = min(now_ns + self._idle_ns, session.created_ns + self._lifetime_ns)
            self._registry.users.touch_web_session(session.token_hash, expires_ns)
        return session

    def is_open(self, session: WebSession) -> bool:
        """Whether a session that was valid at the beginning of an event stream still is."""
        return self._registry.users.web_session(session.token_hash) is not None

    def must_change(self, session: WebSession) -> bool:
        """Whether the session's user still has the password that was generated."""
        user = self._registry.users.get(session.user)
        return user is not None and user.must_change

    def log_out(self, session: WebSession) -> None:
        """End the session."""
        self._registry.users.close_web_session(session.token_hash)

    async def change_password(self, user: str, old: str, new: str, address: str) -> Login | None:
        """Replace the password, end all of the user's sessions and open a new one; None if `old` is wrong.

        Raises PasswordRefused for a new password that isn't good enough and TooManyLogins for too many wrong old ones.
        """
        login = await self.log_in(user, old, address)
        if login is None:
            return None
        try:
            check_new_password(user, old, new)
        except PasswordRefused:
            self._registry.users.close_web_session(_hash_token(login.token))
            raise
        self._registry.users.set_password(user, await self._hash(new))
        record = self._registry.users.get(user)
        return None if record is None else self.open_session(record)

    async def _verify(self, stored: str, password: str) -> bool:
        if len(password) > MAX_PASSWORD_CHARACTERS:
            password = ""

        def verify() -> bool:
            try:
                return self._hasher.verify(stored, password)
            except (VerificationError, InvalidHashError):
                return False

        return bool(await self._in_line(verify))

    async def _hash(self, password: str) -> str:
        return str(await self._in_line(lambda: self._hasher.hash(password)))

    async def _in_line(self, work: object) -> object:
        if self._waiting >= LOGINS_WAITING:
            raise TooManyLogins(2.0)
        self._waiting += 1
        try:
            async with self._slots:
                return await asyncio.to_thread(work)  # type: ignore[arg-type]
        finally:
            self._waiting -= 1


def check_new_password(user: str, old: str, new: str) -> None:
    """Length is what counts (NIST SP 800-63B, 5.1.1.2). Raises PasswordRefused."""
    if len(new) < MIN_PASSWORD_CHARACTERS:
        raise PasswordRefused(
            f"Use at least {MIN_PASSWORD_CHARACTERS} characters; a few words in a row are good."
        )
    if len(new) > MAX_PASSWORD_CHARACTERS:
        raise PasswordRefused(f"Use at most {MAX_PASSWORD_CHARACTERS} characters.")
    if new == old:
        raise PasswordRefused("That is the old password.")
    if user.lower() in new.lower() or len(set(new)) < 5:
        raise PasswordRefused(
            "That is too easy to guess: leave your name out and use more different characters."
        )


def _hash_token(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
