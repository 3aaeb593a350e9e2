"""Films, read back through OpenCV."""

import importlib.util

import cv2
import numpy as np
import pytest

from sota_dqn import recorder

needs_ffmpeg = pytest.mark.skipif(
    importlib.util.find_spec("imageio_ffmpeg") is None, reason="imageio-ffmpeg is not installed"
)
SIZES = [(10, 10), (40, 400), (210, 160), (400, 600), (1080, 1920)]


def numbered_frames(number, *, height=48, width=64):
    """Returns frames of one colour each, whose red says which it is."""
    return [np.full((height, width, 3), (2 * i, 100, 200), np.uint8) for i in range(number)]


def read_gif(path):
    """Returns RGB frames and durations in milliseconds."""
    read, film = cv2.imreadanimation(str(path))
    assert read
    assert film.loop_count == 0  # for ever
    return [frame[..., 2::-1].astype(int) for frame in film.frames], [int(d) for d in film.durations]


def read_mp4(path):
    """Returns RGB frames, the frames per second and the codec."""
    film = cv2.VideoCapture(str(path))
    fps, codec = film.get(cv2.CAP_PROP_FPS), int(film.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little")
    frames = []
    while (read := film.read())[0]:
        frames.append(read[1][..., ::-1].astype(int))
    film.release()
    return frames, fps, codec


def reds(frames):
    return [frame[..., 0].mean() for frame in frames]


def test_gif_has_the_frames_their_size_and_speed(tmp_path):
    path = recorder.write_film(tmp_path / "new" / "film.gif", iter(numbered_frames(60)), fps=30)
    frames, durations = read_gif(path)
    assert len(frames) == 60
    assert frames[0].shape == (48, 64, 3)
    np.testing.assert_allclose(reds(frames), np.arange(60) * 2, atol=2.5)
    assert sum(durations[:30]) == 1000
    assert set(durations[:-1]) == {30, 40}  # GIF counts hundredths of a second: thirtieths alternate
    assert durations[-1] == 1500
    assert list(path.parent.iterdir()) == [path]


def test_gif_keeps_the_colours_of_a_game(tmp_path):
    frame = np.zeros((60, 80, 3), np.uint8)
    frame[:] = (144, 72, 17)
    frame[20:40, 20:30] = (92, 186, 92)
    frame[10:12] = (255, 255, 255)
    [read], _ = read_gif(recorder.write_film(tmp_path / "pong.gif", [frame]))
    assert np.abs(read - frame).max() <= 2


def test_every_keeps_the_speed_and_the_last_frame(tmp_path):
    frames, durations = read_gif(recorder.write_film(tmp_path / "film.gif", numbered_frames(11), fps=20, every=4))
    np.testing.assert_allclose(reds(frames), [0, 8, 16, 20], atol=2.5)
    assert durations == [200, 200, 200, 1500]
    frames, _ = read_gif(recorder.write_film(tmp_path / "film.gif", numbered_frames(9), fps=20, every=4))
    np.testing.assert_allclose(reds(frames), [0, 8, 16], atol=2.5)


@pytest.mark.parametrize(("scale", "shape"), [(0.5, (24, 32, 3)), (2, (96, 128, 3)), (0.001, (1, 1, 3))])
def test_scale(tmp_path, scale, shape):
    frames, _ = read_gif(recorder.write_film(tmp_path / "film.gif", numbered_frames(2), scale=scale))
    assert frames[0].shape == shape


@needs_ffmpeg
def test_mp4_has_the_frames_their_size_and_speed(tmp_path):
    path = recorder.write_film(tmp_path / "film.mp4", numbered_frames(25), fps=25)
    frames, fps, codec = read_mp4(path)
    assert len(frames) == 24 + 38  # the last one for a second and a half
    assert frames[0].shape == (48, 64, 3)
    np.testing.assert_allclose(reds(frames), np.minimum(np.arange(62), 24) * 2, atol=6)
    assert fps == 25
    assert codec in (b"avc1", b"h264")
    assert list(tmp_path.iterdir()) == [path]


@needs_ffmpeg
def test_mp4_of_odd_size_is_padded(tmp_path):
    frames, fps, _ = read_mp4(
        recorder.write_film(tmp_path / "film.mp4", numbered_frames(5, height=49, width=63), fps=60, every=2)
    )
    assert len(frames) == 2 + 45
    assert frames[0].shape == (50, 64, 3)
    assert fps == 30


def test_film_takes_frames_that_are_reused(tmp_path):
    frame = np.zeros((48, 64, 3), np.uint8)
    with recorder.Film(tmp_path / "film.gif", every=2) as film:
        for i in range(4):
            frame[:] = 60 * i
            film.add(frame)
        frame[:] = 0
    frames, _ = read_gif(film.path)
    np.testing.assert_allclose(reds(frames), [0, 120, 180], atol=2.5)


@pytest.mark.parametrize("suffix", [".gif", pytest.param(".mp4", marks=needs_ffmpeg)])
def test_film_that_fails_leaves_the_one_before(tmp_path, suffix):
    path = tmp_path / f"film{suffix}"
    path.write_text("before")
    with pytest.raises(RuntimeError, match="episode"), recorder.Film(path) as film:
        film.add(numbered_frames(1)[0])
        raise RuntimeError("in the episode")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_film_that_opencv_cannot_write_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(cv2, "imwriteanimation", lambda *_: False)
    with pytest.raises(OSError, match="could not write"):
        recorder.write_film(tmp_path / "film.gif", numbered_frames(1))
    assert not list(tmp_path.iterdir())


@needs_ffmpeg
def test_film_that_ffmpeg_cannot_write_is_an_error(tmp_path, monkeypatch):
    import imageio_ffmpeg

    refuses = tmp_path / "ffmpeg"
    refuses.write_text("#!/bin/sh\necho no such encoder >&2\nexit 1\n")
    refuses.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(refuses))
    frames = numbered_frames(9, height=400, width=600)  # more than the pipe holds: it breaks
    with pytest.raises(OSError, match="could not write the film .*: no such encoder"):
        recorder.write_film(tmp_path / "film.mp4", frames)
    assert list(tmp_path.iterdir()) == [refuses]


