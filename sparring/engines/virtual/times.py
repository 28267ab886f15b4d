"""The time model of the virtual clock: what each part takes at speed 1. Pure; all times in seconds."""

from __future__ import annotations

from sparring.allocators import Allocator
from sparring.attacks import Attack
from sparring.attacks.augmix import Threat
from sparring.config import VirtualSettings


def attack_step_s(model: VirtualSettings, examples: int) -> float:
    """An attack step on so many examples."""
    return model.attack_s + model.attack_example_s * examples if examples else 0.0


def forward_s(model: VirtualSettings, examples: int) -> float:
    """A clean forward pass."""
    return model.forward_s + model.forward_example_s * examples


def prepare_s(model: VirtualSettings, attack: Threat, allocator: Allocator | None, examples: int) -> float:
    """The clean pass of a ticket, where the allocator or the attack's loss needs one."""
    clean = isinstance(attack, Attack) and attack.maximised.needs_clean
    return forward_s(model, examples) if allocator is not None or clean else 0.0


def step_s(model: VirtualSettings, examples: int) -> float:
    """A training step of one device."""
    return model.step_s + model.step_example_s * examples


def allreduce_s(model: VirtualSettings, ranks: int, size_bytes: int) -> float:
    """The sum of gradients of `size_bytes` over `ranks`, by a ring: 2·(R − 1) messages of size/R, one after the
    other."""
    return 2 * (ranks - 1) * (model.message_s + size_bytes / ranks / model.bandwidth)
