"""Atari games through ale-py's native vector environment, where one C++ call steps all of them.

The emulator gives single frames: stacks are built on the device, rewards are clipped where they are stored, and games
are reset one by one, with a seed where that is due. ale-py is imported only when a game is made.
"""

import importlib

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from sota_dqn.checks import (
    check_bool,
    check_bool_or_none,
    check_count,
    check_count_or_none,
    check_id,
    check_probability,
)
from sota_dqn.types import recorded

__all__ = ["Atari", "is_game", "native", "protocol"]

GAME = "ale_py.env:AtariEnv"  # the entry point of the ids of games
REGISTERED = {  # what ale-py registers a game with beside its name, and what its entry point takes for granted
    "frameskip": 4,
    "repeat_action_probability": 0.25,
    "full_action_space": False,
    "max_num_frames_per_episode": None,
}
HEIGHT, WIDTH = 210, 160  # pixels of the screen
FRAMES_PER_SECOND = 60
SCREEN_SCALE = 3  # of the window that `play` opens


@recorded
class Atari:
    """A game and the protocol by which it is played; calling it makes one environment, `make_vector` several.

    The names of the arguments and what they mean are ale-py's; None keeps what the id is registered with: for
    `ALE/...-v5` sticky actions of probability 0.25, 4 frames a step, the game's own actions and 108,000 frames at most.

    Args:
        id: Gymnasium's id, such as `"ALE/MsPacman-v5"`.
        raw: Whether observations are the screen, `[210, 160, 3]` uint8 RGB; otherwise grey-scale `[84, 84]` uint8. None
            is raw where preprocessing of your own follows.
        img_height: Pixels of a grey-scale observation.
        img_width: Likewise.
        frameskip: Frames that an action lasts.
        maxpool: Whether an observation is the brighter of the last two frames, pixel by pixel: sprites flicker.
        noop_max: A game begins with so many actions at most, drawn evenly, that do nothing.
        use_fire_reset: Whether a game begins with FIRE, where the game has it.
        repeat_action_probability: How likely the action before is repeated instead (sticky actions).
        full_action_space: Whether all 18 actions are there, not only those that do something.
        life_loss: Whether a lost life is a termination for learning. The game goes on, and scores are those of whole
            games.
        max_num_frames_per_episode: Frames after which a game is cut off.
        num_threads: Threads that step the games; 0 lets ale-py choose.
        seed_every: Steps of one stream, at least, until its next game gets a seed of its own; 0 seeds every game.
            ale-py loads a game anew for a seed, which takes 0.1 to 0.2 s while all others wait. A run that is resumed
            plays again what was played since the seed: so many steps of every stream at most, and the game that goes
            on.

    Raises:
        ImportError: If ale-py is not installed.
        TypeError: If an argument is of the wrong type.
        ValueError: If there is no such game, or an argument is out of range.
    """

    def __init__(
        self,
        id,
        *,
        raw=None,
        img_height=84,
        img_width=84,
        frameskip=None,
        maxpool=True,
        noop_max=30,
        use_fire_reset=True,
        repeat_action_probability=None,
        full_action_space=None,
        life_loss=True,
        max_num_frames_per_episode=None,
        num_threads=0,
        seed_every=5_000,
    ):
        check_count(1, img_height=img_height, img_width=img_width)
        check_count(0, noop_max=noop_max, num_threads=num_threads, seed_every=seed_every)
        check_count_or_none(1, frameskip=frameskip, max_num_frames_per_episode=max_num_frames_per_episode)
        check_bool(maxpool=maxpool, use_fire_reset=use_fire_reset, life_loss=life_loss)
        check_bool_or_none(raw=raw, full_action_space=full_action_space)
        if repeat_action_probability is not None:
            check_probability(repeat_action_probability=repeat_action_probability)
        if not _is_native(id):
            raise ValueError(
                "Argument `id` must be that of an Atari game with pictures, registered as ale-py does it: without a "
                f"time limit, wrappers or further arguments. Received: id={id!r}"
            )
        self.id = id
        self.raw = raw
        self.life_loss = bool(life_loss)
        self.seed_every = int(seed_every)
        self.settings = {
            "img_height": img_height,
            "img_width": img_width,
            "maxpool": maxpool,
            "noop_max": noop_max,
            "use_fire_reset": use_fire_reset,
            "num_threads": num_threads,
            **gymnasium.spec(id).kwargs,
        }
        for name, value in (
            ("frameskip", frameskip),
            ("repeat_action_probability", repeat_action_probability),
            ("full_action_space", full_action_space),
            ("max_num_frames_per_episode", max_num_frames_per_episode),
        ):
            if value is not None:
                self.settings[name] = value
        # ale-py takes no numbers of NumPy.
        self.settings = {k: v.item() if isinstance(v, np.generic) else v for k, v in self.settings.items()}
        if not isinstance(self.settings["frameskip"], int):
            raise ValueError(
                f"{id} draws its frame skip from {self.settings['frameskip']}: pass Atari({id!r}, frameskip=4), or "
                "take the -v5 id. Received: frameskip=None"
            )

    def __call__(self, render_mode=None):
        """Returns one environment of whole games; with a `render_mode` its `render` gives the full RGB screen."""
        return _Game(self, render_mode)

    def make_vector(self, num_envs):
        """Returns a `gymnasium.vector.VectorEnv` of `num_envs` games."""
        return _Games(self, num_envs)

    def native(self, num_envs, *, raw):
        """Returns ale-py's vector environment, one frame an observation."""
        from ale_py.vector_env import AtariVectorEnv  # an extra

        screen = {"grayscale": False, "img_height": HEIGHT, "img_width": WIDTH} if raw else {"grayscale": True}
        return AtariVectorEnv(
            num_envs=num_envs,
            autoreset_mode=AutoresetMode.SAME_STEP,
            stack_num=1,
            reward_clipping=False,
            life_loss_info=self.life_loss,
            **{**self.settings, **screen},
        )

    @property
    def protocol(self):
        """What has to stand beside every score of this game."""
        return _describe(self.settings, life_loss=self.life_loss)


