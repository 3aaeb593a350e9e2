"""Films: GIF through OpenCV, MP4 (H.264) through imageio-ffmpeg, with score and step in a strip above every frame.

Frames are uint8 `[H, W, 3]`, RGB. `write_film` takes them from an iterable, `Film` one by one. To add a format, write a
context manager beside `_gif` that is given a path and the frames per second and yields a function that takes a frame,
and name it in `WRITERS`.
"""

import contextlib
import importlib
import importlib.util
import math
import pathlib
import subprocess
import tempfile
from typing import Any

import cv2
import numpy as np

from sota_dqn.checks import check_count, check_number
from sota_dqn.files import check_writable, replacing

__all__ = ["Film", "caption", "check_path", "draw_text", "write_film"]

SMALLEST = 128  # pixels: text is not legible above less, so narrower frames are enlarged before it is drawn
GROUND = (24, 28, 36)  # of the strip
GIF_TICK = 0.01  # seconds: the unit in which a GIF says how long a frame stays
HOLD = 1.5  # seconds: how long the last frame stays, so that a film that is played for ever does not flicker
GIF_FPS = 50  # browsers slow a GIF down whose frames stay for less than two ticks


def write_film(path, frames, *, fps=30, every=1, scale=1.0):
    """Writes a film. It appears at `path` once it is complete; a film that was there before is replaced.

    The last frame stays for 1.5 seconds.

    Args:
        path: A path ending in `.gif` or `.mp4`. A missing directory is made.
        frames: An iterable of frames, uint8 `[H, W, 3]` RGB, at least one, all of one shape; read one at a time.
        fps: Frames per second of `frames`, as they were played.
        every: Only each `every`th frame and the last one are kept; the film keeps its speed. Makes a GIF small.
        scale: Factor on height and width: 0.5 makes a film of a quarter of the area, 2 enlarges each pixel to a square.

    Returns:
        The path, a `pathlib.Path`.

    Raises:
        ImportError: If `path` ends in `.mp4` and imageio-ffmpeg is not installed.
        OSError: If `path` cannot be written.
        TypeError: If an argument is of the wrong type.
        ValueError: If the suffix is another, an argument is out of range, or there is no frame or an unfit one.
    """
    with Film(path, fps=fps, every=every, scale=scale) as film:
        for frame in frames:
            film.add(frame)
    return film.path


class Film:
    """A film in the making: `with Film(path) as film: film.add(frame)`.

    The file appears when the block ends; where the block raises, it does not. Arguments and errors are those of
    `write_film`, and all that can be checked is checked at the start, before anyone plays an episode for it.
    """

    def __init__(self, path, *, fps=30, every=1, scale=1.0):
        self.path = check_path(path)
        check_number(above=0, fps=fps, scale=scale)
        check_count(1, every=every)
        if self.path.suffix == ".gif" and fps / every > GIF_FPS:
            raise ValueError(
                f"Argument `every` must be at least {math.ceil(fps / GIF_FPS)} here, as a GIF shows at most {GIF_FPS} "
                f"frames per second. Received: every={every}, fps={fps}"
            )
        self.fps = fps
        self.every = every
        self.scale = scale
        self.num_frames = 0  # added so far
        self._shape = None
        self._skipped = None  # the newest frame where it was not kept
        self._write: Any = None
        self._exits = contextlib.ExitStack()

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(replacing(self.path))
            self._write = stack.enter_context(WRITERS[self.path.suffix](temporary, self.fps / self.every))
            stack.push(self._complete)
            self._exits = stack.pop_all()
        return self

    def __exit__(self, *error):
        return self._exits.__exit__(*error)

    def add(self, frame):
        """Adds a frame, uint8 `[H, W, 3]` RGB.

        Raises:
            ValueError: If it is no such frame, or its shape is not that of the first.
        """
        frame = _check_frame(frame)
        self._shape = self._shape or frame.shape
        if frame.shape != self._shape:
            raise ValueError(f"All frames of a film must have one shape. Received: {self._shape}, then {frame.shape}")
        kept = self.num_frames % self.every == 0
        self.num_frames += 1
        self._skipped = None if kept else frame.copy()
        if kept:
            self._write(_scaled(frame, self.scale))

    def _complete(self, kind, error, traceback):
        if kind is not None:
            return
        if not self.num_frames:
            raise ValueError("A film needs at least one frame. Received: none")
        if self._skipped is not None:
            self._write(_scaled(self._skipped, self.scale))


