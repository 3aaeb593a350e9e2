"""Which policy acts where and when, what is logged of it, and that a run with mixtures resumes."""

import numpy as np
import pytest
from keras import ops
from runs import assert_same, make

from sota_dqn import DQNTrainer, callbacks
from sota_dqn.policies import AdvSwitch, EpsilonGreedy, Greedy, Mixture, Random, Switching

ALL, NONE = np.array([True, True]), np.array([False, False])


def always(action):
    """Returns a policy."""
    return lambda values, uniform, step: ops.full(ops.shape(values)[:1], action, "int32")


def started(selection, num_envs=2, seed=0):
    selection.start(num_envs, np.random.default_rng(seed))
    return selection


def test_switching():
    policy = started(Switching(Greedy(), Random(), 1.0))
    choices = [policy.select(begun, np.zeros(2), 0).tolist() for begun in (ALL, NONE, NONE, np.array([True, False]))]
    assert choices == [[0, 0], [1, 1], [0, 0], [0, 1]]
    never = started(Switching(Greedy(), Random(), 0))
    assert not any(never.select(NONE, np.zeros(2), 0).any() for _ in range(20))


def test_switching_by_its_probability():
    policy = started(Switching(Greedy(), Random(), 0.25), num_envs=100)
    every = np.array([policy.select(np.zeros(100, bool), np.zeros(100), 0) for _ in range(401)])
    assert (every[1:] != every[:-1]).mean() == pytest.approx(0.25, abs=0.01)


def test_adv_switch():
    policy = started(AdvSwitch(Greedy(), Random(), margin=10, memory=2))
    lengths = np.array([15, 5_000])
    assert policy.select(ALL, np.zeros(2), 0).tolist() == [0, 0]
    assert policy.select(NONE, lengths, 0).tolist() == [0, 0]  # it has seen no episode
    policy.ended(0, 25)
    assert policy.select(NONE, lengths, 0).tolist() == [0, 0]  # these episodes began before
    assert policy.select(ALL, np.zeros(2), 0).tolist() == [0, 0]
    assert policy.select(NONE, lengths, 0).tolist() == [1, 1]
    assert policy.select(NONE, np.array([14, 16]), 0).tolist() == [0, 1]
    for length in (60, 80):  # 25 is forgotten
        policy.ended(0, length)
    drawn = set()
    for _ in range(30):
        policy.select(ALL, np.zeros(2), 0)
        drawn |= set(policy.switches)
    assert drawn == {50, 70}


def test_a_mixture_draws_by_its_weights():
    mixture = started(Mixture({"a": always(0), "b": always(1), "c": always(2)}, {"a": 1, "c": 3}), num_envs=20_000)
    share = np.bincount(mixture.select(np.ones(20_000, bool), np.zeros(20_000), 0), minlength=3) / 20_000
    np.testing.assert_allclose(share, [0.25, 0, 0.75], atol=0.01)
    assert mixture.name(0) in ("a", "c")


def test_a_mixture_assigns_where_episodes_begin():
    mixture = started(Mixture({"a": always(0), "b": always(1)}), num_envs=50)
    before = mixture.select(np.ones(50, bool), np.zeros(50), 0)
    assert set(before) == {0, 1}
    np.testing.assert_array_equal(mixture.select(np.zeros(50, bool), np.ones(50), 0), before)
    begun = np.arange(50) < 25
    after = mixture.select(begun, np.ones(50), 0)
    np.testing.assert_array_equal(after[25:], before[25:])
    assert (after[:25] != before[:25]).any()


def test_the_schedule_switches_at_its_steps():
    mixture = Mixture({"a": always(0), "b": always(1)}, {0: {"a": 1}, 100: {"b": 2}, 300: {"a": 1, "b": 1}})
    for step, weights in (
        (0, [1, 0]),
        (99, [1, 0]),
        (100, [0, 1]),
        (299, [0, 1]),
        (300, [0.5, 0.5]),
        (9e9, [0.5, 0.5]),
    ):
        np.testing.assert_array_equal(mixture.weights(step), weights)


