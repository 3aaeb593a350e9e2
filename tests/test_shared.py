"""What workers share: every update is applied once, and what was published never changes."""

import keras
import numpy as np
from keras import ops
from one_step_runs import make, make_learner, network, random_segment, values


def test_gradient_is_applied_once(random):
    model = network(3, 2, optimizer=keras.optimizers.SGD(0.1))
    learner, shared = make_learner(model)
    segment = random_segment(random)
    before, gradients = values(shared.weights), values(learner._gradient(*shared.read(), *segment)[0])
    learner.learn(segment)
    assert shared.updates == 1
    for i, variable in enumerate(model.variables):
        np.testing.assert_allclose(
            ops.convert_to_numpy(variable.value), before[i] - 0.1 * gradients[i], rtol=1e-5, atol=1e-6
        )
        np.testing.assert_array_equal(values(shared.weights)[i], ops.convert_to_numpy(variable.value))


def test_published_weights_never_change(random):
    model = network(3, 2)
    learner, shared = make_learner(model)
    published = [shared.weights]
    copies = [[array.copy() for array in values(shared.weights)]]
    for _ in range(3):
        learner.learn(random_segment(random))
        published.append(shared.weights)
        copies.append([array.copy() for array in values(shared.weights)])
    for arrays, copied in zip(published, copies, strict=True):
        for array, copy in zip(values(arrays), copied, strict=True):
            np.testing.assert_array_equal(array, copy)
    assert not np.array_equal(copies[0][0], copies[1][0])


def test_moving_averages_are_shared_too(random):
    layers = [keras.layers.BatchNormalization(momentum=0.5), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((3,)), *layers])
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    learner, shared = make_learner(model)
    segment = random_segment(random)
    for _ in range(12):
        learner.learn(segment)
    mean = ops.convert_to_numpy(model.layers[0].moving_mean.value)
    np.testing.assert_allclose(mean, segment.observation[:-1].mean(axis=0), atol=1e-3)
    for variable, published in zip(model.variables, values(shared.weights), strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable.value), published)


def counted(trainer):
    """Keeps the gradients that are sent to be applied."""
    sent, apply = [], trainer.shared.apply

    def keep(gradients, others, metrics):
        sent.append(values(gradients))
        apply(gradients, others, metrics)

    trainer.shared.apply = keep
    return sent


def test_no_update_and_no_step_is_lost():
    trainer = make(model=network(optimizer=keras.optimizers.SGD(1e-2)), workers=4, target_network_update=7)
    before, sent = trainer.model.get_weights(), counted(trainer)
    episodes = []
    target, record = trainer.shared.target, keras.callbacks.LambdaCallback()
    record.on_episode_end = lambda number, logs: episodes.append((number, logs["steps"], logs["episode_length"]))
    trainer.train(403, callbacks=[record], verbose=0)
    assert trainer.steps == trainer.shared.steps == 403
    assert (
        sum(len(worker.environments.actions[0]) for worker in trainer.workers)
        + sum(length for _, _, length in episodes)
        == 403
    )
    assert trainer.shared.refreshes == 403 // 7 and trainer.shared.target is not target
    assert trainer.updates == len(sent) > 60
    for i, variable in enumerate(trainer.model.trainable_variables):
        moved = ops.convert_to_numpy(variable.value) - before[i]
        np.testing.assert_allclose(moved, -1e-2 * sum(gradients[i] for gradients in sent), rtol=1e-3, atol=1e-5)
    assert trainer.episodes == len(episodes) and [number for number, *_ in episodes] == list(range(len(episodes)))
    assert [steps for _, steps, _ in episodes] == sorted(steps for _, steps, _ in episodes)
    assert trainer.learner._gradient.compilations() == trainer.learner._seen_values.compilations() == 1
    trainer.close()
