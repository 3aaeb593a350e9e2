"""Actors on a Ray cluster: a real one, on this machine, of several worker processes."""

import gc
import importlib.util
import os
import signal
import warnings

import environments as counting
import pytest
import ray
from test_actor_pool import check_rows, cut_rows, make_trainer, rows_of, wait_until

from sota_dqn import DQNTrainer, RayActors, ray_actors
from sota_dqn.callbacks import Callback


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """A cluster with room for two actors."""
    with warnings.catch_warnings():
        # JAX, where an earlier test has used it, warns of any fork, also of one that at once becomes another program.
        warnings.simplefilter("ignore", RuntimeWarning)
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Ray does not wait for the processes of its cluster
        ray.shutdown()
        gc.collect()


class Kill(Callback):
    """Kills an actor at the end of the first epoch."""

    killed = None

    def on_epoch_end(self, epoch, logs=None):
        if self.killed is None:
            self.killed = self.trainer.actor.processes[0]
            os.kill(self.killed, signal.SIGKILL)


def test_steps_come_through_the_cluster_once_and_in_order(tmp_path, capsys):
    """Two actors, of which one is killed on the way, and a third for which there is no room."""
    trainer = make_trainer(actors=RayActors(3, steps_per_chunk=5, weights_every=8), report_every=300)
    kill = Kill()
    trainer.train(steps=900, callbacks=[kill], verbose=0)
    assert "has died and is started again" in capsys.readouterr().out
    steps, cut = check_rows(rows_of(trainer))
    assert steps + cut_rows(trainer) == trainer.steps >= 900
    assert cut <= 3
    assert trainer.updates > 0
    lag = trainer.history["lag"][-1]
    assert 0 <= lag <= trainer.updates
    trainer.save(tmp_path / "kept")
    trainer.close()
    assert wait_until(lambda: float(ray.available_resources().get("CPU", 0)) == 2)
    loaded = DQNTrainer.load(tmp_path / "kept", env=counting.Counting, actors=RayActors(3))
    assert loaded.steps == trainer.steps
    loaded.close()


def test_what_the_learner_waits_for_is_said(monkeypatch, capsys):
    monkeypatch.setattr(ray_actors, "PATIENCE", 0.1)
    cluster = ray_actors.Cluster(1, num_cpus=50, resources=None)
    cluster.start(0, "never made")
    cluster.collect(0, 8, 0)
    for _ in range(4):
        assert cluster.poll(0.1) == []
    cluster.close()
    said = capsys.readouterr().out
    assert said.count("asks for {'num_cpus': 50} of a machine. The cluster has {") == 1
    assert "'CPU': 2.0" in said


def test_ray_is_not_there(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "sota_dqn\[ray\]"'):
        RayActors(2)


def test_bad_settings():
    with pytest.raises(ValueError, match="Argument `num_cpus` must be finite and at least 0. Received: num_cpus=-1"):
        RayActors(1, num_cpus=-1)
    with pytest.raises(ValueError, match="Argument `number` must be at least 1"):
        RayActors(0)
