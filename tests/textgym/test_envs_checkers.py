"""The checkers of Gymnasium, Stable-Baselines3 and TorchRL, on a small task and every id."""

from __future__ import annotations

import gymnasium
import pytest
import torch
from envs_support import WordTask, word_tokenizer
from gymnasium.utils.env_checker import check_env

from textgym.envs import ENVS

SMALL = {"task": WordTask(), "tokenizer": word_tokenizer()}
CASES = [pytest.param("textgym/Text-v0", SMALL, id="small")]
CASES += [pytest.param(env_id, {}, id=env_id) for env_id in ENVS]


def make(env_id, options):
    return gymnasium.make(env_id, **options)


@pytest.mark.parametrize(("env_id", "options"), CASES)
@pytest.mark.parametrize("length_limit", ["terminate", "truncate"])
def test_gymnasium(env_id, options, length_limit, capsys):
    check_env(make(env_id, {**options, "length_limit": length_limit}).unwrapped)
    assert capsys.readouterr().out, "human rendering printed nothing"


@pytest.mark.parametrize(("env_id", "options"), CASES)
def test_stable_baselines3(env_id, options):
    from stable_baselines3.common.env_checker import check_env as sb3_check_env

    sb3_check_env(make(env_id, options))


@pytest.mark.parametrize(("env_id", "options"), CASES)
def test_torchrl(env_id, options):
    from torchrl.envs import GymWrapper
    from torchrl.envs.utils import check_env_specs

    check_env_specs(GymWrapper(make(env_id, options)))


def test_stable_baselines3_ppo_learns():
    """On a task it can solve with one token, PPO's reward rises."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.evaluation import evaluate_policy

    torch.set_num_threads(1)

    def says_rain(prompts, completions, **columns):
        return [float(completion.startswith("rain")) for completion in completions]

    env = gymnasium.make("textgym/Text-v0", reward=says_rain, max_response_tokens=1, **SMALL)
    agent = PPO("MultiInputPolicy", env, n_steps=64, batch_size=64, learning_rate=3e-3, seed=0)
    agent.learn(640)
    from stable_baselines3.common.monitor import Monitor

    reward, _ = evaluate_policy(agent, Monitor(env), n_eval_episodes=20)
    assert reward > 0.9, "uniform choice gives 1/9"


@pytest.mark.slow
@pytest.mark.parametrize("env_id", ENVS)
def test_stable_baselines3_ppo_runs_on_the_embedded_tasks(env_id):
    from stable_baselines3 import PPO

    agent = PPO("MultiInputPolicy", gymnasium.make(env_id), n_steps=128, batch_size=64, seed=0)
    agent.learn(256)
    assert agent.num_timesteps == 256
