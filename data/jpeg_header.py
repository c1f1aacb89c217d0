"""What stands before the pixels of a JPEG file, as far as decoding it in part needs to know."""

from dataclasses import dataclass

START = b"\xff\xd8"
END = b"\xff\xd9"
# Start-of-frame markers: baseline and progressive, the only kinds that occur. The others under
# 0xC0 to 0xCF (lossless, arithmetic coding) are Pillow's to judge.
FRAMES = {0xC0, 0xC1, 0xC2}
# What may stand before the frame, each with its length: tables, applications' own, comments.
RESTARTS = 0xDD
SEGMENTS = {0xC4, 0xDB, RESTARTS, *range(0xE0, 0xF0), 0xFE}
PROGRESSIVE, SCAN = 0xC2, 0xDA


@dataclass(frozen=True)
class JpegHeader:
    """The header of a grey or three-channel JPEG.

    Attributes:
        width, height: of the stored image in pixels.
        frame: place of the start-of-frame marker in the file.
        in_order: whether all that follows is one scan from the top to the bottom.
    """

    width: int
    height: int
    frame: int
    in_order: bool


def whole_jpeg(encoded: bytes) -> JpegHeader | None:
    """Returns the header of a JPEG that OpenCV reads as Pillow does; None for any other file."""
    # Entropy-coded data never holds the end marker, so its absence at the end means damage or
    # appended bytes.
    if not encoded.startswith(START) or not encoded.endswith(END):
        return None
    frame, restarts, place = 0, False, 2
    while place + 10 <= len(encoded) and encoded[place] == 0xFF:
        marker = encoded[place + 1]
        if marker == 0xFF:  # padding
            place += 1
            continue
        if marker in FRAMES and not frame:
            frame = place
        elif marker not in SEGMENTS:
            break
        restarts = restarts or marker == RESTARTS
        place += 2 + (encoded[place + 2] << 8 | encoded[place + 3])
    if not frame:
        return None
    height = encoded[frame + 5] << 8 | encoded[frame + 6]
    width = encoded[frame + 7] << 8 | encoded[frame + 8]
    components = encoded[frame + 9]
    if components not in (1, 3) or not height:  # four: CMYK, whose conversion is Pillow's
        return None
    scan = encoded[place : place + 5]
    one_scan = scan[:2] == bytes((0xFF, SCAN)) and scan[4:] == bytes((components,))
    progressive = encoded[frame + 1] == PROGRESSIVE
    return JpegHeader(width, height, frame, one_scan and not restarts and not progressive)