@pytest.mark.parametrize("name", ["film", "film.avi", "film.GIF", "gif"])
def test_other_suffixes_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"must end in .gif or .mp4. Received: path="):
        recorder.check_path(tmp_path / name)


def test_paths_are_checked_before_anything_is_played(tmp_path):
    (tmp_path / "taken.gif").mkdir()
    with pytest.raises(IsADirectoryError, match=r"taken\.gif cannot be written: it is a directory"):
        recorder.Film(tmp_path / "taken.gif")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"film\.gif cannot be written: "):
        recorder.Film(tmp_path / "file" / "film.gif")
    assert recorder.check_path(tmp_path / "a" / "b" / "film.gif") == tmp_path / "a" / "b" / "film.gif"
    assert not list((tmp_path / "a" / "b").iterdir())


def test_mp4_without_ffmpeg_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "sota_dqn\[video\]"'):
        recorder.check_path(tmp_path / "film.mp4")
    recorder.check_path(tmp_path / "film.gif")


@pytest.mark.parametrize(
    ("arguments", "received"),
    [
        ({"fps": 0}, "fps=0"),
        ({"fps": float("nan")}, "fps=nan"),
        ({"scale": 0}, "scale=0"),
        ({"scale": float("inf")}, "scale=inf"),
        ({"every": 0}, "every=0"),
        ({"fps": 60}, "every=1, fps=60"),
    ],
)
def test_arguments_are_checked(tmp_path, arguments, received):
    with pytest.raises(ValueError, match=r"Argument `\w+` must ") as error:
        recorder.Film(tmp_path / "film.gif", **arguments)
    assert str(error.value).endswith(f"Received: {received}")


@pytest.mark.parametrize("arguments", [{"every": 1.5}, {"every": None}, {"fps": "30"}, {"scale": True}], ids=str)
def test_types_are_checked(tmp_path, arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(TypeError, match=f"Argument `{name}` must be .*Received: {name}={value!r}"):
        recorder.Film(tmp_path / "film.gif", **arguments)


def test_gif_says_how_many_frames_to_skip(tmp_path):
    with pytest.raises(ValueError, match="`every` must be at least 3 here"):
        recorder.Film(tmp_path / "film.gif", fps=120)
    recorder.Film(tmp_path / "film.gif", fps=120, every=3)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([], "at least one frame"),
        ([np.zeros((8, 8, 3))], r"uint8 \[H, W, 3\]. Received: float64 \[8, 8, 3\]"),
        ([np.zeros((8, 8), np.uint8)], r"Received: uint8 \[8, 8\]"),
        ([np.zeros((8, 8, 4), np.uint8)], r"Received: uint8 \[8, 8, 4\]"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)], r"\(8, 8, 3\), then \(8, 9, 3\)"),
    ],
)
def test_frames_are_checked(tmp_path, frames, message):
    with pytest.raises(ValueError, match=message):
        recorder.write_film(tmp_path / "film.gif", frames)
    assert not list(tmp_path.iterdir())


def test_caption():
    assert recorder.caption(21.0, 1056) == ["score 21", "step 1,056"]
    assert recorder.caption(-1234.56, 0) == ["score -1,234.6", "step 0"]
    assert recorder.caption(np.float32(0.5), np.int64(7)) == ["score 0.5", "step 7"]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("ground", [0, 128, 255])
def test_text_is_legible_above_the_frame(height, width, ground):
    frame = np.full((height, width, 3), ground, np.uint8)
    drawn = recorder.draw_text(frame, recorder.caption(123.0, 45))
    factor = drawn.shape[1] // width
    strip, below = np.split(drawn, [drawn.shape[0] - factor * height])
    assert (below == ground).all()  # nothing of the game is hidden
    assert drawn.dtype == np.uint8 and 20 <= strip.shape[0] <= 60
    assert (strip[[0, -1]] == recorder.GROUND).all() and (strip[:, -1] == recorder.GROUND).all()  # nothing is cut
    assert strip.max() >= 250 and (strip.min(-1) > 200).mean() > 0.01  # white on dark


def test_text_differs_with_what_it_says():
    frame = np.zeros((210, 160, 3), np.uint8)
    first, second = (recorder.draw_text(frame, recorder.caption(score, 7)) for score in (1.0, 2.0))
    rows, columns, _ = np.nonzero(first != second)
    assert rows.size and rows.max() < 25 and columns.max() < 80  # the score alone


def test_long_text_becomes_smaller():
    drawn = recorder.draw_text(np.zeros((210, 160, 3), np.uint8), ["score 123,456,789.0", "step 1"])
    ink = np.flatnonzero((drawn[:20].min(-1) > 100).any(0))
    assert (ink < 80).any() and not ((ink >= 79) & (ink < 84)).any()  # each in its half


def test_narrow_frames_are_enlarged_by_a_whole_factor():
    frame = np.arange(10 * 12 * 3, dtype=np.uint8).reshape(10, 12, 3)
    drawn = recorder.draw_text(frame, ["x"])
    assert drawn.shape == (20 + 110, 132, 3)
    np.testing.assert_array_equal(drawn[20 + 5 :: 11, 5::11], frame)
    assert recorder.draw_text(np.zeros((40, 400, 3), np.uint8), ["x"]).shape[1] == 400
