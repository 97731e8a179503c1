"""capture.c → capture.o, ahead of time, where there is clang: a program without arguments, also run by setup.py.

Without clang it says so and leaves things as they are: a host that loads by BCC, or captures with classic BPF, needs no
object. It is the same for every kernel and every little-endian machine.
"""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).resolve().parent
FLAGS = ("-O2", "-g", "-Wall", "-Wextra", "-Werror", "-target", "bpf")


def main() -> int:
    """0: compiled, up to date, or no clang."""
    target = HERE / "capture.o"
    names = ("capture.c", "flow.h", "flow_counters.h", "steer.h", "tunnel.h", "maps.h", "contract.h")
    sources = [HERE / name for name in names]
    if target.exists() and target.stat().st_mtime_ns >= max(path.stat().st_mtime_ns for path in sources):
        return 0
    clang = shutil.which("clang")
    if clang is None:
        print("no clang here: bpf/capture.o is not compiled", file=sys.stderr)
        target.unlink(missing_ok=True)  # an old one would speak of other maps
        return 0
    # linux/types.h wants asm/types.h, which Debian keeps in the folder of the machine's architecture
    architecture = sysconfig.get_config_var("MULTIARCH") or ""
    fresh = target.with_suffix(".new.o")
    command = [clang, *FLAGS, f"-I/usr/include/{architecture}", "-c", str(sources[0]), "-o", str(fresh)]
    done = subprocess.run(command, check=False)
    if done.returncode == 0:
        fresh.replace(target)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
