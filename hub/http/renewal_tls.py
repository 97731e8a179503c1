"""The page's TLS context, and the renewal of its certificate without a restart.

`ssl.SSLContext.load_cert_chain` may be called again on a context that is in use: connections made before keep
their certificate, the next handshake gets the new one. So the context is made once and lives as long as the process.
"""

import asyncio
import logging
import ssl
from pathlib import Path

log = logging.getLogger("wirepool.hub.tls")

CHECK_INTERVAL_S = 60.0


class RenewableCertificate:
    """A server-side TLS 1.3 context for HTTP/2 and HTTP/1.1 whose certificate is read again when its file changes.

    Raises OSError when a file can't be read and `ssl.SSLError` when certificate and key don't belong together.
    """

    def __init__(self, certificate_path: Path, key_path: Path) -> None:
        self.certificate_path = certificate_path
        self.key_path = key_path
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_3
        self.context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        self.context.set_alpn_protocols(["h2", "http/1.1"])
        self._loaded = self._state()
        self.context.load_cert_chain(certificate_path, key_path)

    def _state(self) -> tuple[tuple[int, int, int], ...]:
        stats = [path.stat() for path in (self.certificate_path, self.key_path)]
        return tuple((s.st_mtime_ns, s.st_size, s.st_ino) for s in stats)

    def reload_if_changed(self) -> bool:
        """Load the pair again if a file changed since; True when a new certificate is in use.

        While a renewal is half written the pair doesn't fit: a scratch context is tried first, so that the working one
        keeps the old pair, and the next round tries again.
        """
        state = self._state()
        if state == self._loaded:
            return False
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate_path, self.key_path)
        self.context.load_cert_chain(self.certificate_path, self.key_path)
        self._loaded = state
        return True

    async def watch(self, interval_s: float = CHECK_INTERVAL_S) -> None:
        """Runs until cancelled; a pair that can't be loaded is logged and the old one stays in use."""
        while True:
            await asyncio.sleep(interval_s)
            try:
                if self.reload_if_changed():
                    log.info("the page now uses the renewed certificate %s", self.certificate_path)
            except (OSError, ssl.SSLError) as error:
                log.warning(
                    "can't load the renewed certificate %s (%s); still serving the one before",
                    self.certificate_path,
                    error,
                )
