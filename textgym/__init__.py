"""TextGym: a gym and benchmark suite for RLHF.

`import textgym` registers the environments and loads neither torch nor transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from textgym.envs import register_envs

if TYPE_CHECKING:
    from textgym.models.policy import load_policy
    from textgym.rollout import rollout
    from textgym.tasks import load_task

__version__ = "0.1.0"
__all__ = ["load_policy", "load_task", "rollout"]

_LAZY = {
    "load_policy": "textgym.models.policy",
    "load_task": "textgym.tasks",
    "rollout": "textgym.rollout",
}

register_envs()


def __getattr__(name: str) -> Any:
    """Imports the heavy names on first use (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module 'textgym' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
