"""Which way a host captures, and why: each way forced, and everything that can be missing taken away for real."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.bpf_filter import FilterError
from agent.ebpf import loading
from agent.ebpf.contract import COUNTERS, SETTINGS
from agent.ebpf.kernel import KernelRefused, load_socket_filter, read, write
from agent.ebpf.loading import LOADER, CannotLoad, CapturePath, load
from agent.intake import Order
from agent.settings import Config
from agent.sources.opening import open_source
from agent.sources.source import PacketSource, SourceError
from tests.support.ebpf import programs
from tests.support.need import need
from wire.session import SessionSpec

pytestmark = pytest.mark.root

_PR_CAPBSET_DROP, _CAP_NET_RAW, _CAP_SYS_ADMIN, _CAP_BPF = 24, 13, 21, 39


def copied(tmp_path: Path) -> Path:
    """The loader and what it loads, to be damaged."""
    folder = tmp_path / "bpf"
    shutil.copytree(LOADER.parent, folder)
    return folder / "loader.py"


def opened(spec: SessionSpec, path: CapturePath) -> PacketSource:
    return open_source(spec, spec.interface, Order.declared(spec), [], Config(), path)


def held() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("way", ["bcc", "object"])
def test_a_way_is_open_and_each_capture_has_maps_of_its_own(way: str) -> None:
    before = held()
    with programs(way) as one, programs(way) as other:  # type: ignore[union-attr]
        assert re.fullmatch(r"(BCC|libbpf) [\d.]+", one.loaded_by)
        write(one._map("counters"), 0, COUNTERS.pack(7, 5, 3, 1, 9, 2) * one._values)
        assert one.counters() == tuple(number * one._values for number in (7, 5, 3, 1, 9, 2))
        assert other.counters() == (0, 0, 0, 0, 0, 0)
        assert read(other._map("settings"), 0, SETTINGS.size) == bytes(SETTINGS.size)
    assert held() == before


def test_auto_takes_the_first_way_that_works(tmp_path: Path) -> None:
    path = CapturePath()
    path.probe()
    assert (path.name, path.is_ebpf) == ("af_packet+ebpf", True)
    assert path.reason.startswith("loaded by BCC")
    loader = copied(tmp_path)
    source = loader.parent / "capture.c"
    source.write_text(source.read_text() + "#error not today\n")
    path = CapturePath(loader=loader)
    path.probe()
    assert path.name == "af_packet+ebpf"
    assert re.match(r"loaded by libbpf [\d.]+; bcc: BCC .* not today", path.reason), path.reason
    (loader.parent / "capture.o").unlink()
    path = CapturePath(loader=loader)
    assert path.open() is None
    assert path.name == "af_packet+cbpf"
    for said in ("not counted", "bcc: ", "object: capture.o was not compiled"):
        assert said in path.reason


def test_a_missing_bcc_or_libbpf_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter without the package stands for a host without it."""
    bare = tmp_path / "python3"
    bare.write_text('#!/bin/sh\nexec /usr/bin/python3 -S "$@"\n')
    bare.chmod(bare.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(loading, "PYTHON_OF_BCC", str(bare))
    with pytest.raises(CannotLoad, match="BCC is not installed"):
        load("bcc")
    monkeypatch.setattr(loading, "PYTHON_OF_BCC", str(tmp_path / "nowhere"))
    with pytest.raises(CannotLoad, match="can't be run"):
        load("bcc")
    loader = copied(tmp_path)
    loader.write_text(loader.read_text().replace("libbpf.so", "libabsent.so"))
    with pytest.raises(CannotLoad, match="libbpf is not installed"):
        load("object", loader=loader)
    with pytest.raises(CannotLoad, match="is missing"):
        load("object", loader=tmp_path / "nowhere.py")


@pytest.mark.parametrize("way", ["bcc", "object"])
def test_without_the_capability_the_kernel_says_no(way: str) -> None:
    """Before Linux 5.8 there is no CAP_BPF, and CAP_SYS_ADMIN is asked for: here both are gone."""
    programs(way).close()  # type: ignore[union-attr]

    def give_up() -> None:
        libc = ctypes.CDLL(None)
        for capability in (_CAP_SYS_ADMIN, _CAP_BPF):
            assert libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) == 0

    before = held()
    with pytest.raises(CannotLoad, match=r"(?i)not permitted|permission"):
        load(way, enter=give_up)
    assert held() == before


_CAPTURE = """
import sys
from agent.ebpf.loading import load
from agent.sources.ring import RingSource
from agent.sources.source import FlowRules
from tests.support import frames
ring = RingSource("lo", "", 100, False, ring_bytes=1 << 20, programs=load(sys.argv[1]), flows=FlowRules(1000, 2))
for text in frames.FILTERS[:20]:
    ring.apply(text, 200)
    assert ring.statistics().filtered is not None, text
ring.close()
print("captured", open("/proc/self/status").read().split("CapEff:")[1].split()[0])
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["bcc", "object"])
def test_two_capabilities_are_enough(way: str) -> None:
    """CAP_NET_RAW for the socket and CAP_BPF for the programs; the verifier is stricter than with CAP_PERFMON."""
    need("setpriv")
    programs(way).close()  # type: ignore[union-attr]
    done = subprocess.run(
        ["setpriv", "--bounding-set=-all,+bpf,+net_raw", sys.executable, "-c", _CAPTURE, way],
        cwd=LOADER.parents[1],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == ["captured", f"{1 << _CAP_BPF | 1 << _CAP_NET_RAW:016x}"], done.stderr


def impossible_map(loader: Path) -> None:
    """As a kernel answers that doesn't know a kind of map."""
    maps = loader.parent / "maps.h"
    maps.write_text(maps.read_text().replace("flow, flows, FLOWS);", "flow, flows, 0);"))


