"""Which kinds of video can be decoded here: found out by decoding a picture of each."""

from __future__ import annotations

import io

from mgcli.cache import Check

# One grey picture of 64 x 64 a codec, as x264, x265, libvpx, SVT-AV1 and FFmpeg's mpeg4 wrote it: name -> the
# container's name in FFmpeg, and the file.
PICTURES: dict[str, tuple[str, str]] = {
    "h264": (
        "h264",
        "0000016764000aacd9442684000003000400000300c83c48965800000168ebe3cb22c0000001658884002bfffef692ea58e77925d2e6"
        "a73f3ab6b87700e6833181",
    ),
    "hevc": (
        "hevc",
        "0000000140010c01ffff01600000030090000003000003001e9598090000000142010101600000030090000003000003001ea0208105"
        "96566924cae68080000003008000000c84000000014401c172b422400000012801af1d80f7559000e0",
    ),
    "vp9": (
        "ivf",
        "444b494600002000565039304000400019000000010000000100000000000000170000000000000000000000824983420003f003f600"
        "38241c184a0000306000004100",
    ),
    "av1": (
        "ivf",
        "444b4946000020004156303140004000190000000100000001000000000000001d000000000000000000000012000a0a00000002afff"
        "8d5f3008320d1000ba02082041010000089820",
    ),
    "mpeg4": (
        "m4v",
        "000001b001000001b58913000001000000012000c48d8800cd0204081443000001b24c61766336322e32382e313032000001b3001007"
        "000001b6106051b6dfc6db7f1b6dfc6db7ef0000a091b6dfc6db7f1b6dfc6db7f1b6dfc6db7f1b6dfc6db7ef0000e091b6dfc6db7f1b"
        "6dfc6db7ef",
    ),
}
_NEEDED = ("h264",)  # what nearly every camera and data set uses; the others are a warning


def check_codecs() -> Check:
    """Decode a picture of each codec with the FFmpeg that PyAV carries."""
    try:
        import av
    except (ImportError, OSError) as error:
        return Check(name="codecs", state="fault", found=f"PyAV cannot be loaded: {error}", do=_REINSTALL)
    works = {name: _decodes(container, bytes.fromhex(content)) for name, (container, content) in PICTURES.items()}
    version = ".".join(map(str, av.library_versions["libavcodec"]))
    found = f"PyAV {av.__version__} (libavcodec {version}) decodes {', '.join(n for n, can in works.items() if can)}"
    cannot = [name for name, can in works.items() if not can]
    if not cannot:
        return Check(name="codecs", state="ok", found=found)
    is_fault = any(name in _NEEDED for name in cannot)
    return Check(
        name="codecs",
        state="fault" if is_fault else "warning",
        found=f"{found}; not: {', '.join(cannot)}",
        do=_REINSTALL,
    )


_REINSTALL = "pip install --force-reinstall --no-deps 'av>=16,<19'; its own wheels carry all of these"


def _decodes(container: str, content: bytes) -> bool:
    import av

    try:
        with av.open(io.BytesIO(content), mode="r", format=container) as file:
            pictures = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    except (av.FFmpegError, ValueError):
        return False
    return len(pictures) == 1 and pictures[0].shape == (64, 64, 3) and abs(int(pictures[0].mean()) - 130) <= 2
