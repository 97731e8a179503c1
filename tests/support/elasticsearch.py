"""A real Elasticsearch node, 7.17 or 8.19, fetched from Maven Central once and kept in .cache.

    with elasticsearch_node("8.19.21") as node:
        node.url, node.user, node.password, node.ca

What Maven Central has is Elasticsearch's own distribution for integration tests: the server with TLS, users and roles
from files, without scripts, lifecycle management, data streams and the page at `/`. It is fetched with Maven (a Debian
package), compared with the sum below, and never part of this repository (Elastic License 2.0).
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.need import need, without

SUMS = {
    "7.17.29": "841ee00be1a72ba8e707b5a2fb55f23fe7a4184369b4585393238b1c903eedaf",
    "8.19.21": "215d5f3dbf0609a149f6218a9e47b6ae2df34ebbff3c5754e35f15a5e5393c8a",
}
"""Version → SHA-256 of the zip."""
CACHE = Path(__file__).resolve().parents[2] / ".cache" / "elasticsearch"
NOBODY = 65534
START_S = 180
USER, PASSWORD = "tester", "test-password"
_LOG = """status = error
appender.c.type = Console
appender.c.name = c
appender.c.layout.type = PatternLayout
appender.c.layout.pattern = [%d][%p][%c] %m%n
rootLogger.level = info
rootLogger.appenderRef.c.ref = c
"""
_JVM = "-XX:+UseG1GC\n-XX:-AlwaysPreTouch\n-Djava.io.tmpdir=${ES_TMPDIR}\n"


def java_home() -> Path:
    """A Java that runs both versions: 17 to 21. The test is skipped (or fails) without one."""
    need("java")
    told = os.environ.get("ES_JAVA_HOME")
    if told:
        return Path(told)
    found = [*Path("/usr/lib/jvm").glob("java-17-openjdk-*"), *Path("/usr/lib/jvm").glob("java-21-openjdk-*")]
    if not found:
        without("no OpenJDK 17 or 21 in /usr/lib/jvm; `./wirepool test` as root installs one")
    return found[0]


def home(version: str) -> Path:
    """The unpacked distribution; fetched when it isn't there yet."""
    CACHE.mkdir(parents=True, exist_ok=True)
    directory = CACHE / f"elasticsearch-{version}"
    with (CACHE / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "bin" / "elasticsearch").exists():
            _fetch(version)
    return directory


