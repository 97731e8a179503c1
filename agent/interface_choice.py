"""Which interface a person would capture on when nobody has said, with the reason in words.

    1. the one of the default route, the lowest metric first
    2. else, of those that stand for themselves, one with an address before one without, then the busiest
    3. else whatever is up: a port of a bridge, an end of a container's veth pair; last of all loopback

An interface stands for itself when it is no loopback, no port of a bridge or bond (its traffic is seen on the master),
and not this host's end of a veth pair into another namespace (a container's; its traffic is seen on the bridge).
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.interfaces import InterfaceError, InterfaceInfo, list_interfaces


@dataclass(frozen=True, slots=True)
class Choice:
    """An interface and why it was chosen: "it …", to be put behind its name."""

    name: str
    why: str


def best_interface(interfaces: list[InterfaceInfo] | None = None) -> Choice:
    """The choice among `interfaces` (None: this namespace's). InterfaceError when there is nothing at all."""
    found = list_interfaces() if interfaces is None else interfaces
    usable = [one for one in found if one.link_type is not None and one.state != "down"]
    up = [one for one in usable if one.state == "up"]
    routed = [one for one in up if one.default_route is not None]
    if routed:
        best = min(routed, key=lambda one: (one.default_route or 0, -one.packets))
        via = f" by way of {best.gateway}" if best.gateway else ""
        others = f", the lowest metric of {len(routed)}" if len(routed) > 1 else ""
        return Choice(best.name, f"it carries the default route{via}{others}")
    candidates = [one for one in up if not why_not(one)]
    if candidates:
        addressed = [one for one in candidates if one.addresses]
        best = max(addressed or candidates, key=lambda one: one.packets)
        return Choice(best.name, _among(best, addressed, candidates))
    if up:
        best = max(up, key=lambda one: (not one.loopback, one.packets))
        if best.loopback:
            return Choice(best.name, "it is loopback, and no other interface is up")
        return Choice(best.name, f"it is {why_not(best)}, and nothing better is up")
    if usable:
        best = max(usable, key=lambda one: (not one.loopback, one.packets))
        return Choice(best.name, "it is switched on, but nothing is plugged in anywhere")
    raise InterfaceError("this host has no network interface that is up and can be captured on")


def why_not(interface: InterfaceInfo) -> str:
    """What speaks against choosing it, in words; "": nothing."""
    if interface.link_type is None:
        return "of a kind that can't be captured"
    if interface.loopback:
        return "loopback"
    if interface.master:
        return f"a port of {interface.master}"
    if interface.peer_elsewhere and interface.default_route is None and not interface.addresses:
        return "an end of a veth pair whose other end is in another namespace"
    return ""


def _among(best: InterfaceInfo, addressed: list[InterfaceInfo], candidates: list[InterfaceInfo]) -> str:
    if len(candidates) == 1:
        return "it is the only interface that is up (there is no default route)"
    if len(addressed) == 1:
        return "it is the only interface that is up and has an address (there is no default route)"
    with_address = " and have an address" if addressed else ""
    return (
        f"it has carried the most packets ({best.packets}) of {len(addressed or candidates)} that are up{with_address} "
        "(there is no default route)"
    )
