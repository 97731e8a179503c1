"""The kernel of the decoder, in C without the interpreter's lock. It never reads or writes outside its buffers."""

from typing_extensions import Buffer

def observe(
    link_type: int, captured_bytes: Buffer, original_bytes: Buffer, data: Buffer, key: Buffer, out: Buffer, /
) -> None:
    """Decode every packet into the columns of `layout()`, laid end to end in `out`.

    link_type: LINKTYPE_ number; one that isn't known marks every packet. captured_bytes, original_bytes: u32, little
    endian; data: the packets end to end; key: 16 bytes, of the fingerprints. ValueError for columns that contradict
    each other, a captured length over 262,144, or an `out` of the wrong size (it must hold exactly a row per packet).
    """

def layout() -> tuple[tuple[str, str], ...]:
    """(name, numpy's type) of each column, in their order; "?" and numbers are in the machine's byte order."""

def siphash13(data: Buffer, key: Buffer, /) -> int:
    """SipHash-1-3, 64 bits, with which fingerprints are made: exported for the test against another one."""