def test_what_a_mixture_holds_decides_for_itself():
    mixture = Mixture(
        {
            "plain": always(0),
            "late": AdvSwitch(always(1), always(2), margin=10, reference="plain"),
            "switching": Switching(always(3), always(4), 1.0),
        },
        {0: {"plain": 1}, 10: {"late": 1}, 20: {"switching": 1}},
    )
    started(mixture)
    assert len(mixture.parts) == 5
    assert mixture.select(ALL, np.zeros(2), 0).tolist() == [0, 0]
    mixture.ended(0, 30)  # the plain policy's, which the late one refers to
    assert mixture.select(ALL, np.zeros(2), 10).tolist() == [1, 1]
    assert mixture.select(NONE, np.array([19, 20]), 10).tolist() == [1, 2]
    mixture.ended(0, 500)  # its own do not count
    assert list(mixture.policies[1].seen) == [30]
    assert mixture.select(ALL, np.zeros(2), 20).tolist() == [3, 3]
    assert mixture.select(NONE, np.ones(2), 20).tolist() == [4, 4]


def mixed():
    return Mixture(
        {
            "greedy": Greedy(),
            "late": AdvSwitch(Greedy(), EpsilonGreedy(0.1), reference="greedy"),
            "turns": Switching(Random(), Greedy(), 0.3),
            "random": Random(),
        },
        {0: {"random": 1}, 120: {"greedy": 1, "late": 1, "turns": 1}},
    )


def test_restoring_replaces_the_lengths_that_were_seen():
    before, after = (started(AdvSwitch(Greedy(), Random(), memory=5)) for _ in range(2))
    for length in (12, 20):
        before.ended(0, length)
    after.ended(0, 99)
    for _ in range(2):
        after.restore(before.state())
        assert list(after.seen) == [12, 20] and after.seen.maxlen == 5


def test_training_with_a_mixture():
    trainer = make(policy=mixed())
    heard = []

    class Listener(callbacks.Callback):
        def on_episode_end(self, episode, logs=None):
            heard.append(logs)

    trainer.train(2_400, callbacks=[Listener()], verbose=0)
    played = {name: [x for x in heard if x["policy"] == name] for name in trainer.policy.names}
    assert all(played.values())
    assert played["random"][0] is heard[0]
    total = len(trainer.history["steps"])
    for name, episodes in played.items():
        logged = trainer.history[f"episode_return/{name}"]
        assert len(logged) == total
        for epoch, value in enumerate(logged):
            mine = [x["episode_return"] for x in episodes if epoch * 60 < x["steps"] <= (epoch + 1) * 60]
            np.testing.assert_equal(value, np.mean(mine) if mine else np.nan)
        assert set(trainer.history[f"episode_length/{name}"]) != {np.nan}
    assert list(trainer.policy.policies[1].seen) == [x["episode_length"] for x in played["greedy"]]


@pytest.mark.parametrize(
    "policy", [mixed, lambda: AdvSwitch(Greedy(), Random()), lambda: Switching(Greedy(), Random(), 0.2)]
)
def test_saved_and_loaded(policy, tmp_path):
    never_stopped = make(policy=policy())
    never_stopped.train(300, verbose=0)
    never_stopped.save(tmp_path)
    never_stopped.train(300, verbose=0)
    resumed = DQNTrainer.load(tmp_path)
    resumed.train(300, verbose=0)
    assert_same(never_stopped, resumed)
    assert never_stopped.policy.state() == resumed.policy.state()


def other_names():
    return Mixture({"one": Greedy(), "two": Switching(Greedy(), Random(), 1.0), "three": Random(), "four": Greedy()})


def late():
    return AdvSwitch(Greedy(), Random())


def turns():
    return Switching(Greedy(), Random(), 0.2)


@pytest.mark.parametrize(
    ("before", "after"),
    [(mixed, turns), (mixed, late), (mixed, other_names), (late, turns), (late, mixed), (turns, late), (turns, mixed)],
)
def test_another_selection_than_the_checkpoints_begins_anew(before, after, tmp_path):
    trainer = make(policy=before())
    trainer.train(30, verbose=0)
    trainer.save(tmp_path)
    resumed = DQNTrainer.load(tmp_path, policy=after())
    assert resumed.policy.state() == started(after(), num_envs=4).state()
    assert resumed.actor.lengths.any()  # in the middle of episodes
    resumed.train(30, verbose=0)
    if before is mixed and after is other_names:
        assert resumed.policy.assigned.min() >= 0  # drawn for the running episodes too


