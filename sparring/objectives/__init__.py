"""What training minimises: pure functions of logits, and the forward passes they need."""

from sparring.objectives.losses import jsd, kl_divergence, mart, pgd_at, trades
from sparring.objectives.passes import augmix_loss, training_loss

__all__ = ["augmix_loss", "jsd", "kl_divergence", "mart", "pgd_at", "trades", "training_loss"]
