"""The kernel that cuts payload, in C. It releases the GIL while it works and checks every length it is given."""

from typing_extensions import Buffer

def cut(
    link_type: int,
    limit: int,
    ports: Buffer,
    captured_bytes: Buffer,
    original_bytes: Buffer,
    flags: Buffer,
    data: Buffer,
    /,
) -> tuple[int, int]:
    """Keep headers and `limit` bytes of payload (negative: all) of each packet, in place: (data_bytes, packets cut).

    `link_type`: LINKTYPE_ number. `ports`: 8192 bytes, a bit for each TCP and UDP port whose packets keep no payload
    (nor do those whose ports can't be seen), or empty. Columns: u32, u32, u16, little endian; the packets end to end.
    ValueError for columns that contradict each other; what they hold then is undefined and must not be used.
    """
