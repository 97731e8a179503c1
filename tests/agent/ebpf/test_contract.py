"""bpf/contract.h and its twin in Python are one: a compiled probe tells sizes and offsets."""

from __future__ import annotations

import re
import struct
import subprocess
from pathlib import Path

from agent.ebpf import contract
from agent.ebpf.loading import LOADER
from agent.ebpf.programs import Counters, Settings
from tests.support.need import need

_FIELDS = {
    "settings": (contract.SETTINGS, Settings._fields),
    "counters": (contract.COUNTERS, Counters._fields),
    "flow_key": (
        contract.FLOW_KEY,
        (
            *("lower_address", "upper_address", "lower_port", "upper_port"),
            *("protocol", "version", "unused"),
        ),
    ),
    "flow": (contract.FLOW, ("bytes",)),
    "one_way": (contract.ONE_WAY, ("packets", "bytes")),
    "flow_counter": (contract.FLOW_COUNTER, ("from_lower", "from_upper", "first_ns", "last_ns")),
    "steering": (contract.STEERING, ("rings", "rules", "network_at", "unused")),
    "network_key": (contract.NETWORK_KEY, ("bits", "address")),
    "port_set": (struct.Struct(f"={contract.PORTS_BYTES}s"), ("bits",)),
}
_NAMES = (
    *("SLOT_FILTER", "SLOT_KEEP", "SLOTS", "INNER_AT", "FLOW_MARK", "FLOWS", "FLOW_COUNTERS"),
    *("BY_NETWORK", "BY_PORT", "PRIORITY_NETWORKS"),
)
_CONSTANTS = {name: getattr(contract, name) for name in _NAMES}


def test_sizes_offsets_and_slots_agree(tmp_path: Path) -> None:
    need("gcc")
    lines = ["#include <linux/types.h>", "#include <stddef.h>", "#include <stdio.h>", '#include "contract.h"']
    lines += ["int main(void) {"]
    lines += [f'printf("{name} %d\\n", (int){name});' for name in _CONSTANTS]
    for name, (_, members) in _FIELDS.items():
        lines.append(f'printf("{name} %zu\\n", sizeof(struct {name}));')
        lines += [f'printf("{name}.{m} %zu\\n", offsetof(struct {name}, {m}));' for m in members]
    probe = tmp_path / "probe.c"
    probe.write_text("\n".join([*lines, "}", ""]))
    subprocess.run(
        ["gcc", "-Wall", "-Werror", f"-I{LOADER.parent}", str(probe), "-o", str(tmp_path / "probe")],
        check=True,
    )
    said = subprocess.run([str(tmp_path / "probe")], capture_output=True, text=True, check=True).stdout
    wanted = dict(_CONSTANTS)
    for name, (layout, members) in _FIELDS.items():
        wanted[name] = layout.size
        codes = re.findall(r"\d*[a-zA-Z]", layout.format)
        assert len(codes) == len(members)
        for number, member in enumerate(members):
            wanted[f"{name}.{member}"] = struct.calcsize("=" + "".join(codes[:number]))
    assert said.split() == [word for name, value in wanted.items() for word in (name, str(value))]


def test_every_member_of_the_header_is_in_the_probe() -> None:
    """A member that is only added in C would move nothing here: so the header's own list counts too."""
    text = (LOADER.parent / "contract.h").read_text(encoding="utf-8")
    for name, (_, members) in _FIELDS.items():
        body = text.split(f"struct {name} {{")[1].split("};")[0]
        declared = [
            re.sub(r"\[\d+\]", "", member.split()[-1])
            for line in body.splitlines()
            if ";" in line
            for member in line.split(";")[0].split(",")
        ]
        assert declared == list(members)
    assert len(re.findall(r"^struct \w+ \{", text, re.MULTILINE)) == len(_FIELDS)
