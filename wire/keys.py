"""Ed25519 signing keys (RFC 8032) and the files they live in.

An agent's signing key is its own, not its NATS key: the server's permissions and the signatures on batches are two
independent fences. libsodium (PyNaCl) does the work and is imported at the first use, since many commands never sign.
"""

import base64
import binascii
import hashlib
import os
import stat

from wire.errors import WireError

SEED_BYTES = 32
PUBLIC_BYTES = 32
SIGNATURE_BYTES = 64

_FILE_PREFIX = "wirepool-ed25519-seed "


class SigningKey:
    """A private Ed25519 key.

    seed: 32 bytes, the private key itself. public: 32 bytes.
    """

    __slots__ = ("_secret", "public", "seed")

    def __init__(self, seed: bytes) -> None:
        from nacl.bindings import crypto_sign_seed_keypair

        if len(seed) != SEED_BYTES:
            raise ValueError(f"an Ed25519 seed has {SEED_BYTES} bytes, not {len(seed)}")
        self.seed = bytes(seed)
        self.public, self._secret = crypto_sign_seed_keypair(self.seed)

    def __repr__(self) -> str:
        return f"<SigningKey {fingerprint(self.public)}>"  # never the seed: this lands in logs

    @classmethod
    def generate(cls) -> "SigningKey":
        """A new key from the system's random numbers."""
        return cls(os.urandom(SEED_BYTES))

    @classmethod
    def from_seed(cls, seed: bytes) -> "SigningKey":
        """The key of a known 32-byte seed."""
        return cls(seed)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "SigningKey":
        """Read a key that `save` wrote.

        OSError when the file can't be read; PermissionError when others may read it; WireError when it
        isn't a key.
        """
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
                raise PermissionError(f"{path}: others may read this private key; run: chmod 600 {path}")
            text = file.read(256)
        prefix = _FILE_PREFIX.encode()
        if text.startswith(prefix):
            try:
                seed = base64.b64decode(text[len(prefix) :].strip(), validate=True)
            except binascii.Error:
                seed = b""
            if len(seed) == SEED_BYTES:
                return cls(seed)
        raise WireError(f"{path}: not a wirepool signing key")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the key to `path`, mode 0600, whole or not at all."""
        target = os.fspath(path)
        directory, name = os.path.split(target)
        scratch = os.path.join(directory, f".{name}.{os.urandom(8).hex()}")
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(_FILE_PREFIX.encode() + base64.b64encode(self.seed) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(scratch, target)
        except BaseException:
            os.unlink(scratch)
            raise

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature of `message`."""
        from nacl.bindings import crypto_sign

        return crypto_sign(message, self._secret)[:SIGNATURE_BYTES]


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` (64 bytes) of `message` was made with the private key of `public` (32 bytes)."""
    from nacl.bindings import crypto_sign_open
    from nacl.exceptions import BadSignatureError

    if len(public) != PUBLIC_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        crypto_sign_open(bytes(signature) + bytes(message), bytes(public))
    except BadSignatureError:
        return False
    return True


def fingerprint(public: bytes) -> str:
    """How a person compares a public key: `SHA256:` and 43 characters of base64, as ssh shows it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(public).digest()).decode().rstrip("=")
