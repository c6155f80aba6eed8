"""The report on a reward: how far it can be trusted, in numbers, words and pictures.

`measure_reward` gives the numbers, `write_report` the pages; `command` does both from files.
"""

from textgym.feedback.report.report import RewardReport, measure_reward
from textgym.feedback.report.writing import write_report

__all__ = ["RewardReport", "measure_reward", "write_report"]
