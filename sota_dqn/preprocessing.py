"""Preprocessing: callables on a batch of observations, `[E, ...]` to `[E, *O]`, on the host.

What they return is what the replay stores and the model sees. To add one, write a function of a batch. Pictures stay
uint8, a quarter of the memory of floats: scaling is the model's first layer, `keras.layers.Rescaling(1 / 255)`.
"""

import cv2
import numpy as np
from gymnasium import spaces

from sota_dqn.checks import check_count, flaw_of
from sota_dqn.types import recorded

__all__ = ["Preprocessing", "atari", "crop", "grayscale", "one_hot", "resize"]

MOST_CHANNELS = 4  # that OpenCV resizes by area at once

NARROWER = {"float64": "float32", "int64": "int32", "uint64": "uint32"}


class Preprocessing:
    """The way from what an environment returns to what is stored: one-hot for discrete spaces, then the user's
    callables.

    float64 becomes float32, int64 int32 and uint64 uint32, the widest that the devices compute with.

    Args:
        functions: None, a callable on a batch of observations, or a list of them, applied in order.
        space: The observation space of one environment.

    Raises:
        TypeError: If a function is not callable.
    """

    def __init__(self, functions, space):
        functions = [] if functions is None else functions if isinstance(functions, (list, tuple)) else [functions]
        for function in functions:
            if not callable(function):
                raise TypeError(
                    "Argument `preprocess` must be a callable on a batch of observations or a list of such callables. "
                    f"Received: {function!r}"
                )
        self.functions = [one_hot(space), *functions] if isinstance(space, spaces.Discrete) else list(functions)
        self.shape = None
        self.dtype = None

    def __call__(self, observations):
        """Returns the observations to store: `[E, *O]`.

        Raises:
            ValueError: If a callable changes the number of observations, or their shape or dtype from one call to the
                next, or makes numbers that are not finite of some that are; or if integers do not fit.
        """
        batch, given = len(observations), observations
        for function in self.functions:
            observations = function(observations)
        observations = np.array(observations)  # a copy: a callable may fill one array of its own again and again
        if observations.dtype.kind not in "buif" and observations.dtype.name != "bfloat16":
            raise ValueError(
                "Preprocessing must return numbers, an array of booleans, integers or floats. Received: "
                f"dtype={observations.dtype}"
            )
        if observations.dtype.name in NARROWER:
            wide, observations = observations, observations.astype(NARROWER[observations.dtype.name])
            if wide.dtype.kind != "f" and not np.array_equal(wide, observations):
                raise ValueError(
                    f"Observations of integers must be in the range of {observations.dtype}, the widest that the "
                    f"devices compute with. Received: {wide[wide != observations][0]}"
                )
        if observations.shape[:1] != (batch,):
            raise ValueError(
                f"Preprocessing must return as many observations as it is given, {batch}. "
                f"Received: shape={observations.shape}"
            )
        if self.shape is None:
            self.shape, self.dtype = observations.shape[1:], observations.dtype.name
        elif (observations.shape[1:], observations.dtype.name) != (self.shape, self.dtype):
            raise ValueError(
                f"Preprocessing must return the same shape and dtype at every call, {self.shape} of {self.dtype} so "
                "far. "
                f"Received: {observations.shape[1:]} of {observations.dtype.name}"
            )
        if self.functions and flaw_of(observations) and not flaw_of(np.asarray(given)):
            wrong = ~np.isfinite(observations.reshape(batch, -1)).all(axis=1)
            raise ValueError(
                f"Preprocessing must return finite numbers. Received: {observations[wrong][0]} for environment "
                f"{np.flatnonzero(wrong)[0]}"
            )
        return observations


def one_hot(space):
    """Returns a function from observations of a `Discrete` space, `[E]`, to one-hot vectors, `[E, n]` float32."""
    identity = np.eye(int(space.n), dtype="float32")

    def encode(observations):
        return identity[np.asarray(observations) - int(space.start)]

    return encode


def grayscale(frames):
    """Returns the luminance of RGB frames, `0.299 R + 0.587 G + 0.114 B`: `[E, H, W, 3]` to `[E, H, W]` uint8."""
    frames = _check_frames(frames, channels=3)
    tall = frames.reshape(-1, *frames.shape[2:])  # the frames above each other: one call for all of them
    return cv2.cvtColor(tall, cv2.COLOR_RGB2GRAY).reshape(frames.shape[:3])


@recorded
def resize(height, width):
    """Returns a function that resizes frames by area, `[E, H, W]` or `[E, H, W, C]` uint8, to `height` by `width`."""
    check_count(1, height=height, width=width)

    def resized(frames):
        frames = _check_frames(frames)
        out = np.empty((len(frames), height, width, *frames.shape[3:]), "uint8")
        if frames.ndim == 4 and frames.shape[3] > MOST_CHANNELS:
            for first in range(0, frames.shape[3], MOST_CHANNELS):
                some = slice(first, first + MOST_CHANNELS)
                out[..., some] = resized(frames[..., some])
            return out
        for frame, smaller in zip(frames, out, strict=True):
            cv2.resize(frame, (width, height), dst=smaller, interpolation=cv2.INTER_AREA)
        return out

    return resized


@recorded
def crop(top=0, bottom=0, left=0, right=0):
    """Returns a function that cuts so many pixels off each side of frames, `[E, H, W]` or `[E, H, W, C]`.

    Raises:
        ValueError: If a side is negative, or nothing would be left of a frame.
    """
    sides = {"top": top, "bottom": bottom, "left": left, "right": right}
    check_count(0, **sides)

    def cropped(frames):
        frames = _check_frames(frames)
        height, width = frames.shape[1:3]
        if top + bottom >= height or left + right >= width:
            raise ValueError(f"Nothing is left of frames of {height} by {width} pixels. Received: {sides}")
        return frames[:, top : height - bottom, left : width - right]

    return cropped


def atari(frames):
    """Returns what DQN makes of the screen, after Mnih et al. 2015: grey-scale and 84 by 84 pixels.

    `[E, 210, 160, 3]` to `[E, 84, 84]` uint8, bit for bit what ale-py makes of the same screen.
    """
    return _to_84_by_84(grayscale(frames))


_to_84_by_84 = resize(84, 84)


def _check_frames(frames, *, channels=None):
    """Returns uint8 frames as an array that OpenCV can read."""
    frames = np.ascontiguousarray(frames)
    fits = frames.ndim == 4 and frames.shape[3] == channels if channels else frames.ndim in (3, 4)
    if frames.dtype != np.uint8 or not fits:
        wanted = f"[E, H, W, {channels}]" if channels else "[E, H, W] or [E, H, W, C]"
        raise ValueError(f"Frames must be uint8 {wanted}. Received: {frames.dtype} {list(frames.shape)}")
    return frames
