import contextlib
import csv
import math

import gymnasium
import keras
import numpy as np
import probes
import pytest
from gymnasium import spaces
from keras import ops
from runs import fix_seeds

from sota_dqn import DQNTrainer, Replay, callbacks, mixtures, policies, samplers, schedules
from sota_dqn.returns import Bounds
from sota_dqn.types import NextState

CLOCK = ("steps_per_second", "updates_per_second", "seconds")


def network(features=1, outputs=2):
    return keras.Sequential([keras.Input((features,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(outputs)])


def make(env=probes.ActionByObservation, model=None, **changes):
    settings = {
        "num_envs": 2,
        "batch_size": 8,
        "n_step": 3,
        "bounds": None,
        "updates_per_call": 4,
        "learning_starts": 16,
        "report_every": 40,
        "replay": Replay(400),
        **changes,
    }
    return DQNTrainer(env, network() if model is None else model, **settings)


def without_learning(trainer):
    """Lets `trainer` count its updates and make none."""

    def learn(step):
        learner = trainer.learner
        learner.updates += learner.updates_per_call
        return {name: np.zeros(learner.updates_per_call, "float32") for name in learner.metrics}

    trainer.learner.learn = learn
    trainer.learner.add = lambda *rows: None
    return trainer


# Counting


@pytest.mark.parametrize(
    ("num_envs", "updates_per_step", "updates_per_call"),
    [(1, 1.0, 1), (1, 0.25, 8), (3, 0.5, 4), (2, 2.0, 1), (5, 3.0, 4), (4, 0.29, 1), (2, 0.7, 7)],
)
def test_steps_and_updates_are_counted_exactly(num_envs, updates_per_step, updates_per_call):
    arguments = {"updates_per_step": updates_per_step, "updates_per_call": updates_per_call}
    trainer = without_learning(make(num_envs=num_envs, learning_starts=32, **arguments))
    total = 0
    for steps in (60, 7, 60, 100):
        trainer.train(steps=steps, verbose=0)
        total += math.ceil(steps / num_envs) * num_envs
        assert trainer.steps == total
        # The updates that the last step is worth are made together with the next step.
        hundredths = max(0, (total - num_envs - 32) * round(100 * updates_per_step))
        due = hundredths // 100
        assert trainer.updates == due // updates_per_call * updates_per_call
    assert trainer.history["updates"][-1] == trainer.updates > 0


def test_episodes_are_counted_and_end_the_training():
    trainer = without_learning(make(probes.TimeLimit))  # two streams, of episodes of 4 steps
    trainer.train(episodes=6, verbose=0)
    assert (trainer.steps, trainer.episodes) == (24, 6)
    trainer.train(episodes=1, verbose=0)  # two end at once
    assert (trainer.steps, trainer.episodes) == (32, 8)
    trainer.train(steps=10, episodes=100, verbose=0)
    assert (trainer.steps, trainer.episodes) == (42, 10)
    trainer.train(steps=100, episodes=2, verbose=0)
    assert (trainer.steps, trainer.episodes) == (48, 12)
    assert trainer.history["episodes"][-1] == 12
    assert trainer.history["steps"] == [24, 32, 40, 42, 48]
    for name in ("episode_return", "episode_length"):
        np.testing.assert_array_equal(trainer.history[name], [4, 4, 4, math.nan, 4])  # no episode ends at 41 or 42


def test_callbacks_hear_of_episodes_in_order():
    heard = []

    class Listen(callbacks.Callback):
        def on_episode_end(self, episode, logs=None):
            heard.append((episode, logs["stream"], logs["steps"], logs["episode_return"], logs["episode_length"]))

    without_learning(make(probes.TimeLimit)).train(steps=16, verbose=0, callbacks=[Listen()])
    assert heard == [(0, 0, 8, 4.0, 4), (1, 1, 8, 4.0, 4), (2, 0, 16, 4.0, 4), (3, 1, 16, 4.0, 4)]


def test_epochs_end_at_multiples_and_at_the_end():
    trainer = without_learning(make())
    trainer.train(steps=100, verbose=0)
    trainer.train(steps=30, verbose=0)
    assert trainer.history["steps"] == [40, 80, 100, 120, 130]


def test_order_of_calls():
    """Act before learn, learn before the environments step; the rows so far are written before an update."""
    tape = []
    trainer = without_learning(make(updates_per_step=2.0, learning_starts=10, updates_per_call=2))

    def taped(owner, name, label):
        method = getattr(owner, name)

        def call(*arguments, **named):
            tape.append((label, trainer.steps))
            return method(*arguments, **named)

        setattr(owner, name, call)

    taped(trainer.actor, "choose", "act")
    taped(trainer.learner, "add", "write")
    taped(trainer.learner, "learn", "learn")
    taped(trainer.actor.environments, "step", "step")
    trainer.train(steps=16, verbose=0)
    one = lambda step: [("act", step), ("write", step), ("learn", step), ("learn", step), ("step", step)]  # noqa: E731
    assert tape[-10:] == one(12) + one(14)
    before = [(label, step) for label, step in tape if step <= 10 and label != "write"]
    assert before == [(label, step) for step in range(0, 12, 2) for label in ("act", "step")]


# Determinism


class Shared:
    """Three runs: one, the same with evaluations and a report in between, and one of another seed."""

    def __init__(self):
        self.run = self.train(seed=0)
        self.evaluated = self.train(seed=0, between=True)
        self.other = self.train(seed=1)

    @staticmethod
    def train(*, seed, between=False):
        fix_seeds()
        trainer = make("CartPole-v1", network(4), seed=seed)
        given = [callbacks.Evaluation(40, episodes=2)] if between else []
        trainer.train(steps=80, verbose=0, callbacks=given)
        if between:
            trainer.evaluate(3)
        trainer.train(steps=80, verbose=0, callbacks=given)
        return trainer


@pytest.fixture(scope="module")
def shared():
    return Shared()


def history(trainer):
    return {name: values for name, values in trainer.history.items() if name not in CLOCK and "eval" not in name}


def test_equal_seeds_give_equal_runs_and_evaluations_do_not_disturb_them(shared):
    run, evaluated = shared.run, shared.evaluated
    for one, other in zip(run.learner.variables, evaluated.learner.variables, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other))
    assert str(history(run)) == str(history(evaluated))
    assert run.evaluate(4, seed=3) == evaluated.evaluate(4, seed=3)
    assert run.updates > 40 and evaluated.learner.compilations() == 1


def test_another_seed_gives_another_run(shared):
    run, other = shared.run, shared.other
    assert history(run)["episode_return"] != history(other)["episode_return"]
    assert not np.array_equal(run.model.get_weights()[0], other.model.get_weights()[0])


def test_evaluations_have_seeds_of_their_own(shared):
    run, evaluated = shared.run, shared.evaluated
    first, second = run.evaluate(5)["seeds"], run.evaluate(5)["seeds"]
    assert len({*first, *second}) == 10
    assert run.evaluations == 2 and evaluated.evaluations == 5  # four by the callback
    assert run.evaluate(5, seed=1)["seeds"] == run.evaluate(5, seed=1)["seeds"]
    assert run.evaluations == 2
    other = shared.other.evaluate(5)["seeds"]
    assert not {*first} & {*other}
    shared.run.evaluations = 0
    assert run.evaluate(5)["seeds"] == first  # the same for the same number


def test_evaluation_is_greedy(shared):
    """Episode by episode, by hand."""
    run = shared.run
    found = run.evaluate(3, seed=7)
    env = gymnasium.make("CartPole-v1")
    for seed, expected, length in zip(found["seeds"], found["returns"], found["lengths"], strict=True):
        observation, _ = env.reset(seed=seed)
        total, steps, over = 0.0, 0, False
        while not over:
            values = keras.ops.convert_to_numpy(run.model(observation[None]))
            observation, reward, terminated, truncated, _ = env.step(int(np.argmax(values)))
            total, steps, over = total + reward, steps + 1, terminated or truncated
        assert (total, steps) == (expected, length)
    assert found["return_mean"] == np.mean(found["returns"]) and found["return_std"] == np.std(found["returns"])
    assert found["protocol"] == "greedy, 3 whole episodes"


# What is shown


def test_silent_when_asked(shared, capsys):
    shared.other.train(steps=40, verbose=0)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_progress_is_lines_where_there_is_no_terminal(shared, capsys):
    shared.other.train(steps=40)
    lines = capsys.readouterr().out.splitlines()
    total = shared.other.steps
    assert lines[-1].startswith(f"{total}/{total} steps (100 %)") and "loss" in lines[-1] and "took" in lines[-1]
    assert not any("\r" in line or "\x1b" in line for line in lines)


def test_profile_names_every_phase(shared, capsys):
    shared.other.train(steps=40, verbose=0, profile=True)
    profile = shared.other.profile
    assert set(profile) == {"environment", "act", "insert", "learn", "idle", "callbacks", "other"}
    assert profile["environment"] > 0 and profile["learn"] > 0 and min(profile.values()) > -1e-6
    assert "learn" in capsys.readouterr().out


def test_csv_logger_and_evaluation(shared, tmp_path):
    given = [keras.callbacks.CSVLogger(tmp_path / "log.csv"), callbacks.Evaluation(40, episodes=2)]
    shared.other.train(steps=40, verbose=0, callbacks=given)
    with open(tmp_path / "log.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["eval_return"]) == shared.other.history["eval_return"][-1] >= 8  # the pole stands that long


# Bad input


class Odd(probes.Probe):
    """An environment of given spaces, in which no one plays."""

    def __init__(self, observation_space=None, action_space=None, render_mode=None):
        super().__init__(render_mode)
        self.observation_space = observation_space or self.observation_space
        self.action_space = action_space or self.action_space

    def observe(self):
        return self.observation_space.sample()


def odd(**arguments):
    return lambda render_mode=None: Odd(**arguments)


BOX = spaces.Box(0, 1, (1,), "float32")


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("CartPol-v1", r"Unknown environment id\. Did you mean CartPole-v1.*Received: env='CartPol-v1'"),
        ("CartPole-v77", r"Unknown environment id\..*Received: env='CartPole-v77'"),
        ("Pendulum-v1", r"Discrete action space; Box is not supported\. .* Received: action_space=Box"),
        (odd(action_space=spaces.MultiDiscrete([2, 2])), "MultiDiscrete is not supported"),
        (odd(observation_space=spaces.Dict(a=BOX)), r"Dict is not supported\. .* Received: observation_space=Dict"),
        (odd(observation_space=spaces.Tuple([BOX])), r"Tuple is not supported\. .* Received: observation_space=Tuple"),
    ],
)
def test_environments_that_do_not_fit(env, message):
    with pytest.raises(ValueError, match=message):
        make(env)


