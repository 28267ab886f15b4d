"""Training objectives: losses as pure functions of logits, and objectives, which make the forward passes.

TRADES in a loop of your own:

    adv = PGD(epsilon=8 / 255, steps=10, start="gaussian", loss="kl")(model, images, labels)
    loss = trades(model(images), model(adv), labels, beta=6.0)
"""

from sparring.objectives.losses import jsd, kl_divergence, mart, pgd_at, trades, weighted_mean
from sparring.objectives.objective import Batch, Helper, Objective

__all__ = ["Batch", "Helper", "Objective", "jsd", "kl_divergence", "mart", "pgd_at", "trades", "weighted_mean"]
