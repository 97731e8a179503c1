"""Body compression: zstd (RFC 8878), gzip (RFC 1952) or none, and bounded decompression.

Traps this module is built around. zstandard ignores `max_output_size` when a frame declares its content size: 16 KB
became 512 MB. And a frame that declares nothing can grow without end. So: the declared size is compared with the
signed header's, the frame is walked to its last block (exactly one frame, nothing behind it), and the content is read
through a bound that stops one byte past what the header promised.
"""

import threading
import zlib
from typing import TYPE_CHECKING

from wire.errors import WireError

if TYPE_CHECKING:
    import zstandard

COMPRESSIONS = ("none", "zstd", "gzip")

ZSTD_LEVEL = -1
"""Nearly the ratio of level 1 for three quarters of its time."""
GZIP_LEVEL = 1
WORTHWHILE = 0.97
"""Compressed must be at most this part of plain; below that the reader's time isn't worth the bytes."""
_SAMPLES = 4
_SAMPLE_BYTES = 4096
_MAX_WINDOW_BYTES = 8 * 1024 * 1024
_READ_BYTES = 128 * 1024

_local = threading.local()


def compress_body(plain: bytes, compressor: str = "zstd", *, level: int | None = None) -> tuple[str, bytes]:
    """Compress a body if it pays: (compression, bytes), where compression is "none" when it didn't.

    A large body is sampled first: a few slices, spread over it, cost 2 % of the whole; when they don't shrink (TLS,
    already compressed data), the whole isn't tried. Compressor objects are kept per thread, so threads don't wait for
    each other; the work itself runs without the interpreter's lock.
    """
    if compressor not in COMPRESSIONS:
        raise ValueError(f"compressor {compressor!r}: one of {', '.join(COMPRESSIONS)} is needed")
    if compressor == "none" or not plain:
        return "none", plain
    if len(plain) > 4 * _SAMPLES * _SAMPLE_BYTES:
        sample = _sample(plain)
        if len(_compress(sample, compressor, level)) > WORTHWHILE * len(sample):
            return "none", plain
    packed = _compress(plain, compressor, level)
    if len(packed) > WORTHWHILE * len(plain):
        return "none", plain
    return compressor, packed


def decompress_body(packed: bytes | memoryview, compression: str, plain_bytes: int) -> bytes:
    """Undo `compress_body`: exactly `plain_bytes` bytes. WireError otherwise, after at most one byte more."""
    if compression == "zstd":
        return _unzstd(packed, plain_bytes)
    if compression == "gzip":
        return _gunzip(packed, plain_bytes)
    if compression != "none":
        raise WireError(f"compression {compression[:20]!r} is unknown")
    if len(packed) != plain_bytes:
        raise WireError(f"a body of {len(packed)} bytes where the header says {plain_bytes}")
    return bytes(packed)


def _sample(plain: bytes) -> bytes:
    # The columns in front shrink well, whatever the packets are; the slices lie behind them, in the packets' bytes.
    view = memoryview(plain)
    step = len(plain) // _SAMPLES
    return b"".join(view[(i + 1) * step - _SAMPLE_BYTES : (i + 1) * step] for i in range(_SAMPLES))


def _compress(plain: bytes, compressor: str, level: int | None) -> bytes:
    if compressor == "gzip":
        packer = zlib.compressobj(GZIP_LEVEL if level is None else level, zlib.DEFLATED, 31)
        return packer.compress(plain) + packer.flush()
    return _zstd_compressor(ZSTD_LEVEL if level is None else level).compress(plain)


def _zstd_compressor(level: int) -> "zstandard.ZstdCompressor":
    import zstandard

    kept: dict[int, zstandard.ZstdCompressor] | None = getattr(_local, "compressors", None)
    if kept is None:
        kept = _local.compressors = {}
    if level not in kept:
        kept[level] = zstandard.ZstdCompressor(level=level, write_content_size=True, write_checksum=False)
    return kept[level]


def _unzstd(packed: bytes | memoryview, plain_bytes: int) -> bytes:
    import zstandard

    try:
        frame = zstandard.get_frame_parameters(packed)
        header_bytes = zstandard.frame_header_size(packed)
    except (zstandard.ZstdError, ValueError) as error:
        raise WireError(f"zstd: {error}") from None
    if frame.dict_id:
        raise WireError("zstd: a frame that needs a dictionary")
    if frame.content_size not in (plain_bytes, zstandard.CONTENTSIZE_UNKNOWN):
        raise WireError(f"zstd: the frame declares {frame.content_size} bytes, the header {plain_bytes}")
    if frame.window_size > _MAX_WINDOW_BYTES:
        raise WireError(
            f"zstd: a window of {frame.window_size} bytes; at most {_MAX_WINDOW_BYTES} are allowed"
        )
    _check_one_zstd_frame(packed, header_bytes, 4 if frame.has_checksum else 0)
    unpacker = getattr(_local, "unpacker", None)
    if unpacker is None:
        unpacker = _local.unpacker = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
    try:
        with unpacker.stream_reader(packed, read_size=_READ_BYTES, read_across_frames=False) as reader:
            plain: bytes = reader.read(plain_bytes + 1)
    except zstandard.ZstdError as error:
        raise WireError(f"zstd: {error}") from None
    if len(plain) != plain_bytes:
        raise WireError(f"zstd: the content isn't the {plain_bytes} bytes that the header says")
    return plain


def _check_one_zstd_frame(packed: bytes | memoryview, offset: int, checksum_bytes: int) -> None:
    # RFC 8878, 3.1.1.2: three bytes little endian: last block (1 bit), type (2), size (21). RLE blocks store one byte.
    end = len(packed)
    last = False
    while not last:
        if end - offset < 3:
            raise WireError("zstd: cut off within a block's header")
        head = int.from_bytes(packed[offset : offset + 3], "little")
        last = bool(head & 1)
        kind, size = head >> 1 & 3, head >> 3
        if kind == 3:
            raise WireError("zstd: a reserved block type")
        offset += 3 + (1 if kind == 1 else size)
        if offset > end:
            raise WireError("zstd: cut off within a block")
    if offset + checksum_bytes != end:
        raise WireError("zstd: not exactly one whole frame")


def _gunzip(packed: bytes | memoryview, plain_bytes: int) -> bytes:
    unpacker = zlib.decompressobj(31)
    try:
        plain = unpacker.decompress(packed, plain_bytes + 1)
    except zlib.error as error:
        raise WireError(f"gzip: {error}") from None
    if len(plain) != plain_bytes:
        raise WireError(f"gzip: the content isn't the {plain_bytes} bytes that the header says")
    if not unpacker.eof or unpacker.unused_data or unpacker.unconsumed_tail:
        raise WireError("gzip: not exactly one whole member")
    return plain
