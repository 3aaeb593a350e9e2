"""Labels of runs: what differs is said, in few words, and none is there twice."""

import pytest
from runs import make

from sota_dqn import Replay, labels, policies, samplers, schedules, targets
from sota_dqn.checkpoint import encode


def settings(**arguments):
    """Returns what `describe` makes of a run with these arguments."""
    encoded = {name: encode(value, name) for name, value in arguments.items()}
    model = {"name": "net", "parameters": 10, "optimizer": {"name": "adam_1", "learning_rate": "0.0005000000237"}}
    run = {"trainer": "DQNTrainer", "backend": "jax", "arguments": {"env": "CartPole-v1", **encoded, "seed": 0}}
    return labels.describe({"settings": run, "model": model})


def tell_apart(*runs):
    return labels.tell_apart([settings(**run) for run in runs], [f"run {i}" for i in range(len(runs))])


def atari(name, **arguments):
    return {"call": "atari:Atari", "arguments": {"id": name, "raw": None, "img_height": 84, **arguments}}


def record(env):
    return {"settings": {"arguments": {"env": env}}}


def test_settings_are_flat():
    found = settings(replay=Replay(1000, sampler=samplers.Prioritized(0.5)), preprocess=[len, None], seed=1)
    assert found["env",] == "CartPole-v1" and ("seed",) not in found
    assert (found["replay",], found["replay", "capacity"]) == ("Replay", "1000")
    assert (found["replay", "sampler"], found["replay", "sampler", "alpha"]) == ("Prioritized", "0.5")
    assert found["preprocess",] == "[len, None]"
    assert (found["optimizer",], found["optimizer", "learning_rate"]) == ("adam", "0.0005")
    policy = policies.Mixture({"a": policies.Greedy(), "b": policies.EpsilonGreedy(0.1)})
    trainer = make(policy=policy, target=targets.double)
    found = labels.describe({"settings": trainer.settings, "model": {"name": "net", "parameters": 1}})
    assert found["policy", "policies", "b"] == "EpsilonGreedy"
    assert found["policy", "policies", "b", "epsilon"] == "0.1"
    assert found["target",] == "double"


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([{"n_step": 1}], ["run 0"]),
        ([{"n_step": 1}, {"n_step": 5}], ["n_step 1", "n_step 5"]),
        (
            [{"replay": Replay(9, sampler=sampler)} for sampler in (samplers.Uniform(), samplers.Prioritized(0.5))],
            ["sampler Uniform", "sampler Prioritized"],
        ),
        ([{"replay": Replay(9)}, {"replay": Replay(10)}], ["capacity 9", "capacity 10"]),
        ([{"replay": None}, {"replay": Replay(10)}], ["replay None", "replay Replay"]),
        ([{"replay": None, "n_step": 1}, {"replay": Replay(10), "n_step": 5}], ["n_step 1", "replay Replay, n_step 5"]),
        ([{}, {"later": 1}], ["run 0", "later 1"]),  # one of a version that did not know it
        (
            [{"replay": Replay(9, sampler=samplers.Prioritized(alpha))} for alpha in (0.5, 0.6)],
            ["sampler alpha 0.5", "sampler alpha 0.6"],
        ),
        (
            [{"policy": policies.EpsilonGreedy(schedules.linear(1.0, 0.1, steps=steps))} for steps in (10, 20)],
            ["epsilon steps 10", "epsilon steps 20"],
        ),
        (  # a class that two share is not enough
            [{"replay": None}, {"replay": Replay(9)}, {"replay": Replay(10)}],
            ["replay None", "replay Replay, capacity 9", "replay Replay, capacity 10"],
        ),
    ],
)
def test_what_differs_is_said(runs, expected):
    assert tell_apart(*runs) == expected


def test_environments_are_known_by_their_id():
    assert labels.environment(record("CartPole-v1")) == "CartPole-v1"
    assert labels.environment(record(atari("ALE/Pong-v5"))) == "ALE/Pong-v5"
    assert labels.environment(record({"given": "partial"})) is None
    runs = [labels._flatten(("env",), atari(name)) for name in ("ALE/Pong-v5", "ALE/MsPacman-v5")]
    assert labels.tell_apart(runs, ["", ""]) == ["env ALE/Pong-v5", "env ALE/MsPacman-v5"]
    runs = [labels._flatten(("env",), atari("ALE/Pong-v5", img_height=height)) for height in (84, 42)]
    assert labels.tell_apart(runs, ["", ""]) == ["img_height 84", "img_height 42"]


def test_settings_of_one_name_are_told_with_what_they_are_in():
    runs = [{("policy", "epsilon"): text, ("optimizer", "epsilon"): text} for text in "ab"]
    assert labels.tell_apart(runs, ["", ""]) == [
        "policy epsilon a, optimizer epsilon a",
        "policy epsilon b, optimizer epsilon b",
    ]


def test_long_labels_are_cut_and_stay_distinct():
    long = [{"a_setting_of_a_long_name": 4 * letter, "another": i, "n_step": i} for letter in "ab" for i in (1, 5)]
    assert tell_apart(*long[:3]) == [
        "\u2026 another 1, n_step 1",
        "\u2026 another 5, n_step 5",
        "a_setting_of_a_long_name bbbb, \u2026",
    ]
    assert tell_apart(*long) == [
        f"a_setting_of_a_long_name {letters}, another {i}, n_step {i}" for letters in ("aaaa", "bbbb") for i in (1, 5)
    ]
    assert tell_apart({"env": "x" * 60}, {"env": "y" * 60}) == [f"env {35 * 'x'}\u2026", f"env {35 * 'y'}\u2026"]
    assert tell_apart({"env": "x" * 60 + "1"}, {"env": "x" * 60 + "2"}) == [f"env {60 * 'x'}{i}" for i in (1, 2)]
    assert labels.numbered(["a", "a", "b"], taken={"b"}) == ["a", "a (2)", "b (2)"]