def test_an_environment_that_is_none():
    with pytest.raises(TypeError, match=r"Argument `env` must be an id, a callable, .*Received: env=3"):
        make(3)


def two_inputs():
    inputs = [keras.Input((1,)), keras.Input((1,))]
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Concatenate()(inputs)))


def with_lambda():
    layer = keras.layers.Lambda(lambda x: 2 * x, name="twice")
    return keras.Sequential([keras.Input((1,)), keras.Sequential([layer]), keras.layers.Dense(2)])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: network(outputs=3), r"one value for each of the 2 actions\. Received: \(3,\)"),
        (lambda: network(features=5), r"input does not match .* shape \(1,\)\. Received: input_shape=\(5,\)"),
        (two_inputs, r"must have one input, the observation\. Received: input_shape=\["),
        (with_lambda, r"has a Lambda layer, 'twice', which cannot be loaded safely"),
    ],
)
def test_models_that_do_not_fit(model, message):
    with pytest.raises(ValueError, match=message):
        make(model=model())


def test_a_model_that_is_none():
    with pytest.raises(TypeError, match=r"Argument `model` must be a Keras model\. Received: model='dqn'"):
        make(model="dqn")


@pytest.mark.parametrize(
    "argument",
    [
        {"num_envs": 0},
        {"num_envs": -1},
        {"batch_size": 0},
        {"batch_size": -8},
        {"n_step": 0},
        {"n_step": 1.5},
        {"n_step": schedules.constant(0)},
        {"n_step": schedules.linear(3, 10, steps=1000)},
        {"n_step": schedules.exponential(3, 4, half_life=10**7)},
        {"n_step": lambda step: math.nan if step > 10**8 else 3},
        {"discount": 1.01},
        {"discount": -0.1},
        {"target_update": 0},
        {"target_update": -3},
        {"target_update": 1.5},
        {"updates_per_step": 0},
        {"updates_per_step": -1.0},
        {"updates_per_step": math.nan},
        {"updates_per_step": math.inf},
        {"updates_per_call": 0},
        {"learning_starts": 0},
        {"learning_starts": -1},
        {"report_every": 0},
        {"frame_stack": 0},
        {"vectorization_mode": "parallel"},
        {"seed": -1},
    ],
    ids=" ".join,  # the same in every process
)
def test_numbers_out_of_range(argument):
    ((name, value),) = argument.items()
    with pytest.raises(ValueError, match=rf"Argument `{name}` must .*Received: {name}={value!r}"):
        make(**argument)