def other_layout(loader: Path) -> None:
    contract = loader.parent / "contract.h"
    contract.write_text(contract.read_text().replace("__u64 passed;", "__u64 passed, more;"))


def test_without_such_maps_a_cut_off_is_refused_and_says_why(tmp_path: Path) -> None:
    """As before Linux 4.10, which has no LRU map: no smaller table takes its place, classic BPF does."""
    programs("bcc").close()  # type: ignore[union-attr]
    loader = copied(tmp_path)
    impossible_map(loader)
    (loader.parent / "capture.o").unlink()
    path = CapturePath(loader=loader)
    with pytest.raises(
        FilterError, match=r"need eBPF.*classic BPF \(no eBPF.*bcc: BCC.*Otherwise take them out"
    ):
        opened(SessionSpec(id="a" * 26, interface="lo", flow_cutoff_bytes=1000), path)
    with contextlib.closing(opened(SessionSpec(id="a" * 26, interface="lo"), path)) as source:
        assert source.statistics().filtered is None


_UNPERMITTED = """
from agent.bpf_filter import FilterError
from agent.ebpf.loading import CapturePath
from agent.intake import Order
from agent.sources.opening import open_source
from agent.settings import Config
from agent.sources.source import SourceError
from wire.session import SessionSpec
for way, cutoff in ("auto", None), ("auto", 1000), ("object", None):
    path, spec = CapturePath(way), SessionSpec(id="a" * 26, interface="lo", flow_cutoff_bytes=cutoff)
    try:
        open_source(spec, "lo", Order.declared(spec), [], Config(), path).close()
        print("captures:", path.name, path.reason)
    except (FilterError, SourceError) as error:
        print("refuses:", error)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kept", "said"),
    [
        (
            "+net_raw",
            [
                "captures: af_packet.cbpf no eBPF",
                "refuses: .*take them out",
                "refuses: .*to auto",
            ],
        ),
        ("+bpf", ["refuses: .*not permitted.*CAP_NET_RAW"] * 3),
    ],
)
def test_what_is_not_permitted_says_what_to_grant(kept: str, said: list[str]) -> None:
    need("setpriv")
    programs("object").close()  # type: ignore[union-attr]
    done = subprocess.run(
        ["setpriv", f"--bounding-set=-all,{kept}", sys.executable, "-c", _UNPERMITTED],
        cwd=LOADER.parents[1],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == len(said), done.stderr
    for line, wanted in zip(lines, said, strict=True):
        assert re.match(wanted, line), line
        if kept == "+net_raw":
            assert re.search(r"CAP_BPF \(before Linux 5\.8 CAP_SYS_ADMIN\): run it as root", line), line


def no_answer(loader: Path) -> None:
    loader.write_text("import sys\nsys.exit('error: struck by lightning')\n")


def nonsense(loader: Path) -> None:
    loader.write_text("import os, sys\nos.write(int(sys.argv[2]), b'[1')\n")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (impossible_map, "BCC"),
        (other_layout, "the map counters is .* another version"),
        (no_answer, "no answer .*lightning"),
        (nonsense, "no answer"),
    ],
)
def test_what_goes_wrong_is_said_and_leaks_nothing(
    tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    programs("bcc").close()  # type: ignore[union-attr]
    loader = copied(tmp_path)
    damage(loader)
    before = held()
    with pytest.raises(CannotLoad, match=said):
        load("bcc", loader=loader)
    assert held() == before


def test_a_loader_that_hangs_or_never_stops_talking_is_ended(tmp_path: Path) -> None:
    loader = tmp_path / "loader.py"
    loader.write_text("import time\ntime.sleep(3600)\n")
    before = held()
    with pytest.raises(CannotLoad, match="no answer"):
        load("object", loader=loader, answer_s=0.3)
    loader.write_text(
        "import sys\nfor _ in range(300): print('x' * 1000, file=sys.stderr)\nsys.exit('error: at last')\n"
    )
    with pytest.raises(CannotLoad, match="at last"):
        load("object", loader=loader)
    assert held() == before


def test_a_forced_way_that_is_not_open_refuses_the_capture(tmp_path: Path) -> None:
    loader = copied(tmp_path)
    (loader.parent / "capture.o").unlink()
    path = CapturePath("object", loader=loader)
    spec = SessionSpec(id="a" * 26, interface="lo")
    with pytest.raises(SourceError, match=r"capture\.path is object.*not compiled.*to auto"):
        open_source(spec, "lo", Order.declared(spec), [], Config(), path)
    before = held()
    with pytest.raises(SourceError, match="no interface"):
        open_source(spec, "nowhere0", Order.declared(spec), [], Config(), CapturePath("object"))
    assert held() == before
    with pytest.raises(ValueError, match="none of"):
        CapturePath("xdp")


def test_classic_is_never_loaded(tmp_path: Path) -> None:
    path = CapturePath("classic", loader=tmp_path / "nowhere.py")
    path.probe()
    assert path.open() is None
    assert path.name == "af_packet+cbpf"
    assert "configuration" in path.reason


def test_the_verifiers_words_are_kept() -> None:
    with pytest.raises(KernelRefused) as refused:
        load_socket_filter(b"\x95" + bytes(7))  # exit without a result
    assert "R0" in refused.value.log
    with pytest.raises(KernelRefused):
        read(0, 0, 8)
