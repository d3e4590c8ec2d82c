"""What a decoder process runs: `python -m mgcli.extract.decoder_worker SOCKET RING NICE`. With PyAV it loads no torch.

Asked for an index it answers with it; asked for pictures it puts them into the ring as long as there is room. It
ends when its socket closes, however its parent ended.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
import traceback
from functools import partial
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

from mgcli.extract.decoder import Needs, needed_pictures
from mgcli.extract.decoder_library import Library
from mgcli.extract.frame_ring import RingFull, RingWriter
from mgcli.extract.video import VideoError, VideoIndex, index_video
from mgcli.extract.video_decode import DecodeCount

SIGN_OF_LIFE_S = 0.5  # from one to the next, while nothing else is said
LOAD_LIMIT_S = 300.0  # that loading torchcodec may take


def main() -> None:
    """Serve the parent until it goes."""
    socket, ring, nice = map(int, sys.argv[1:])
    os.nice(nice)
    _Worker(Connection(socket), RingWriter(ring)).serve()


class _Worker:
    def __init__(self, connection: Connection, ring: RingWriter) -> None:
        self._connection, self._ring = connection, ring
        self._orders: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self._taken = threading.Semaphore(0)
        self._said_at = time.monotonic()
        threading.Thread(target=self._listen, daemon=True).start()

    def serve(self) -> None:
        index: VideoIndex | None = None
        while True:
            what, *order = self._orders.get()
            try:
                if what == "index":
                    index = index_video(*order, on_packet=self._live)
                    self._say("index", index)
                else:
                    assert index is not None
                    self._give_pictures(index, *order)
            except VideoError as error:
                self._say("error", str(error))
            except Exception:  # a bug: its traceback is for the parent's
                self._say("bug", traceback.format_exc())

    def _give_pictures(self, index: VideoIndex, needs: Needs, library: Library, threads: int) -> None:
        if library.name == "torchcodec":
            self._load_torchcodec()
        count = DecodeCount()
        for frame, pictures in needed_pictures(
            index,
            needs,
            library=library,
            threads=threads,
            count=count,
            say=partial(self._say, "say"),
            on_packet=self._live,
        ):
            arrays = list(pictures.values())
            while True:
                while self._taken.acquire(blocking=False):
                    self._ring.taken()
                try:
                    offsets = self._ring.put(arrays)
                    break
                except RingFull:
                    self._taken.acquire()
                    self._ring.taken()
            places = [
                (shrink, offset, array.shape) for (shrink, array), offset in zip(pictures.items(), offsets, strict=True)
            ]
            self._say("pictures", frame, places, count)
        self._say("done", count)

    def _load_torchcodec(self) -> None:
        """Import it and torch, with signs of life: on a busy machine that took half a minute."""
        loaded = threading.Event()

        def live() -> None:
            until = time.monotonic() + LOAD_LIMIT_S
            while not loaded.wait(SIGN_OF_LIFE_S) and time.monotonic() < until:
                self._say("alive")

        thread = threading.Thread(target=live, daemon=True)
        thread.start()
        try:
            import_module("mgcli.extract.video_decode_torchcodec")
        finally:
            loaded.set()
            thread.join()

    def _listen(self) -> None:
        """Take orders; end the process with the parent's end of the socket, whatever it is at."""
        try:
            while True:
                order = self._connection.recv()
                if order[0] == "taken":
                    self._taken.release()
                else:
                    self._orders.put(order)
        except (EOFError, OSError):
            os._exit(0)

    def _live(self) -> None:
        if time.monotonic() - self._said_at > SIGN_OF_LIFE_S:
            self._say("alive")

    def _say(self, *message: Any) -> None:
        self._connection.send(message)
        self._said_at = time.monotonic()


if __name__ == "__main__":
    main()
