"""The wheel holds all that a host needs, as one file for every Python from 3.11 on."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.house.test_structure import tracked

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the tracked files, so that nothing that merely lies around gets in."""
    source = tmp_path_factory.mktemp("source")
    for path in tracked():
        copy = source / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-P", "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(target), str(source)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (built,) = target.glob("*.whl")
    return built


def test_one_wheel_for_every_python(wheel: Path) -> None:
    assert "-cp311-abi3-linux_" in wheel.name


def test_every_module_template_and_static_file_is_in_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    wanted = set()
    for path in (path.relative_to(ROOT) for path in tracked()):
        package = path.parts[0] in {"wire", "agent", "hub"} and path.suffix in {".py", ".pyi", ".typed"}
        if package or path.parts[0] in {"web", "bpf"} or path.name == "py.typed":
            wanted.add(str(path))
    assert wanted - inside == set()
    modules = (
        "wire/_columns",
        "agent/_flows",
        "agent/_payload",
        "agent/_tpacket",
        "agent/_libpcap",
        "hub/observe/_observe",
    )
    assert {f"{module}.abi3.so" for module in modules} <= inside


def test_nothing_else_is_in_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"wire", "agent", "bpf", "hub", "web"}


def test_it_declares_the_commands(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (entry_points,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        text = archive.read(entry_points).decode()
    assert {"wirepool-agent", "wirepool-hub", "wirepool-wire"} <= {
        line.split(" ")[0] for line in text.splitlines()
    }