class _Games(VectorEnv):
    """Games that are reset when told to, with a seed where one is given.

    ale-py resets a game in the step that ends it, in the thread that has stepped it: told to reset it without a seed,
    there is nothing left to do. Steps and resets so far decide what comes, not who asked for a reset.
    """

    concurrent = True  # `step` is `step_async`, then `step_wait`

    def __init__(self, atari, num_envs, *, raw=None):
        self._native = atari.native(num_envs, raw=atari.raw if raw is None else raw)
        self._life_loss = atari.life_loss
        self.num_envs = num_envs
        self.seed_every = atari.seed_every
        self.metadata = {
            "autoreset_mode": AutoresetMode.DISABLED,
            "render_fps": FRAMES_PER_SECOND / atari.settings["frameskip"],
        }
        self.single_observation_space = spaces.Box(0, 255, self._native.single_observation_space.shape[1:], np.uint8)
        self.single_action_space = self._native.single_action_space
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = self._native.action_space
        self._lives = np.zeros(num_envs, "int32")  # left in the games that are running
        self._observation = None  # what they show, `[E, H, W]`
        self._begun = np.zeros(num_envs, bool)  # where the last step has ended a game, and another runs

    def reset(self, *, seed=None, options=None):
        """Begins games, all or those of `options["reset_mask"]`; `seed`: one for each stream, None where not reset."""
        mask = np.ones(self.num_envs, bool) if options is None else options["reset_mask"]
        if isinstance(seed, (list, tuple)):
            seed = np.array([one for one in seed if one is not None])
        due = mask & ~self._begun if seed is None else mask
        self._begun = self._begun & ~mask
        info = {"lives": self._lives}
        if due.any():
            observation, info = self._native.reset(seed=seed, options=None if due.all() else {"reset_mask": due})
            self._observation, self._lives = observation[:, 0], info["lives"]
        return self._observation, info

    def step(self, actions):
        """Steps every game. `info["life_lost"]` says which terminations are lives lost in a game that goes on."""
        self.step_async(actions)
        return self.step_wait()

    def step_async(self, actions):
        """Has every game stepped, in ale-py's threads, by `actions`, `[E]` integers."""
        self._native.send(np.asarray(actions, "int32"))

    def step_wait(self):
        """Returns what `step` returns, once all games have been stepped."""
        observation, reward, terminated, truncated, info = self._native.recv()
        self._observation = observation = observation[:, 0]
        lives = info["lives"]
        # A game that has ended shows the lives of the next one, never fewer; a lost life leaves fewer.
        lost = terminated & (lives < self._lives) & self._life_loss
        self._begun = terminated & ~lost | truncated
        if self._begun.any():
            observation = observation.copy()
            observation[self._begun] = info["final_obs"][self._begun, 0]
        info["life_lost"] = lost
        info["lives"] = np.where(self._begun, np.where(terminated, 0, self._lives), lives)
        self._lives = lives
        return observation, reward, terminated, truncated, info