def test_inside_a_mixture_only_what_differs_begins_anew():
    def mixture(inside):
        return started(Mixture({"plain": always(0), "inside": inside}))

    before = mixture(Switching(always(1), always(2), 1.0))
    before.assigned[:], before.policies[1].acting[:] = [1, 0], [1, 1]
    same, other = mixture(Switching(always(1), always(2), 1.0)), mixture(AdvSwitch(always(1), always(2)))
    plain = mixture(always(1))
    for after in (same, other, plain):
        after.restore(before.state())
        assert after.assigned.tolist() == [1, 0]
    assert same.policies[1].acting.tolist() == [1, 1]
    assert other.policies[1].switches.tolist() == [np.inf, np.inf]
    same.restore(plain.state())
    assert same.policies[1].acting.tolist() == [1, 1]


def test_adv_switch_with_a_reference_is_for_a_mixture():
    message = "`reference` must be None outside of a `Mixture`, whose policies it names. Received: reference='x'"
    made = []
    with pytest.raises(ValueError, match=message):
        make(lambda: made.append(1), policy=AdvSwitch(Greedy(), Random(), reference="x"))
    assert not made  # arguments are checked before any work


def test_of_two_parts_the_chosen_one_acts():
    trainer = make(policy=Switching(always(1), always(0), 1.0), num_envs=3)
    actions = [ops.convert_to_numpy(trainer.actor.choose(0)).tolist() for _ in range(1)]
    trainer.actor.begun[:] = False
    actions += [ops.convert_to_numpy(trainer.actor.choose(0)).tolist() for _ in range(2)]
    assert actions == [[1, 1, 1], [0, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize(
    ("make_policy", "error", "message"),
    [
        (lambda: Mixture([Greedy()]), TypeError, "`policies` must be a dict of names and policies"),
        (lambda: Mixture({}), TypeError, "`policies` must be a dict of names and policies"),
        (lambda: Mixture({"a": 3}), TypeError, "Mixture is made of functions of values. Received: 3"),
        (lambda: Mixture({"a": Mixture({"b": Greedy()})}), TypeError, "A mixture has no mixtures in it"),
        (
            lambda: Mixture({"a": Greedy()}, {"a": 0}),
            ValueError,
            "sum to more than 0. Received: {'a': 0} from step 0 on",
        ),
        (lambda: Mixture({"a": Greedy()}, {"a": -1}), ValueError, "must be at least 0 and finite"),
        (lambda: Mixture({"a": Greedy()}, {"b": 1}), ValueError, r"must name policies among \('a',\). Received: 'b'"),
        (lambda: Mixture({"a": Greedy()}, {5: {"a": 1}}), ValueError, "of environment steps from 0 on. Received: "),
        (lambda: Mixture({"a": Greedy()}, [1]), TypeError, r"`weights` must be a dict. Received: weights=\[1\]"),
        (
            lambda: Mixture({"a": AdvSwitch(Greedy(), Random(), reference="b")}),
            ValueError,
            r"`reference` must be one of \('a',\). Received: reference='b'",
        ),
        (
            lambda: Mixture(dict.fromkeys(["a", "b"], Switching(Greedy(), Random(), 1.0))),
            ValueError,
            "a Switching of its own under each name. Received: the same one as 'a' and 'b'",
        ),
        (
            lambda: Switching(Greedy(), Switching(Greedy(), Random(), 1.0), 1.0),
            TypeError,
            "Switching is made of functions",
        ),
        (lambda: Switching(Greedy(), Random(), 1.5), ValueError, "between 0 and 1. Received: probability=1.5"),
        (lambda: Switching(Greedy(), Random(), "a"), TypeError, "`probability` must be a number"),
        (lambda: AdvSwitch(Greedy(), Random(), margin=0), ValueError, "`margin` must be at least 1"),
    ],
)
def test_bad_arguments(make_policy, error, message):
    with pytest.raises(error, match=message):
        make_policy()


def test_one_belongs_to_one_trainer():
    policy = Switching(Greedy(), Random(), 0.5)
    make(policy=policy)
    with pytest.raises(ValueError, match="Argument `policy` already belongs to another trainer: make one for each."):
        make(policy=policy)
