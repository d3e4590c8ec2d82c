"""Decoding in processes of its own, one a video at a time: a file that crashes or hangs a decoder costs its clips only.

Pictures come through a ring of shared memory, everything else through a socket. A process starts when a video asks
for it, in a quarter of a second, and serves one video after another.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mgcli.cache import MgcliError, shielded_children, warn
from mgcli.extract.decoder import Decoder, Needs, Pictures
from mgcli.extract.decoder_library import PYAV, Library
from mgcli.extract.frame_ring import RingReader, open_ring_file
from mgcli.extract.video import VideoError, VideoIndex
from mgcli.extract.video_decode import DecodeCount

SILENCE_LIMIT_S = 60.0  # a decoder that says nothing for so long hangs; one at work gives a sign every half second
END_LIMIT_S = 5.0  # that the end of a killed process is waited for
NICENESS = 5  # decoders take what the network leaves, and all there is while it waits for them


class DecoderError(MgcliError):
    """No decoder can be started."""


class DecoderLostError(VideoError):
    """A decoder process that crashed, or hung and was ended; its video is to blame until another run reads it."""


class DecoderProcesses:
    """Lends decoder processes to threads, and starts one where none is idle (the `Decoders` of `decoder.py`)."""

    def __init__(self, threads: int = 1, library: Library = PYAV, say: Callable[[str], None] = warn) -> None:
        """Start no process yet.

        Args:
            threads: of each decoder.
            library: that decodes.
            say: told what a person should know; each process that finds it out says it.
        """
        self.count = DecodeCount()
        self._threads, self._library, self._say = threads, library, say
        self._lock = threading.Lock()
        self._idle: list[_DecoderProcess] = []
        self._lent: set[_DecoderProcess] = set()
        self._closed = False

    @contextmanager
    def borrow(self) -> Iterator[Decoder]:
        """A decoder for one video; it is used again unless it was lost, or left in the middle of its work."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the decoders are closed")
            process = self._idle.pop() if self._idle else self._new_process()
            self._lent.add(process)
        try:
            yield process
        finally:
            with self._lock:
                self._lent.discard(process)
                if process.is_idle and not self._closed:
                    self._idle.append(process)
                else:
                    process.end()

    def close(self) -> None:
        """End all processes, also those that are lent; who waits for one gets a DecoderLostError."""
        with self._lock:
            self._closed = True
            for process in (*self._idle, *self._lent):
                process.kill()
            for process in self._idle:
                process.end()

    def _new_process(self) -> _DecoderProcess:
        return _DecoderProcess(self._threads, self._library, self._add, self._say)

    def _add(self, more: DecodeCount) -> None:
        with self._lock:
            for name, value in vars(more).items():
                setattr(self.count, name, getattr(self.count, name) + value)


class _DecoderProcess:
    """One process, started when it is first asked for something (a `Decoder`)."""

    def __init__(
        self, threads: int, library: Library, add: Callable[[DecodeCount], None], say: Callable[[str], None]
    ) -> None:
        self._threads, self._library, self._add, self._say = threads, library, add, say
        self._process: subprocess.Popen[bytes] | None = None
        self.is_idle = True

    def index(self, path: Path) -> VideoIndex:
        if self._process is None:
            self._start()
        self.is_idle = False
        self._send("index", path)
        what, *said = self._receive(path)
        assert what == "index"
        self.is_idle = True
        return said[0]

    def pictures(self, index: VideoIndex, needs: Needs) -> Iterator[tuple[int, Pictures]]:
        self.is_idle = False
        self._send("pictures", needs, self._library, self._threads)
        counted = DecodeCount()
        while True:
            what, *said = self._receive(index.path)
            count: DecodeCount = said[-1]
            self._add(DecodeCount(**{name: value - getattr(counted, name) for name, value in vars(count).items()}))
            counted = replace(count)
            if what == "done":
                self.is_idle = True
                return
            frame, places, _ = said
            pictures = {shrink: self._ring.take(offset, shape) for shrink, offset, shape in places}
            self._send("taken")
            yield frame, pictures

    def _start(self) -> None:
        try:
            descriptor, why = open_ring_file()
        except OSError as error:
            raise DecoderError(
                f"no room for decoded frames, neither in memory nor in the temporary folder ({error.strerror}); free "
                "some, name another folder in TMPDIR, or decode in one process: --workers 0"
            ) from error
        if why:
            self._say(f"no shared memory for decoded frames ({why}); they go through a file in the temporary folder")
        ours, theirs = socket.socketpair()
        with theirs, shielded_children():
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "mgcli.extract.decoder_worker",
                    str(theirs.fileno()),
                    str(descriptor),
                    str(NICENESS),
                ],
                pass_fds=(theirs.fileno(), descriptor),
                env=os.environ
                | {
                    "PYTHONPATH": os.pathsep.join(each for each in sys.path if each),
                    "OMP_NUM_THREADS": str(self._threads),  # of torch, where torchcodec brings it
                },
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        self._connection = Connection(ours.detach())
        self._ring = RingReader(descriptor)

    def _send(self, *order: Any) -> None:
        with suppress(OSError):  # it is gone: what is received next tells how
            self._connection.send(order)

    def _receive(self, path: Path) -> tuple[Any, ...]:
        """The next message that is more than a sign of life, or words for a person.

        Raises:
            VideoError: what the decoder says of the video.
            DecoderLostError: it says nothing any more.
        """
        while True:
            try:
                if not self._connection.poll(SILENCE_LIMIT_S):
                    self.kill()
                    raise DecoderLostError(
                        f"{path}: its decoder hung, without a sign of life for {SILENCE_LIMIT_S:g} s, and was ended; "
                        "is the file damaged, or its disk stuck?"
                    )
                message = self._connection.recv()
            except (EOFError, OSError):
                raise DecoderLostError(f"{path}: its decoder {self._how_it_ended()}; is the file damaged?") from None
            if message[0] == "error":
                self.is_idle = True
                raise VideoError(message[1])
            if message[0] == "bug":
                raise RuntimeError(f"in the decoder process, with {path}:\n{message[1]}")
            if message[0] == "say":
                self._say(message[1])
            elif message[0] != "alive":
                return message

    def _how_it_ended(self) -> str:
        assert self._process is not None
        code = self._process.wait()
        if code >= 0:
            return f"ended with exit code {code}"
        return f"crashed ({signal.Signals(-code).name})"

    def kill(self) -> None:
        """End it at once; whoever waits for it is told."""
        if self._process is not None:
            self._process.kill()

    def end(self) -> None:
        """End it, and give its memory back."""
        if self._process is not None:
            self.kill()
            with suppress(subprocess.TimeoutExpired):  # one that waits for a dead disk ends when that answers
                self._process.wait(END_LIMIT_S)
            self._connection.close()
            self._ring.close()
            self._process = None