def _fetch(version: str) -> None:
    need("mvn")
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        artifact = f"org.elasticsearch.distribution.integ-test-zip:elasticsearch:{version}:zip"
        done = subprocess.run(
            ("mvn", "-B", "-q", f"-Dmaven.repo.local={scratch}/repository", f"-Dartifact={artifact}",
             f"-DoutputDirectory={scratch}", "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"),
            cwd=scratch, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        archive = Path(scratch) / f"elasticsearch-{version}.zip"
        if done.returncode or not archive.exists():
            without(f"Maven can't fetch Elasticsearch {version}: {done.stdout[-500:]}")
        with archive.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != SUMS[version]:
            raise AssertionError(f"Elasticsearch {version}: SHA-256 {found}, not {SUMS[version]}")
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(scratch)
        unpacked = Path(scratch) / f"elasticsearch-{version}"
        for name in ("plugins", "logs"):
            (unpacked / name).mkdir(exist_ok=True)
        for program in (unpacked / "bin").iterdir():
            program.chmod(0o755)
        unpacked.rename(CACHE / unpacked.name)


def free_port() -> int:
    """A TCP port of the loopback that nobody has now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@dataclass(slots=True)
class Node:
    """A node in a directory of its own; it may be killed and started again on its data."""

    version: str
    directory: Path
    secure: bool = False
    heap: str = "512m"
    settings: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    transport_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{'https' if self.secure else 'http'}://127.0.0.1:{self.port}"

    @property
    def ca(self) -> Path:
        """Its certificate, where it is secure."""
        return self.directory / "config" / "node.crt"

    def start(self) -> None:
        """Start, and wait until it answers."""
        program = home(self.version)
        options = {
            "path.data": self.directory / "data",
            "path.logs": self.directory / "logs",
            "discovery.type": "single-node",
            "network.host": "127.0.0.1",
            "http.port": self.port,
            "transport.port": self.transport_port,
            "cluster.routing.allocation.disk.threshold_enabled": "false",
            "xpack.security.enabled": str(self.secure).lower(),
            **self.settings,
        }
        if self.secure:
            options |= {
                "xpack.security.http.ssl.enabled": "true",
                "xpack.security.http.ssl.key": self.directory / "config" / "node.key",
                "xpack.security.http.ssl.certificate": self.ca,
            }
        as_root = os.geteuid() == 0  # Elasticsearch refuses to run as root
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory),
            "ES_PATH_CONF": str(self.directory / "config"),
            "ES_TMPDIR": str(self.directory / "tmp"),
            "ES_JAVA_HOME": str(java_home()),
            "ES_JAVA_OPTS": f"-Xms{self.heap} -Xmx{self.heap}",
        }
        with (self.directory / "out.log").open("wb") as output:
            self.process = subprocess.Popen(
                [str(program / "bin" / "elasticsearch"), *(f"-E{key}={value}" for key, value in options.items())],
                cwd=self.directory, env=environment, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
                user=NOBODY if as_root else None, group=NOBODY if as_root else None,
                extra_groups=[] if as_root else None,
            )  # fmt: skip
        self._wait()

    def _wait(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + START_S
        while True:
            try:
                self.ask("GET", "/_cluster/health?wait_for_status=yellow&timeout=30s")
                return
            except (OSError, urllib.error.URLError) as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    told = (self.directory / "out.log").read_text(errors="replace")[-4000:]
                    self.kill()
                    raise RuntimeError(
                        f"Elasticsearch {self.version} did not start ({error}):\n{told}"
                    ) from None
                time.sleep(0.2)

    def ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """One request, past the code under test; urllib's errors."""
        request = urllib.request.Request(self.url + path, body, method=method)
        request.add_header("Content-Type", "application/json")
        if self.secure:
            told = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            request.add_header("Authorization", f"Basic {told}")
        context = ssl.create_default_context(cafile=str(self.ca)) if self.secure else None
        with urllib.request.urlopen(request, timeout=60, context=context) as answer:
            return bytes(answer.read())

    def kill(self) -> None:
        """SIGKILL, as a crash; its data stay."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)  # its own session: launcher and server
        if self.process is not None:
            self.process.wait()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL after 30 s."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
        self.kill()


def _prepare(node: Node) -> None:
    for name in ("config", "data", "logs", "tmp"):
        (node.directory / name).mkdir()
    config = node.directory / "config"
    (config / "log4j2.properties").write_text(_LOG)
    (config / "jvm.options").write_text(_JVM)
    if node.secure:
        need("openssl")
        subprocess.run(
            ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=localhost",
             "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", config / "node.key", "-out", node.ca),
            check=True, capture_output=True,
        )  # fmt: skip
        salt = os.urandom(32)
        hashed = base64.b64encode(hashlib.pbkdf2_hmac("sha512", PASSWORD.encode(), salt, 10_000, 32)).decode()
        told = f"{USER}:{{PBKDF2}}10000${base64.b64encode(salt).decode()}${hashed}\n"
        (config / "users").write_text(told)
        (config / "users_roles").write_text(f"superuser:{USER}\n")
    if os.geteuid() == 0:
        for path in (node.directory, *node.directory.rglob("*")):
            os.chown(path, NOBODY, NOBODY)


@contextlib.contextmanager
def elasticsearch_node(
    version: str, *, secure: bool = False, heap: str = "512m", settings: Mapping[str, str] | None = None
) -> Iterator[Node]:
    """A running node for the time of the block."""
    java_home()
    home(version)
    directory = Path(tempfile.mkdtemp(prefix="wirepool-elasticsearch-"))
    node = Node(version, directory, secure, heap, settings or {})
    try:
        _prepare(node)
        node.start()
        yield node
    finally:
        node.stop()
        shutil.rmtree(directory, ignore_errors=True)
