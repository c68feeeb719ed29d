"""Compressed frames: groups of consecutive ones, each group by itself.

Consecutive frames are nearly alike, so a group costs little more than its first frame. Reading
one frame means unpacking its whole group.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from common.errors import UserError, WireError
from common.text import counted
from common.types import Array, FrameSpec, PackedFrames

COMPRESSIONS = ("none", "lz4", "zstd", "png")
GROUP_FRAMES = 5
"""Five pictures of 84×84 fit the 64 KiB that LZ4 looks back; larger groups waste more work."""
ZSTD_LEVEL = 1
ZSTD_MAX_WINDOW_BYTES = 1 << 23
PNG_LEVEL = 1


class Codec:
    """Packs and unpacks frames of one kind through a compression library."""

    def __init__(self, kind: str, frame: FrameSpec) -> None:
        """A codec for frames like `frame`.

        Args:
            kind: "lz4", "zstd" or "png" (lossless, as in the Ape-X paper).
            frame: shape and type.

        Raises:
            UserError: an unknown kind, or one that cannot hold such frames.
        """
        if kind not in COMPRESSIONS or kind == "none":
            raise UserError(f"replay.compression={kind}: must be one of {', '.join(COMPRESSIONS)}")
        self._frame = frame
        self._dtype = np.dtype(frame.dtype)
        self.kind = kind
        if kind == "lz4":
            import lz4.block

            self._lz4: Any = lz4.block
        elif kind == "zstd":
            import zstandard

            self._compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
            # A stream may ask for any window: refuse more than frames need.
            self._decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_MAX_WINDOW_BYTES)
        elif not (frame.is_picture and frame.dtype == "uint8" and frame.shape[0] in (1, 3)):
            raise UserError(
                f"replay.compression=png: needs 8-bit pictures of 1 or 3 channels, not frames of "
                f"{frame.dtype} {list(frame.shape)}; use lz4 or zstd"
            )

    def pack(self, frames: Array) -> PackedFrames:
        """Compress `[F, *frame]`."""
        frames = np.ascontiguousarray(frames)
        groups = [
            self._compress(frames[begin : begin + GROUP_FRAMES])
            for begin in range(0, len(frames), GROUP_FRAMES)
        ]
        sizes = np.array([len(group) for group in groups], np.int32)
        return PackedFrames(np.frombuffer(b"".join(groups), np.uint8), sizes, len(frames))

    def unpack(self, group: bytes, count: int) -> Array:
        """The frames of one group, `[count, *frame]`, read-only.

        Args:
            group: one of `pack`'s.
            count: frames in it; bounds the memory, whatever the bytes claim.

        Raises:
            WireError: the bytes are not a group of `count` frames.
        """
        wanted = count * self._frame.nbytes
        try:
            raw = self._decompress(group, count, wanted)
        except Exception as error:  # each library has its own error; all mean the same here
            raise WireError(f"{self.kind}: frames cannot be unpacked ({error})") from error
        if len(raw) != wanted:
            raise WireError(f"{self.kind}: {counted(len(raw), 'byte')} of frames, not {wanted}")
        frames: Array = np.frombuffer(raw, self._dtype).reshape(count, *self._frame.shape)
        return frames

    def _compress(self, frames: Array) -> bytes:
        if self.kind == "lz4":
            packed: bytes = self._lz4.compress(frames.data.cast("B"), store_size=False)
            return packed
        if self.kind == "zstd":
            return self._compressor.compress(frames.data.cast("B"))
        from PIL import Image

        channels, _, width = self._frame.shape
        # One tall picture, frame below frame.
        tall = frames.transpose(0, 2, 3, 1).reshape(-1, width, channels)
        picture = Image.fromarray(tall[:, :, 0] if channels == 1 else tall)
        file = io.BytesIO()
        picture.save(file, "PNG", compress_level=PNG_LEVEL)
        return file.getvalue()

    def _decompress(self, group: bytes, count: int, wanted: int) -> bytes:
        if self.kind == "lz4":
            raw: bytes = self._lz4.decompress(group, uncompressed_size=wanted)
            return raw
        if self.kind == "zstd":
            # A stream may claim any size: read only as much as is wanted.
            reader = self._decompressor.stream_reader(group)
            return bytes(reader.read(wanted + 1))
        from PIL import Image

        channels, height, width = self._frame.shape
        with Image.open(io.BytesIO(group), formats=["PNG"]) as picture:  # reads the header only
            mode = "L" if channels == 1 else "RGB"
            if picture.size != (width, height * count) or picture.mode != mode:
                raise ValueError(f"a picture of {picture.size} {picture.mode}")
            pixels = np.asarray(picture).reshape(count, height, width, channels)
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).tobytes()


def make_codec(kind: str, frame: FrameSpec) -> Codec | None:
    """The codec that `replay.compression` names; None for "none"."""
    return None if kind == "none" else Codec(kind, frame)
