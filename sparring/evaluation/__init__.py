"""Evaluate a model: clean and robust accuracy, always with the number of examples."""

from sparring.evaluation.robustness import Evaluation, attack_for, evaluate, evaluate_by
from sparring.evaluation.views import evaluate_views

__all__ = ["Evaluation", "attack_for", "evaluate", "evaluate_by", "evaluate_views"]