def check_path(path):
    """Returns `path` as a `pathlib.Path` once it is certain that a film can be written there.

    Raises:
        ImportError: If it ends in `.mp4` and imageio-ffmpeg is not installed.
        OSError: If it cannot be written.
        ValueError: If it ends in neither `.gif` nor `.mp4`.
    """
    path = pathlib.Path(path)
    if path.suffix not in WRITERS:
        raise ValueError(f"Argument `path` must end in {' or '.join(WRITERS)}. Received: path={str(path)!r}")
    if path.suffix == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise ImportError(
            'An MP4 needs imageio-ffmpeg: install it by `pip install "sota_dqn[video]"`, or choose a path ending in '
            f".gif. Received: path={str(path)!r}"
        )
    check_writable(path)
    return path


def caption(score, step):
    """Returns the two texts that films show: the return so far and the environment steps since the reset."""
    return [f"score {score:,.0f}" if float(score).is_integer() else f"score {score:,.1f}", f"step {step:,}"]


def draw_text(frame, texts):
    """Returns `frame` below a dark strip with `texts`, each at the left of its share of the width.

    Args:
        frame: uint8 `[H, W, 3]`, RGB. One that is narrower than 128 pixels is enlarged by a whole factor first, as text
            would not be legible above it.
        texts: A list of strings, at least one; all become smaller where one has not enough room.
    """
    frame = _check_frame(frame)
    frame = _scaled(frame, math.ceil(SMALLEST / frame.shape[1]))
    height, width = frame.shape[:2]
    font, weight = cv2.FontFace("sans"), 500
    size = round(min(max(11, height / 20), 32))  # pixels
    padding, share = size // 2, width // len(texts)
    strip = np.full((round(1.35 * size) + padding, width, 3), GROUND, np.uint8)
    baseline = padding // 2 + round(1.03 * size)
    longest = max(cv2.getTextSize((width, height), text, (0, 0), font, size, weight)[2] for text in texts)
    size = max(1, int(size * min(1, (share - padding) / max(longest, 1))))
    for i, text in enumerate(texts):
        cv2.putText(strip, text, (padding + i * share, baseline), (255, 255, 255), font, size, weight)
    return np.concatenate([strip, frame])


@contextlib.contextmanager
def _gif(path, fps):
    frames = []
    yield lambda frame: frames.append(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    # Each moment is rounded to a tick, not each duration, so that the film keeps its speed.
    moments = np.round(np.arange(len(frames) + 1) / (fps * GIF_TICK)) * GIF_TICK * 1000  # milliseconds
    durations = np.diff(moments).round().astype("int32")
    durations[-1] = max(durations[-1], round(HOLD * 1000))
    film = cv2.Animation()
    film.frames = frames
    film.durations = durations
    film.loop_count = 0  # for ever
    # A palette per frame, no dithering (3 is none), no transparency: games are drawn in few colours, which this keeps.
    options = {
        cv2.IMWRITE_GIF_QUALITY: cv2.IMWRITE_GIF_COLORTABLE_SIZE_256,
        cv2.IMWRITE_GIF_DITHER: 3,
        cv2.IMWRITE_GIF_TRANSPARENCY: 0,
    }
    if not cv2.imwriteanimation(str(path), film, [number for option in options.items() for number in option]):
        raise OSError(f"OpenCV could not write the film {path}.")


@contextlib.contextmanager
def _mp4(path, fps):
    executable = importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe()  # an extra
    encoder: Any = None
    last: Any = None

    def write(frame):
        nonlocal encoder, last
        height, width = frame.shape[:2]
        frame = cv2.copyMakeBorder(frame, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)  # H.264 wants even sizes
        last = frame
        if encoder is None:
            size = f"{frame.shape[1]}x{frame.shape[0]}"
            source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", f"{fps:.6f}", "-i", "-"]
            # What browsers play, at a little more than the usual quality, from before it is loaded in full.
            film = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "20", "-movflags", "+faststart", str(path)]
            # Not by imageio-ffmpeg's own writer: it forks, against which JAX warns.
            command = [executable, "-v", "error", *source, *film]
            encoder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log)
        with contextlib.suppress(BrokenPipeError):  # where ffmpeg has given up, it tells why at the end
            encoder.stdin.write(np.ascontiguousarray(frame))

    with tempfile.TemporaryFile() as log:
        try:
            yield write
            for _ in range(round(HOLD * fps) - 1):
                write(last)
            encoder.communicate()
        except BaseException:
            if encoder is not None:
                encoder.kill()
                encoder.communicate()
            raise
        if encoder.returncode:
            log.seek(0)
            raise OSError(f"ffmpeg could not write the film {path}: {log.read().decode(errors='replace').strip()}")


WRITERS = {".gif": _gif, ".mp4": _mp4}


def _check_frame(frame):
    frame = np.asarray(frame)
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[-1] != 3:
        raise ValueError(f"A frame must be uint8 [H, W, 3]. Received: {frame.dtype} {list(frame.shape)}")
    return frame


def _scaled(frame, factor):
    if factor == 1:
        return frame
    size = max(1, round(frame.shape[1] * factor)), max(1, round(frame.shape[0] * factor))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST)
