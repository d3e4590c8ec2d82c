"""Where the time of a run goes: what is decoded, embedded and written, and which of them the others wait for."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from mgcli.extract.decoder_library import PYAV, Library
from mgcli.extract.embed import ModalityEmbedder
from mgcli.extract.video_decode import DecodeCount
from mgcli.extract.write_behind import WriteBehind

WINDOW_S = 5.0  # what limits "now" is judged over the last so many seconds


@dataclass(frozen=True, kw_only=True)
class RunProfile:
    """What a run did and where its time went; seconds of decoding are summed over decoders."""

    devices: int = 1  # that worked at the same time, each with a process of its own
    decoders: tuple[str, ...] = ()  # that pictures came from, with their versions
    seconds: float = 0.0  # of reading, embedding and writing
    inputs: int = 0
    first_s: float = 0.0  # of those: until the first batch was through, which waits for decoders and compiling
    first_inputs: int = 0  # that it had
    decoded_frames: int = 0
    converted_frames: int = 0
    handed_over_frames: int = 0  # of those: left to PyAV by torchcodec
    decode_s: float = 0.0
    convert_s: float = 0.0
    device_s: float = 0.0
    write_s: float = 0.0
    waited_decode_s: float = 0.0  # that the run waited for pictures, for the device, and for the writer
    waited_device_s: float = 0.0
    waited_write_s: float = 0.0

    @property
    def inputs_per_s(self) -> float:
        """Inputs done in a second of the run, once its first batch was through, if there was more than that."""
        if self.inputs == self.first_inputs:
            return self.inputs / self.seconds if self.seconds else 0.0
        return (self.inputs - self.first_inputs) / (self.seconds - self.first_s)

    @property
    def decoded_per_s(self) -> float:
        """Frames decoded in a second of the run."""
        return self.decoded_frames / self.seconds if self.seconds else 0.0

    @property
    def device_share(self) -> float:
        """Of the run that the device was at work; of several, on average."""
        return min(1.0, self.device_s / (self.devices * self.seconds)) if self.seconds else 0.0

    @property
    def limited_by(self) -> str:
        """What the run waited for most: decode, device, write, or nothing."""
        waits = {"decode": self.waited_decode_s, "device": self.waited_device_s, "write": self.waited_write_s}
        most = max(waits, key=lambda name: waits[name])
        return most if waits[most] > 0 else "nothing"

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        rounded = {key: round(value, 3) if isinstance(value, float) else value for key, value in asdict(self).items()}
        shares = {"decoded_per_s": round(self.decoded_per_s, 1), "device_share": round(self.device_share, 3)}
        return {**rounded, "decoders": list(self.decoders), **shares, "limited_by": self.limited_by}

    def note(self) -> str:
        """How the run stands, in a few words."""
        return (
            f"{self.decoded_per_s:.0f} frames/s decoded, {self._device} busy {self.device_share:.0%}, "
            f"limited by: {self.limited_by}"
        )

    def summary(self) -> str:
        """A line."""
        by = f" by {' and '.join(self.decoders)}" if self.decoders else ""
        left = f", {self.handed_over_frames} pictures left to PyAV" if self.handed_over_frames else ""
        return (
            f"{self.decoded_frames} frames decoded{by}{left} ({self.decoded_per_s:.0f} a second), {self._device} busy "
            f"{self.device_share:.0%} of the time, limited by: {self.limited_by}"
        )

    @property
    def _device(self) -> str:
        return "device" if self.devices == 1 else f"{self.devices} devices"


def all_together(profiles: Sequence[RunProfile], *, devices: int, seconds: float) -> RunProfile:
    """What processes that shared a run did together: all is summed but its length and when the last was under way."""
    summed = [name for name in _COUNTED if name not in ("seconds", "first_s")]
    totals = {name: sum(getattr(profile, name) for profile in profiles) for name in summed}
    totals["first_s"] = max((profile.first_s for profile in profiles), default=0.0)
    decoders = tuple(dict.fromkeys(decoder for profile in profiles for decoder in profile.decoders))
    return RunProfile(devices=devices, decoders=decoders, seconds=seconds, **totals)


_COUNTED = tuple(field.name for field in fields(RunProfile) if field.name not in ("devices", "decoders"))


class RunClock:
    """Reads the counters of a run's stages."""

    def __init__(
        self, count: DecodeCount, embedders: Collection[ModalityEmbedder], behind: WriteBehind, library: Library
    ) -> None:
        """Start now.

        Args:
            count: of the decoders.
            embedders: of all modalities; they may come later.
            behind: writes.
            library: that decodes.
        """
        self.inputs = 0
        self.waited_decode_s = 0.0
        self._count, self._embedders, self._behind = count, embedders, behind
        self._decoder = library.label
        self._started = time.perf_counter()
        self._before = self._latest = RunProfile()

    def profile(self) -> RunProfile:
        """From the start to now."""
        decoders = (self._decoder, *([PYAV.label] if self._count.handed_over else []))
        firsts = [each.first_batch for each in self._embedders if each.first_batch is not None]
        return RunProfile(
            decoders=decoders if self._count.converted else (),
            seconds=time.perf_counter() - self._started,
            inputs=self.inputs,
            first_s=max((at for at, _ in firsts), default=self._started) - self._started,
            first_inputs=sum(count for _, count in firsts),
            decoded_frames=self._count.decoded,
            converted_frames=self._count.converted,
            handed_over_frames=self._count.handed_over,
            decode_s=self._count.decode_s,
            convert_s=self._count.convert_s,
            device_s=sum(each.device_s for each in self._embedders),
            write_s=self._behind.busy_s,
            waited_decode_s=self.waited_decode_s,
            waited_device_s=sum(each.waited_s for each in self._embedders),
            waited_write_s=self._behind.waited_s,
        )

    def lately(self) -> RunProfile:
        """The last seconds, by which to judge how the run stands now."""
        now = self.profile()
        if now.seconds - self._latest.seconds > WINDOW_S:
            self._before, self._latest = self._latest, now
        return RunProfile(**{name: getattr(now, name) - getattr(self._before, name) for name in _COUNTED})