class _Game(gymnasium.Env):
    """One game, to evaluate in and to film: it terminates when the game is over."""

    def __init__(self, atari, render_mode):
        self.render_mode = render_mode
        self._games = _Games(atari, 1)
        self.metadata = {"render_modes": ["rgb_array", "human"], "render_fps": self._games.metadata["render_fps"]}
        self.observation_space = self._games.single_observation_space
        self.action_space = self._games.single_action_space
        self._screens = None if render_mode is None else _Games(atari, 1, raw=True)  # the same game, in lockstep
        self._screen = None
        self._window = None

    def reset(self, *, seed=None, options=None):
        """Begins a game."""
        super().reset(seed=seed)
        seeds = [int(self.np_random.integers(2**31))] if seed is None else [seed]
        observation, _ = self._games.reset(seed=seeds)
        if self._screens:
            self._show(self._screens.reset(seed=seeds)[0][0])
        return observation[0], {}

    def step(self, action):
        """Makes one step of `frameskip` frames."""
        observation, reward, terminated, truncated, info = self._games.step([action])
        if self._screens:
            self._show(self._screens.step([action])[0][0])
        over = bool(terminated[0] and not info["life_lost"][0])
        return observation[0], float(reward[0]), over, bool(truncated[0]), {"lives": int(info["lives"][0])}

    def render(self):
        """Returns the screen, `[210, 160, 3]` uint8 RGB; with `render_mode="human"` it is in the window already."""
        return self._screen if self.render_mode == "rgb_array" else None

    def close(self):
        """Closes the window."""
        if self._window is not None:
            importlib.import_module("pygame").quit()
            self._window = None

    def _show(self, screen):
        self._screen = screen
        if self.render_mode != "human":
            return
        pygame = importlib.import_module("pygame")
        size = (WIDTH * SCREEN_SCALE, HEIGHT * SCREEN_SCALE)
        if self._window is None:
            pygame.init()
            self._window, self._clock = pygame.display.set_mode(size), pygame.time.Clock()
        pygame.event.pump()
        picture = pygame.surfarray.make_surface(screen.swapaxes(0, 1))
        self._window.blit(pygame.transform.scale(picture, size), (0, 0))
        pygame.display.flip()
        self._clock.tick(self.metadata["render_fps"])


def native(env, *, raw):
    """Returns an `Atari` for the id of a game or an `Atari`, raw or not where it leaves that open; else `env` itself.

    Args:
        env: What a user passes as an environment.
        raw: Whether preprocessing of the user's own follows.

    Raises:
        ImportError: If it is a game, and ale-py is not installed.
        ValueError: If there is no such game.
    """
    if isinstance(env, Atari):
        if env.raw is not None:
            return env
        factory, arguments = env.recipe  # type: ignore[attr-defined]
        return factory(**{**arguments, "raw": raw})
    return Atari(env, raw=raw) if isinstance(env, str) and _is_native(env) else env


def is_game(env):
    """Returns whether `env`, as a user passes it, is an `Atari` or the id of a game with pictures."""
    return isinstance(env, Atari) or isinstance(env, str) and _shows_screens(env)


def protocol(env):
    """Returns what has to stand beside every score in `env`, as a user passes it; None where it says nothing of itself.

    The id of a game that is not played by `Atari` is played as it is registered: without no-ops, FIRE or lost lives.
    """
    if isinstance(env, str) and is_game(env):
        spec = gymnasium.spec(env)
        settings = {"noop_max": 0, "use_fire_reset": False, **REGISTERED, **spec.kwargs}
        return _describe(settings, life_loss=False, max_steps=spec.max_episode_steps)
    return getattr(env, "protocol", None)


def _describe(settings, *, life_loss, max_steps=None):
    """Returns the sentence that says how a game is played."""
    frames = settings["frameskip"]  # a number, or the ends of a range from which it is drawn
    most = settings["max_num_frames_per_episode"]
    limits = [] if most is None else [f"at most {most:,} frames a game"]
    limits += [] if max_steps is None else [f"at most {max_steps:,} steps a game"]
    noops = f"up to {settings['noop_max']}" if settings["noop_max"] else "no"
    return ", ".join(
        [
            f"sticky {settings['repeat_action_probability']:g}",
            "all 18 actions" if settings["full_action_space"] else "the game's own actions",
            f"{noops} no-ops{' and FIRE' if settings['use_fire_reset'] else ''} at the start",
            f"{frames if isinstance(frames, int) else ' to '.join(map(str, frames))} frames a step",
            *limits,
            f"a lost life is {'a' if life_loss else 'no'} termination in training, never in a score",
        ]
    )


def _shows_screens(id):
    """Returns whether an id is that of a game with pictures; some ids give the console's memory instead."""
    check_id(id)
    spec = gymnasium.spec(id)
    return spec.entry_point == GAME and spec.kwargs.get("obs_type", "rgb") == "rgb"


def _is_native(id):
    """Returns whether `Atari` can play an id: a game with all that it is registered with, and nothing beside it."""
    if not _shows_screens(id):
        return False
    spec = gymnasium.spec(id)
    return spec.kwargs.keys() == {"game", *REGISTERED} and not (spec.max_episode_steps or spec.additional_wrappers)
