"""Every error a user can cause, typed; each message is one line: expected, actual, a way out."""

from __future__ import annotations


class TextGymError(Exception):
    """Base of every error below. The command line prints it as one line and exits with status 2."""


class UnknownNameError(TextGymError, LookupError):
    """A name (task, agent, reward, metric, suite) that no registry knows."""


class ConfigError(TextGymError, ValueError):
    """A setting outside its domain: n < 1, a negative KL coefficient, an unknown option."""


class DataError(TextGymError, ValueError):
    """A data set without the needed column or split, or with an empty split."""


class ModelError(TextGymError, ValueError):
    """A folder or Hub id that holds no causal language model or tokenizer."""


class PromptTooLongError(TextGymError, ValueError):
    """A prompt that does not fit its window."""


class InvalidActionError(TextGymError, ValueError):
    """An action outside the vocabulary, or one that the action mask forbids."""


class EpisodeOverError(TextGymError, RuntimeError):
    """A step before the first reset or after the episode has ended."""


class RewardError(TextGymError, ValueError):
    """A reward function that returned NaN, an infinity, or the wrong number of values."""


class BudgetError(TextGymError, RuntimeError):
    """More completions sampled than the budget allows."""


class TrainingError(TextGymError, RuntimeError):
    """A loss or gradient that is not finite; carries the step it happened at."""

    def __init__(self, step: int, cause: str) -> None:
        super().__init__(f"step {step}: {cause}")
        self.step = step
        self.cause = cause

    def __reduce__(self) -> tuple[type[TrainingError], tuple[int, str]]:
        # Exceptions cross process borders by their args; ours differ from the message.
        return (type(self), (self.step, self.cause))


class PluginError(TextGymError, TypeError):
    """A plug-in that cannot be imported or lacks a method of the interface."""


class FeedbackError(TextGymError, ValueError):
    """A question that cannot be asked, an answer that cannot be, or one already given."""


class StoreError(TextGymError, OSError):
    """A store of feedback that cannot be opened, read or written."""


class ResultsError(TextGymError, OSError):
    """A results folder that cannot be read or written."""


class BusyError(TextGymError, RuntimeError):
    """Something that another process is making at this moment."""


class ProcessDiedError(TextGymError, RuntimeError):
    """A job whose process was killed or ended itself before the job was done."""

    @property
    def cause(self) -> str:
        """What became of the process."""
        return str(self)
