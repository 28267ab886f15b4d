"""How robust a model is: clean and attacked accuracy, always with the number of examples."""

from sparring.evaluation.robustness import Evaluation, attack_for, evaluate, judge

__all__ = ["Evaluation", "attack_for", "evaluate", "judge"]