@pytest.mark.parametrize(
    "argument",
    [
        {"batch_size": 8.0},
        {"batch_size": True},
        {"batch_size": None},
        {"report_every": None},
        {"discount": True},
        {"updates_per_step": True},
        {"updates_per_step": "often"},
        {"clip_rewards": "yes"},
        {"seed": None},
        {"learning_starts": "soon"},
        {"report_every": 1.5},
        {"policy": "greedy"},
        {"replay": 1000},
        {"target": "double"},
        {"target": None},
        {"bounds": 4},
        {"penalty": 0.25},
    ],
    ids=str,
)
def test_arguments_of_the_wrong_type(argument):
    ((name, value),) = argument.items()
    with pytest.raises(TypeError, match=rf"Argument `{name}` must .*Received: {name}={value!r}"):
        make(**argument)


def test_preprocessing_that_cannot_be_called():
    with pytest.raises(TypeError, match=r"Argument `preprocess` must be a callable .*Received: 'gray'"):
        make(preprocess="gray")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"penalty": lambda q, y, lower, upper: keras.ops.mean(q)}, r"`penalty` must be .* Received: shape=\(\)"),
        ({"penalty": lambda q, y, lower, upper: q[:, None] - y}, r"`penalty` must be .* Received: shape=\(8, 8\)"),
        ({"target": lambda next_state: ops.max(next_state.values)}, r"`target` must be .* Received: shape=\(\)"),
        ({"target": lambda next_state: next_state.values[:, :1]}, r"`target` must be .* Received: shape=\(8, 1\)"),
        ({"policy": lambda values, uniform, step: 2 * uniform}, r"`policy` must be .* one integer .* dtype=float32"),
    ],
)
def test_functions_that_do_not_return_one_number_each(settings, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # for what is rescued
    trainer = make(bounds=Bounds(), **settings)
    with pytest.raises(ValueError, match=message):
        trainer.train(steps=100, verbose=0)


def test_arguments_that_do_not_fit_together():
    with pytest.raises(TypeError, match=r"Argument `rescaling` must be a `returns.Rescaling` or None. Received: "):
        make(rescaling=1e-3)
    with pytest.raises(ValueError, match=r"Argument `penalty` needs `bounds`"):
        make(penalty=lambda q, y, lower, upper: q)
    with pytest.raises(
        ValueError, match=r"Argument `learning_starts` must be at least 10 .*Received: learning_starts=9"
    ):
        make(n_step=3, learning_starts=9, batch_size=4)
    used = Replay(400)
    make(replay=used)
    with pytest.raises(ValueError, match=r"Argument `replay` already belongs to another trainer"):
        make(replay=used)


def test_upper_bounds_need_a_discount():
    with pytest.raises(ValueError, match="Upper bounds divide by `discount`"):
        make(bounds=Bounds(2, upper=True), discount=0)


@pytest.mark.parametrize("arguments", [{"epsilon": -0.1}, {"epsilon": 5}, {"epsilon": "half"}, {"seed": -1}], ids=str)
def test_bad_arguments_of_evaluate(arguments):
    ((name, value),) = arguments.items()
    error = TypeError if isinstance(value, str) else ValueError
    with pytest.raises(error, match=rf"Argument `{name}` must be .*Received: {name}={value!r}"):
        make().evaluate(1, **arguments)
    if name == "epsilon":
        with pytest.raises(error, match="Argument `epsilon` must be"):
            callbacks.Evaluation(epsilon=value)


@pytest.mark.parametrize("last", [3, 3.4, 1])
def test_a_schedule_that_does_not_rise(last):
    trainer = make(n_step=schedules.linear(3, last, steps=1000))
    assert trainer.replay.after == 3
    trainer.close()


def test_values_are_raised_to_returns_of_more_steps_unless_that_is_switched_off():
    trainer = DQNTrainer("CartPole-v1", network(4, 2))
    bounds, penalty = trainer.learner.bounds, trainer.learner.penalty
    assert (bounds.horizons, bounds.upper, bounds.return_to_go) == (4, False, False)
    q, target, lower = (np.array([value], "float32") for value in (1.0, 2.0, 2.5))
    raised = ops.convert_to_numpy(penalty(q, target, lower, np.array([np.inf], "float32")))
    np.testing.assert_allclose(raised, [1.1**2], rtol=1e-6)  # (2 + 0.25 * 2.5) / 1.25 - 1
    trainer.close()
    trainer = DQNTrainer("CartPole-v1", network(4, 2), bounds=None)
    assert trainer.learner.bounds is trainer.learner.penalty is None
    trainer.close()


def test_three_steps_become_one_and_a_state_is_worth_what_a_policy_that_slips_gets_there():
    trainer = DQNTrainer("CartPole-v1", network(4, 2))
    n_step = [round(trainer.learner.n_step(step)) for step in (0, 4_999, 5_001, 14_999, 15_001, 1e9)]
    assert n_step == [3, 3, 2, 2, 1, 1]
    state = NextState(*(np.array([values], "float32") for values in ([3, 1], [5, 8])), np.float32(0))
    value = ops.convert_to_numpy(trainer.learner.target(state))
    np.testing.assert_allclose(value, [0.875 * 5 + 0.125 * 8])
    trainer.close()


def test_numbers_of_numpy():
    assert make(n_step=np.int64(2), num_envs=np.int32(2)).n_step == 2


@pytest.mark.parametrize(
    ("capacity", "changes", "message"),
    [
        (0, {}, r"Argument `capacity` must be at least 1\. Received: capacity=0"),
        (-5, {}, r"Argument `capacity` must be at least 1\. Received: capacity=-5"),
        (20, {}, r"Argument `capacity` must be at least \d+ for 2 environments: .*Received: capacity=20"),
        (100, {"batch_size": 128}, r"Argument `capacity` must be at least the batch size, 128\. Received: 100"),
        (60, {"bounds": Bounds(20, upper=True)}, r"Argument `capacity` must be at least \d+ for 2 environments"),
    ],
)
def test_a_replay_that_is_too_small(capacity, changes, message):
    with pytest.raises(ValueError, match=message):
        make(**{"replay": Replay(capacity, sampler=samplers.Uniform()), "learning_starts": 200, **changes})


def test_an_unknown_argument():
    with pytest.raises(TypeError, match="DQNTrainer.* got an unexpected keyword argument 'learning_rate'"):
        make(learning_rate=0.1)
    trainer = make()
    with pytest.raises(TypeError, match="step"):
        trainer.train(step=10)


def test_an_environment_that_cannot_be_built_again_needs_another_to_evaluate_in():
    env = probes.Constant()
    for num_envs in (None, 1, 2):
        with pytest.raises(ValueError, match=r"Evaluation needs an environment of its own.* pass eval_env="):
            make(env, num_envs=num_envs)
    with pytest.raises(ValueError, match=r"pass num_envs=1 .* or a callable .*Received: num_envs=2"):
        make(env, num_envs=2, eval_env=probes.Constant)
    assert make(env, num_envs=1, eval_env=probes.Constant()).evaluate(3)["returns"] == [1.0] * 3

    vector = gymnasium.make_vec("CartPole-v1", num_envs=3)
    with pytest.raises(ValueError, match=r"Evaluation needs an environment of its own"):
        make(vector, network(4), num_envs=None)
    with pytest.raises(ValueError, match=r"Argument `num_envs` must be that of the vector environment, 3"):
        make(vector, network(4), num_envs=2, eval_env="CartPole-v1")
    assert make(vector, network(4), num_envs=None, eval_env="CartPole-v1").num_envs == 3
    vector.close()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, r"Argument `steps` or `episodes` must be given"),
        ({"steps": 0}, ValueError, r"Argument `steps` must be at least 1\. Received: steps=0"),
        ({"steps": -5}, ValueError, r"Argument `steps` must be at least 1\. Received: steps=-5"),
        ({"steps": 1.5}, TypeError, r"Argument `steps` must be an integer\. Received: steps=1\.5"),
        ({"steps": 9, "verbose": "loud"}, ValueError, r'`verbose` must be "auto", 0, 1 or 2\. Received: verbose=.loud'),
        ({"steps": 9, "profile": "yes"}, TypeError, r"`profile` must be True or False\. Received: profile='yes'"),
        ({"episodes": 0}, ValueError, r"Argument `episodes` must be at least 1\. Received: episodes=0"),
    ],
)
def test_bad_arguments_of_train(arguments, error, message):
    trainer = make()
    with pytest.raises(error, match=message):
        trainer.train(**arguments)
    with pytest.raises(ValueError, match=r"Argument `episodes` must be at least 1\. Received: episodes=0"):
        trainer.evaluate(0)
    assert trainer.steps == 0


