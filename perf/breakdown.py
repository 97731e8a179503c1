"""Where a process's CPU time goes, by stage: samples of Linux `perf`, sorted by thread and shared object.

Counters inside the agent would cost what they measure, and a profiler of Python sees nothing of C. A sampled
program counter costs next to nothing and names the library it is in, and each stage of the agent happens to
be a library of its own: zstandard compresses, libsodium signs, OpenSSL hashes in a session's thread and
encrypts in the main one.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

FREQUENCY_HZ = 997  # a prime, so that no timer of the agent runs in step with it


@dataclass(frozen=True, slots=True)
class Sample:
    main_thread: bool
    library: str
    share: float  # of all samples, 0…1


def stage_of(sample: Sample) -> str:
    """The stage of the agent that a sample's library (and thread) belongs to."""
    library = sample.library
    if library.startswith("_tpacket"):
        return "ring → columns (C)"
    if library.startswith(("_columns", "_cbor2", "cbor2")):
        return "body (CBOR columns)"
    if "zst" in library or library.startswith("backend_c"):
        return "compress (zstd)"
    if "sodium" in library:
        return "sign (Ed25519)"
    if library.startswith(("libcrypto", "_sha2", "_hashlib")):
        return "encrypt (TLS)" if sample.main_thread else "hash (SHA-256)"
    if library.startswith(("libssl", "_ssl")):
        return "encrypt (TLS)"
    if library.startswith(("libz.", "zlib")):
        return "check sum (CRC-32)"
    if library.startswith(("[kernel", "[guest", "[unknown", "vmlinux")):
        return "kernel: send, receive" if sample.main_thread else "kernel: ring, spool file"
    if library.startswith(("libpython", "python")):
        return "Python: publish, control" if sample.main_thread else "Python: per batch"
    if library.startswith(("libc.", "libc-", "ld-", "libpthread")):
        return "copy, allocate (libc)"
    return "other"


class Profile:
    """Samples one process for as long as the `with` block runs; `stages()` afterwards.

    `available` says whether perf is here; without it `stages()` is empty and the caller prints why.
    """

    available = shutil.which("perf") is not None

    def __init__(self, pid: int, directory: Path) -> None:
        self._pid = pid
        self._data = directory / f"perf-{pid}.data"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Profile:
        if self.available:
            argv = ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(FREQUENCY_HZ), "-p", str(self._pid)]
            self._process = subprocess.Popen(
                [*argv, "-o", str(self._data)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(30)

    def samples(self) -> list[Sample]:
        """What was sampled; [] without perf or when the process did nothing."""
        if not self._data.exists():
            return []
        argv = ["perf", "report", "-i", str(self._data), "--stdio", "--no-children", "-q", "-g", "none"]
        argv += ["--sort", "pid,dso", "--field-separator", ";", "--percent-limit", "0"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
        found = []
        for line in done.stdout.splitlines():
            fields = [part.strip() for part in line.split(";")]
            if len(fields) < 3 or not fields[0].endswith("%"):
                continue
            thread = fields[1].partition(":")[0]  # perf calls the thread's id "pid"
            found.append(Sample(thread == str(self._pid), fields[2], float(fields[0].rstrip("%")) / 100))
        return found

    def stages(self) -> dict[str, float]:
        """Stage → share of the process's CPU time, largest first."""
        total: dict[str, float] = {}
        for sample in self.samples():
            stage = stage_of(sample)
            total[stage] = total.get(stage, 0.0) + sample.share
        return dict(sorted(total.items(), key=lambda item: -item[1]))