class Broken(probes.TimeLimit):
    """NaN, as reward or as observation, at step 3 of the second episode of the streams in which `number` is odd."""

    made = 0

    def __init__(self, what="reward", value=math.nan, render_mode=None):
        super().__init__(render_mode)
        self.what = what
        self.value = value
        self.number = Broken.made
        self.episode = 0
        Broken.made += 1

    def start(self):
        self.episode += 1
        return 0.0

    def move(self, action):
        broken = self.number % 2 and self.episode == 2 and self.length == 3
        if broken and self.what == "observation":
            self.state = self.value
        return (self.value if broken and self.what == "reward" else 1.0), False, self.length == 4


@pytest.mark.parametrize(
    ("what", "value", "kind"),
    [
        ("reward", math.nan, "NaN"),
        ("observation", math.nan, "NaN"),
        ("reward", -math.inf, "infinite"),
        ("observation", math.inf, "infinite"),
    ],
)
def test_nan_stops_the_training_and_what_was_learned_is_kept(what, value, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Broken.made = 0
    env = lambda render_mode=None: Broken(what, value)  # noqa: E731
    trainer = make(env, learning_starts=100)
    message = rf"The {what} of environment 1 is {kind} at step 3 of its episode 2\."
    with pytest.raises(ValueError, match=message) as error:
        trainer.train(steps=80, verbose=0)
    rescue = tmp_path / "sota_dqn-rescue-12"  # two streams, six whole steps
    assert any(str(rescue) in note for note in error.value.__notes__)
    loaded = DQNTrainer.load(rescue, env=probes.TimeLimit)
    assert (loaded.steps, loaded.episodes) == (12, 2)
    loaded.train(steps=8, verbose=0)
    assert loaded.steps == 20


def test_nan_with_a_checkpoint_callback(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Broken.made = 0
    trainer = make(lambda render_mode=None: Broken(), learning_starts=100)
    with pytest.raises(ValueError, match="NaN") as error:
        trainer.train(steps=80, verbose=0, callbacks=[callbacks.Checkpoint(tmp_path / "run", replay=False)])
    assert any(str(tmp_path / "run") in note for note in error.value.__notes__)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_epsilon_is_logged_at_the_end_of_the_epoch():
    trainer = without_learning(make(policy=policies.EpsilonGreedy(lambda step: 1 / (1 + step))))
    trainer.train(steps=80, verbose=0)
    np.testing.assert_allclose(trainer.history["epsilon"], [1 / 41, 1 / 81])
    trainer = without_learning(make(policy=policies.Greedy()))
    trainer.train(steps=40, verbose=0)
    assert math.isnan(trainer.history["epsilon"][0])


class WithEpsilon:
    """A policy of a user's own, whose epsilon is what it is given."""

    def __init__(self, epsilon):
        self.epsilon = epsilon

    def __call__(self, values, uniform, step):
        return ops.cast(ops.where(uniform < 0.1, 0, ops.argmax(values, axis=-1)), "int32")


def test_epsilon_of_a_policy_of_a_users_own():
    trainer = without_learning(make(policy=WithEpsilon(0.1), report_every=20))
    trainer.train(20, verbose=0)
    assert trainer.history["epsilon"] == [0.1]
    with pytest.raises(TypeError, match="Argument `policy.epsilon` must be a number or a function .*='half'"):
        make(policy=WithEpsilon("half"))


def recompile(model):
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss="mse")


def freeze(model):
    model.layers[0].trainable = False


@pytest.mark.parametrize("change", [recompile, freeze])
def test_a_model_that_is_compiled_anew_or_frozen(change, tmp_path):
    trainer = make(model=network())
    change(trainer.model)
    with pytest.raises(ValueError, match="was compiled anew, or layers of it were frozen"):
        trainer.train(16, verbose=0)
    with pytest.raises(ValueError, match="was compiled anew, or layers of it were frozen"):
        trainer.save(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_optimizer_of_another_model():
    optimizer = keras.optimizers.Adam(1e-3)
    first, second = network(), network()
    for model in (first, second):
        model.compile(optimizer=optimizer, loss="mse")
    make(model=first)
    with pytest.raises(ValueError, match="Compile the model with an optimizer of its own"):
        make(model=second)


def test_an_environment_that_is_handed_out_twice():
    env = probes.ActionByObservation()
    with pytest.raises(ValueError, match="callable must make a new one at every call"):
        make(lambda: env, num_envs=2)
    with pytest.raises(ValueError, match="callable must make a new one at every call"):
        make(lambda: env, num_envs=1)
    trainer = make(lambda: env, num_envs=1, eval_env=probes.ActionByObservation)
    assert len(trainer.evaluate(1)["returns"]) == 1
    for eval_env in (env, lambda: env, gymnasium.Wrapper(env)):
        with pytest.raises(ValueError, match="`eval_env` must be another environment than the one trained in"):
            make(env, num_envs=1, eval_env=eval_env)


def test_an_environment_to_evaluate_in_that_is_none():
    with pytest.raises(TypeError, match="Argument `eval_env` must be an id.* Received: eval_env=5"):
        make(eval_env=5)


class Closing(probes.Constant):
    """Counts how many have been closed."""

    closed = 0

    def close(self):
        Closing.closed += 1


class Pair(Closing):
    """Shows two numbers."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), "float32")

    def observe(self):
        return np.zeros(2, "float32")


class FiveActions(Closing):
    num_actions = 5


class FromOne(Closing):
    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        self.action_space = spaces.Discrete(2, start=1)


class FourStates(Closing):
    observation_space = spaces.Discrete(4)

    def observe(self):
        return 0


class Precise(Closing):
    """Gives the same numbers in another precision."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), "float64")


class ByName(Closing):
    observation_space = spaces.Dict(a=BOX)


def first_alone(observations):
    return observations[:, :1]


def last_of_two(observations):
    return observations[:, [1]]


@pytest.mark.parametrize(
    ("env", "eval_env", "preprocess", "message"),
    [
        (probes.Constant, FiveActions, None, r"actions of .*, Discrete\(2\)\. Received: .*FiveActions.*=Discrete\(5\)"),
        (probes.Constant, FromOne, None, r"actions of .* Received: .*FromOne.*action_space=Discrete\(2, start=1\)"),
        (probes.Constant, Pair, None, r"are \(1,\) of float32 after preprocessing\. Received: .*Pair.*Box\(.*\(2,\)"),
        (probes.Constant, ByName, None, r"observations like .* Received: .*ByName.*Dict\("),
        (probes.Constant, FourStates, None, r"observations like .* Received: .*FourStates.*Discrete\(4\)"),
        (FourStates, probes.Chain, None, r"Discrete\(4\), which are \(4,\) of float32.*Received: .*Discrete\(6\)"),
        (Pair, Closing, last_of_two, r"observations like .* Received: .*Closing.*Box\(.*\(1,\)"),
    ],
)
def test_an_environment_to_evaluate_in_that_is_unlike(env, eval_env, preprocess, message, monkeypatch):
    monkeypatch.setattr(Closing, "closed", 0)
    model = network(4 if env is FourStates else 1)
    with pytest.raises(ValueError, match=f"Argument `eval_env` must .*{message}"):
        make(env, model, num_envs=2, eval_env=eval_env, preprocess=preprocess)
    assert Closing.closed == 2 * issubclass(env, Closing) + issubclass(eval_env, Closing)


def test_an_environment_to_evaluate_in_that_is_alike_after_preprocessing():
    calls = []

    def count(observations):
        calls.append(len(observations))
        return observations

    for eval_env in (Closing, Closing()):
        made = make(probes.Constant, eval_env=eval_env, preprocess=count)
        assert calls == [2]  # what counts its calls counts those of the training
        assert made.evaluate(3)["returns"] == [1.0] * 3
        calls.clear()
    assert make(probes.Constant, eval_env=Precise).evaluate(2)["returns"] == [1.0] * 2
    assert make(Pair, eval_env=probes.Constant, preprocess=first_alone).evaluate(2)["returns"] == [1.0] * 2


@pytest.mark.parametrize("name", ["policy", "target"])
def test_a_class_in_the_place_of_a_function(name):
    with pytest.raises(TypeError, match=f"Argument `{name}` must be a function"):
        make(**{name: policies.EpsilonGreedy})


class Refusing(mixtures.Selection):
    """Raises as soon as it is to act, once."""

    def __init__(self):
        super().__init__([policies.Greedy()])
        self.refused = False

    def start(self, num_envs, random):
        super().start(num_envs, random)
        if not self.refused:
            self.refused = True
            raise ArithmeticError


def test_replay_and_policy_can_be_used_again_after_an_error():
    replay, policy, model = Replay(1_000, sampler=samplers.Prioritized()), Refusing(), network()
    for error, settings in ((ValueError, {"learning_starts": 1}), (ArithmeticError, {})):
        with pytest.raises(error):
            make(model=model, replay=replay, policy=policy, **settings)
    make(model=model, replay=replay, policy=policy)
    for name, used in (("replay", replay), ("policy", policy)):
        with pytest.raises(ValueError, match=f"`{name}` already belongs to another trainer"):
            make(**{name: used})


def refuse(observations):
    raise ArithmeticError


@pytest.mark.parametrize(
    "settings",
    [{"model": network(features=5)}, {"learning_starts": 1}, {"preprocess": refuse}, {"preprocess": 5}],
)
def test_environments_are_closed_where_the_trainer_is_not_made(settings, monkeypatch):
    monkeypatch.setattr(Closing, "closed", 0)
    with pytest.raises((ValueError, TypeError, ArithmeticError)):
        make(Closing, num_envs=3, **settings)
    assert Closing.closed == 3
    with pytest.raises((ValueError, TypeError, ArithmeticError)):
        make(Closing(), num_envs=1, eval_env=probes.Constant, **settings)
    assert Closing.closed == 3  # the user's own may be used again


def test_environments_that_do_not_fit_are_closed(monkeypatch):
    monkeypatch.setattr(Closing, "closed", 0)
    monkeypatch.setattr(Closing, "observation_space", spaces.Dict(a=BOX))
    for settings in ({"num_envs": 3}, {"num_envs": 2, "actors": 1}):
        with pytest.raises(ValueError, match="Dict is not supported"):
            make(Closing, **settings)
    assert Closing.closed == 3 + 1


def test_a_vector_environment_may_be_used_again_after_an_error():
    vector = gymnasium.make_vec("CartPole-v1", num_envs=3)
    for model in (network(5), network(4)):
        with contextlib.suppress(ValueError):
            trainer = make(vector, model, num_envs=None, eval_env="CartPole-v1")
    assert trainer.train(30, verbose=0)
    trainer.close()
