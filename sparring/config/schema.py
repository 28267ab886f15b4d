"""Every setting of a run, with its unit, bounds and default. Nothing is configured anywhere else.

The defaults are those of the demo: handwritten digits, a small network, two workers.
"""

from __future__ import annotations

import os
import tomllib
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

MAX_WORKERS = 10_000


class Settings(BaseModel):
    """A group of settings. Unknown names are refused; an instance is immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


def setting(default: Any, unit: str, **bounds: Any) -> Any:
    """A field with a unit; `bounds` are pydantic's (ge, gt, le, lt)."""
    return Field(default=default, json_schema_extra={"unit": unit}, **bounds)


def _toml_values(options: dict[str, Any]) -> dict[str, Any]:
    """The options as values that TOML can hold, so that a recorded run reads back the same. None unsets an option."""
    invalid = [name for name in options if not name.isidentifier()]
    if invalid:
        raise ValueError(f"{invalid[0]!r} is not a valid name of a keyword argument")
    return {name: _toml_value(name, value) for name, value in options.items() if value is not None}


def _toml_value(name: str, value: Any) -> Any:
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _toml_value(name, inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_toml_value(name, inner) for inner in value]
    if isinstance(value, (str, bool, int)) or (isinstance(value, float) and isfinite(value)):
        return value
    raise ValueError(f"{name} must be a string, flag, finite number, list or table, not {value!r}")


Options = Annotated[dict[str, Any], AfterValidator(_toml_values)]
Channels = float | tuple[float, ...]


class RunSettings(Settings):
    root: Path = setting(Path("runs"), "path")
    """Folder in which run folders are created."""
    name: str | None = setting(None, "name", pattern=r"^\w([\w .,+=@()-]{0,78}[\w.+=@)-])?$")
    """Name of the run's folder; by default the time, the dataset and the engine. An existing folder is refused, never
    overwritten."""


class PhaseSettings(Settings):
    until: float = setting(..., "share of training", gt=0, lt=1)
    """End of the phase, as a share of all epochs, rounded to whole epochs."""
    size: int = setting(..., "pixels", ge=1, le=4096)
    """Training images of the phase are size × size."""


class DataSettings(Settings):
    name: str = setting("digits", "name")
    """digits, mnist, fashion_mnist, cifar10, cifar100, svhn, folder:PATH (ImageFolder), npz:PATH, or your own as
    module:factory or path.py:factory. The factory is called with split ("train" or "test"), with root if it has such a
    parameter, and with data.options. It returns a torch Dataset of (image, label), or a pair of arrays (images,
    labels)."""
    options: Options = setting({}, "table")
    """Keyword arguments of that factory, as data.options.NAME."""
    root: Path | None = setting(None, "path")
    """Folder that holds torchvision's datasets, or into which they are downloaded. The digits need none."""
    download: bool = setting(True, "flag")
    """Let torchvision download missing files."""
    holdout: int = setting(0, "examples", ge=0)
    """Number of training examples that are held out and never trained on: for tuning, and for choosing the best
    checkpoint. They are the same for every seed."""
    limit: int | None = setting(None, "examples", ge=1)
    """Use only `limit` training examples, for a quick try. They are drawn at random, each class in its share; the same
    for every seed."""
    size: int | None = setting(None, "pixels", ge=1, le=4096)
    """Bring every image to size × size. Test images: a centred square is cut out and resized. Training images: see
    data.augment. By default images keep their size; those of a folder are resized to the size of the first."""
    centre_share: float = setting(1.0, "share of the shorter side", gt=0, le=1)
    """Side of the centred square, relative to the shorter side of the image. 0.875 is usual on ImageNet."""
    phases: tuple[PhaseSettings, ...] = setting((), "list of {until, size}")
    """Training images that grow during training (Wong et al.): each phase has its own size; after the last phase the
    size is data.size. `until` must rise from phase to phase. The model must accept every size."""
    mean: Channels | None = setting(None, "pixel intensity, images in [0, 1]")
    """Normalise the input of the model: (x − mean) / std. One number, or one per channel. For networks that do not
    normalise inside. Of the built-in networks only mnist-32-64-1024 and mnist-16-32-100 do not. By default the input
    is not changed."""
    std: Channels | None = setting(None, "pixel intensity, images in [0, 1]")
    """Standard deviation of that normalisation. Set it together with data.mean."""
    augment: Literal["none", "crop_flip", "crop", "resized_crop_flip"] = setting("none", "name")
    """Seeded augmentation per example. crop: pad by 4 pixels and crop at random; crop_flip: also mirror half of the
    images; resized_crop_flip: crop 8 to 100 % of the area with an aspect ratio of 3/4 to 4/3, resize, and mirror half
    (needs data.size)."""
    extra: str | None = setting(None, "name")
    """Synthetic or pseudo-labelled images that are mixed into every batch. npz:FILE is loaded into the memory of each
    process. npz:FOLDER with images.npy and labels.npy is memory-mapped: it stays on disk and all processes of a host
    share it."""
    extra_fraction: float = setting(0.7, "share of a batch", gt=0, lt=1)
    """Share of every batch that comes from data.extra: round(share · b) of b examples. An epoch is one pass over the
    other examples."""

    @field_validator("phases")
    @classmethod
    def _one_after_another(cls, phases: tuple[PhaseSettings, ...]) -> tuple[PhaseSettings, ...]:
        if any(one.until >= two.until for one, two in pairwise(phases)):
            raise ValueError("must rise in until")
        return phases

    @field_validator("std")
    @classmethod
    def _above_zero(cls, std: Channels | None) -> Channels | None:
        if std is not None and any(value <= 0 for value in (std if isinstance(std, tuple) else (std,))):
            raise ValueError("must be above 0")
        return std

    @field_validator("mean")
    @classmethod
    def _of_images(cls, mean: Channels | None) -> Channels | None:
        if mean is not None and not all(0 <= value <= 1 for value in (mean if isinstance(mean, tuple) else (mean,))):
            raise ValueError("must be in [0, 1], as images are; divide a mean and a std in grey levels by 255")
        return mean

    @property
    def normalize(self) -> tuple[Channels, Channels] | None:
        """Mean and standard deviation of the model's input normalisation; None where they are not set."""
        return None if self.mean is None or self.std is None else (self.mean, self.std)

    @model_validator(mode="after")
    def _mean_with_std(self) -> DataSettings:
        if (self.mean is None) != (self.std is None):
            raise ValueError("data.mean and data.std must be set together, or neither of them")
        return self


class ModelSettings(Settings):
    name: str = setting("digits-cnn", "name")
    """digits-cnn, mnist-32-64-1024 (Bhat et al.), mnist-16-32-100 (Wong et al.); for CIFAR preact-resnet-18 (the
    form of TRADES and AWP), preact-resnet-18-wong (Wong et al.'s form), wrn-28-10, wrn-28-10-silu, wrn-34-10, wrn-40-2
    and, small enough for a processor, cifar10-32-64-128; for ImageNet resnet-50; timm:NAME (pip install
    'sparring[timm]'); or your own as module:factory or path.py:factory, called as factory(shape, classes) with
    model.options. The model takes float32 images in [0, 1] and normalises inside forward (sparring.Normalize, or
    data.mean and data.std)."""
    options: Options = setting({}, "table")
    """Keyword arguments of that factory, or of timm's, as model.options.NAME. wrn-40-2 has one: centred (true: mean and
    standard deviation 0.5, as in AugMix's code)."""
    pretrained: bool = setting(False, "flag")
    """Start from the pretrained weights that timm downloads for timm:NAME."""
    checkpoint: Path | None = setting(None, "path")
    """Start from these weights: a run folder (its last checkpoint), a checkpoint folder, a .safetensors file, or a
    torch file that holds a state dict. It is read once, on the host where the run starts. A classification head with
    another number of classes is not loaded: it is initialised at random."""
    precision: Literal["fp32", "bf16", "fp16"] = setting("fp32", "name")
    """Precision of the forward and backward passes of training and attacks, under torch.autocast. Weights, losses,
    projections and every evaluation stay in float32. fp16 uses gradient scaling. Meant for GPUs: on most CPUs bf16 and
    fp16 are slower than fp32."""
    channels_last: bool = setting(False, "flag")
    """Use the channels-last memory format for weights and images in training and attacks. GPUs are faster with it in
    bf16 and fp16."""
    compile: bool = setting(False, "flag")
    """Use torch.compile for the model in training and attacks. Each process needs about a minute more at its start.
    Needs a C++ compiler."""


class AttackSettings(Settings):
    name: str = setting("pgd", "name")
    """pgd: `steps` steps of 2.5·ε/steps from a random start (Bhat et al.); fgsm: one step of ε from zero (1.25·ε from
    any other start); fgsm-rs: one step of 1.25·ε from a random start (Wong et al.); n-fgsm: one step of ε from uniform
    noise of radius `noise`·ε, without projection to the ball of ε (de Jorge et al. 2022); augmix: two AugMix views of
    each image instead of an attack; or your own as module:object or path.py:object (docs/extending.md)."""
    options: Options = setting({}, "table")
    """Keyword arguments of an attack of your own, as attack.options.NAME."""
    norm: Literal["linf", "l2"] = setting("linf", "name")
    """Norm of the ball that bounds every perturbation."""
    epsilon: float = setting(0.2, "pixel intensity, images in [0, 1]", gt=0, le=1000)
    """Radius ε of the ball."""
    steps: int = setting(8, "gradient steps", ge=1, le=1000)
    """Number of attack steps κ. The FGSM attacks always take one."""
    noise: float = setting(2.0, "1", gt=0, le=10)
    """k of n-fgsm: its start is uniform within k·ε, so its perturbations have a radius of up to (1 + k)·ε."""
    step_size: float | None = setting(None, "pixel intensity", gt=0, le=1000)
    """Step size α at the full ε; during the warm-up of ε it grows with ε. By default the rule of the attack's
    paper."""
    start: Literal["auto", "zero", "uniform", "gaussian", "previous", "last"] = setting("auto", "name")
    """Starting point of the attack. zero: the image itself; uniform: uniform in the ball; gaussian: the image plus
    0.001·N(0, 1), as in trades and mart; previous: the final perturbations of the previous batch, row by row (Wong et
    al.; not with engine ray); last: the final perturbation of the same example in the epoch before; auto: as in the
    paper of the attack or objective."""
    clamp_start: bool | None = setting(None, "flag")
    """Clamp the image to [0, 1] at the start, before the first step. By default false for fgsm-rs and the gaussian
    start, true for the others. For fgsm-rs Wong et al.'s MNIST code does not, and their CIFAR code does; on MNIST a
    clamped start leads to catastrophic overfitting. After the last step the image is always clamped."""
    loss: Literal["auto", "ce", "kl"] = setting("auto", "name")
    """Loss that the attack maximises. ce: cross-entropy with the label; kl: KL divergence from the prediction on the
    clean image; auto: kl for trades, ce for the others."""
    restarts: int = setting(1, "attempts", ge=1, le=100)
    """Number of independent starts. For each example the perturbation with the highest loss is kept."""
    warmup: float = setting(0.3, "share of training", ge=0, le=1)
    """Share of all steps over which ε grows linearly from 0. Without a warm-up a small network can stay at a loss of
    ln(classes)."""
    warmup_epochs: float | None = setting(None, "epochs", ge=0)
    """The same as a number of epochs, which takes the place of attack.warmup. A run that ends before it has not reached
    ε; this is said at its start and beside its figures."""


class ObjectiveSettings(Settings):
    name: str = setting("pgd-at", "name")
    """Training objective. pgd-at: cross-entropy on attacked examples (Bhat et al.); trades: clean cross-entropy plus β
    times the KL divergence between clean and attacked predictions; mart: the same, weighted by misclassification;
    augmix: clean cross-entropy plus the Jensen-Shannon divergence between the predictions on an image and on its two
    views; grad-align: cross-entropy on attacked examples plus λ times 1 − cosine of the gradients by the image at two
    points of the ball (Andriushchenko & Flammarion 2020); or your own as module:object or path.py:object
    (docs/extending.md)."""
    options: Options = setting({}, "table")
    """Keyword arguments of an objective of your own, as objective.options.NAME."""
    beta: float = setting(6.0, "1", ge=0, le=1000)
    """β of trades and mart: 6 is usual for WRN on CIFAR-10, 1 for trades on MNIST, 5 for mart with ResNet-18."""
    passes: Literal["auto", "reference", "single_pass"] = setting("auto", "name")
    """Forward passes of a training step. reference: as many and in the same order as in the authors' code, which
    matters for batch norm (for trades with awp_gamma that is AWP's code: the attacked images come first); single_pass:
    one pass over the clean batch, and one over those attacked images (or views) that differ from the clean ones; auto:
    single_pass with an allocator that leaves examples clean, else reference."""
    label_smoothing: float = setting(0.0, "1", ge=0, lt=1)
    """Label smoothing of the cross-entropy of pgd-at, and of the clean cross-entropy of trades."""
    align_lambda: float = setting(0.2, "1", ge=0, le=1000)
    """λ of grad-align. Its authors use 0.2 at ε = 8/255 and 2.0 at 16/255 on CIFAR-10, 2.5 at 8/255 on SVHN."""
    awp_gamma: float = setting(0.0, "1", ge=0, le=1)
    """γ of adversarial weight perturbation (Wu et al. 2020), relative to each layer's norm. 0 switches it off. Its
    authors use 0.01 for pgd-at and 0.005 for trades."""
    awp_warmup_epochs: int = setting(0, "epochs", ge=0)
    """Number of epochs before adversarial weight perturbation begins. Its authors use 10 for trades and 0 for
    pgd-at."""


class AugmixSettings(Settings):
    width: int = setting(3, "chains", ge=1, le=10)
    """Number of chains of operations that are mixed into a view."""
    depth: int | None = setting(None, "operations", ge=1, le=10)
    """Operations per chain; by default 1, 2 or 3, drawn for each chain."""
    severity: float = setting(3.0, "levels", ge=1, le=10)
    """The level of an operation is uniform in [0.1, severity]. 10 is its whole range."""
    weight: float = setting(12.0, "1", ge=0, le=1000)
    """Weight of the Jensen-Shannon divergence in the loss. With 0 the loss is the cross-entropy of one view alone."""


class AllocatorSettings(Settings):
    name: str = setting("none", "name")
    """How attack steps are divided among the examples. none: all get the same; bullettrain: by signed variance (Hua et
    al.); oracle: by the outcome of ten PGD steps, for analysis only because it costs more than it saves; or your own
    as module:object or path.py:object (docs/extending.md)."""
    options: Options = setting({}, "table")
    """Keyword arguments of an allocator of your own, as allocator.options.NAME."""
    boundary_steps: int | None = setting(None, "gradient steps", ge=0, le=1000)
    """N_B, attack steps on boundary examples, each of size attack.step_size·attack.steps/N_B, so that they go as far as
    the whole attack; by default attack.steps. 0 leaves them clean."""
    robust_steps: int = setting(2, "gradient steps", ge=0, le=1000)
    """N_R, attack steps on robust examples, each of size 1.7·ε/N_R. 0 leaves them clean."""
    outlier_steps: int = setting(0, "gradient steps", ge=0, le=1000)
    """N_O, attack steps on outliers (misclassified without an attack), each of size 1.7·ε/N_O. 0 leaves them clean."""
    gamma: float = setting(0.8, "1", gt=0, le=1)
    """γ: the share of examples that are treated as robust, F_R, follows γ times the robust accuracy of the training
    batches."""
    momentum: float = setting(0.9, "1", ge=0, lt=1)
    """p, the momentum of F_R (the paper does not state it)."""
    slots: Literal["auto"] | Annotated[int, Field(ge=0, le=65536)] = setting("auto", "slots")
    """Number of slots of the attack batch, which has a fixed shape: when an example has finished its steps, its slot is
    refilled from the next ticket. 0: each ticket is attacked alone, in a batch that shrinks; auto: train.batch_size
    slots on GPU workers, else 0."""
    hold_back: bool = setting(True, "flag")
    """With slots: examples with few steps start late, so that they finish together with the other examples of their
    ticket and use equally new weights. About an eighth of the slots is then idle. Without it a shard is as old as its
    example that finished first."""


class OptimizerSettings(Settings):
    name: Literal["sgd", "adam", "adamw"] = setting("adam", "name")
    """Optimizer."""
    lr: float = setting(0.002, "1", gt=0, le=100)
    """Peak learning rate."""
    momentum: float = setting(0.9, "1", ge=0, lt=1)
    """Momentum of SGD."""
    nesterov: bool = setting(False, "flag")
    """Use Nesterov momentum (sgd only, with momentum above 0)."""
    weight_decay: float = setting(0.0, "1", ge=0, le=10)
    """Weight decay (L2 for sgd and adam, decoupled for adamw)."""
    decay_norm: bool = setting(True, "flag")
    """Apply weight decay also to the scales and shifts of normalisation layers. false: do not, as in Wong et al.'s
    ImageNet recipe. Biases of other layers decay in both cases."""
    beta1: float = setting(0.9, "1", ge=0, lt=1)
    """β₁ of Adam and AdamW."""
    beta2: float = setting(0.999, "1", ge=0, lt=1)
    """β₂ of Adam and AdamW."""

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> OptimizerSettings:
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            raise ValueError("optimizer.nesterov needs optimizer.name = 'sgd' and optimizer.momentum above 0")
        return self


class ScheduleSettings(Settings):
    name: str = setting("one_cycle", "name")
    """Learning-rate schedule. constant; piecewise: lowered at each milestone; cyclic: linear from 0 to the peak and
    back to 0 (Wong et al.); one_cycle: cosine from peak/25 to the peak, then to peak/250000; cosine: from the peak to
    0; linear: straight lines through schedule.options.points, pairs [share of training, share of the peak]; or your own
    as module:factory or path.py:factory, which returns rate(peak, progress)."""
    options: Options = setting({}, "table")
    """Keyword arguments of that factory, as schedule.options.NAME. peak_at, milestones and factor are passed too if
    the factory has such parameters."""
    peak_at: float = setting(0.4, "share of training", gt=0, lt=1)
    """When cyclic and one_cycle reach the peak."""
    milestones: tuple[float, ...] = setting((0.5, 0.75), "share of training")
    """When piecewise lowers the learning rate."""

    @field_validator("milestones")
    @classmethod
    def _rising(cls, milestones: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < share < 1 for share in milestones) or list(milestones) != sorted(set(milestones)):
            raise ValueError("must be shares of training between 0 and 1, in rising order")
        return milestones

    factor: float = setting(0.1, "1", gt=0, le=1)
    """Factor by which piecewise multiplies the learning rate at each milestone."""


class TrainSettings(Settings):
    epochs: int = setting(30, "epochs", ge=1, le=100_000)
    """Number of passes over the training set. In each epoch every example is trained on exactly once (but see
    train.replays)."""
    max_steps: int | None = setting(None, "steps", ge=1)
    """Stop after this number of steps, even inside an epoch. Schedules do not depend on it."""
    batch_size: int = setting(64, "examples per shard", ge=1, le=65536)
    """Number of examples b that are attacked together: the size of a shard. The last shard of an epoch takes what is
    left; a single example that is left joins the shard before it."""
    shards_per_step: int = setting(1, "shards", ge=1, le=4096)
    """Number of shards M per training step: a step trains on M·b examples."""
    replays: int = setting(1, "steps per batch", ge=1, le=1000)
    """m of Free adversarial training. Above 1 every batch is trained on m times in a row, each backward pass updates
    both the perturbation and the weights, and the number of epochs is divided by m, rounded up. Needs engine sync,
    objective pgd-at and attack fgsm."""
    seed: int = setting(0, "1", ge=0, lt=2**31)
    """Seed. Random numbers depend on the seed, the epoch and the ticket, never on the worker or on time."""
    gradient_clip: float | None = setting(None, "L2 norm", gt=0)
    """Largest norm of the gradient of the weights; a longer one is clipped."""
    ema: float | None = setting(None, "1", gt=0, lt=1)
    """Decay of an exponential moving average of the weights, after a warm-up. The average is evaluated separately, and
    the best checkpoint is chosen by it. Wang et al. 2023 use 0.995. By default there is no average."""
    evaluate_every_epochs: float = setting(0.0, "epochs", ge=0)
    """Epochs between evaluations of clean and PGD-10 accuracy on held-out examples. 0: never. Needs data.holdout."""
    evaluate_samples: int = setting(512, "examples", ge=1)
    """Largest number of held-out examples in these evaluations, drawn at random, each class in its share."""


class YopoSettings(Settings):
    passes: int = setting(0, "passes per batch", ge=0, le=1000)
    """m of YOPO-m-n (Zhang et al. 2019): full passes of the attack on a batch. 0 switches it off. With pgd-at each of
    them also trains the weights. Needs engine sync and attack.steps = m·n."""
    inner_steps: int = setting(3, "gradient steps per pass", ge=1, le=1000)
    """n of YOPO-m-n: attack steps after each full pass that go through the first layer alone."""
    first_layer: str | None = setting(None, "name")
    """The module of the network at which the first layer ends, by its name in named_modules(); what the network does
    before it belongs to it. By default the first module that is called, has parameters and no modules of its own."""


class PruningSettings(Settings):
    name: Literal["none", "random", "low", "high", "low_high"] = setting("none", "name")
    """Remove training examples for the rest of the run (Kaufmann et al.). random: chosen at random; low: those with the
    lowest loss under attack; high: those with the highest; low_high: half of each."""
    epoch: int = setting(1, "epochs", ge=1)
    """p_e: number of epochs on all examples before the pruning (the paper: 3 in its text, 1 in its figures)."""
    share: float = setting(0.2, "share of the training set", gt=0, lt=1)
    """d: the share of training examples that is removed."""


class StalenessSettings(Settings):
    max_staleness: int = setting(4, "steps", ge=0, le=10_000)
    """Upper bound on staleness: a shard that is staler is dropped, and its examples are attacked again."""
    depth: int | None = setting(None, "steps", ge=0, le=10_000)
    """Depth d: number of steps whose shards may be outstanding beside the current step. By default the largest value
    at which no shard gets too old while latency is below a step: max_staleness − publish_every, at least 0 and at most
    3."""
    publish_every: int = setting(1, "steps", ge=1, le=10_000)
    """Number of steps K between two publications of the weights."""
    exchange: bool = setting(True, "flag")
    """In-flight exchange: workers load newer weights between two attack steps."""
    refresh: Literal[0, 1, 2, "auto"] = setting(0, "attack steps")
    """Number r of further attack steps that the trainer makes on consumed shards with its current weights. auto: as
    many as fit into the time in which it would wait."""
    trainer_attacks: Literal["auto", "always", "never"] = setting("auto", "name")
    """Let the trainer attack shards itself while it would wait. auto: only where its device would be idle."""
    finish: Literal["off", "auto"] | Annotated[int, Field(ge=1, le=1000)] = setting("off", "attack steps")
    """Fresh finish (docs/methods.md): the last g attack steps use exactly the weights that train on the ticket, the
    steps before them exactly those of `lead` steps earlier. The trained weights are then a function of recipe and seed
    alone. auto: three quarters of the attack steps. off: attacks use the newest weights that have arrived."""
    lead: int = setting(1, "steps", ge=1, le=100)
    """With a fresh finish: how many steps before its own an attack begins. It takes the place of `depth`."""
    copy_after: float | None = setting(None, "times", gt=0)
    """With a fresh finish: when a step has waited for its shards this many times as long as the first half of them take
    in the mean (or a training step, if that is longer), others attack what is missing, too. The shard that is first
    counts: both have the same bits. By default a ticket is attacked again only when its lease has expired."""
    lockstep: bool = setting(False, "flag")
    """For tests: workers use exactly the weights of the version at which a ticket was issued, and shards are consumed
    in order. The trained weights then do not depend on timing. Switches off exchange and trainer_attacks."""
    age_half_life: float | None = setting(None, "steps", gt=0)
    """Weight the loss of stale shards less: the weight halves with each `age_half_life` steps of staleness, relative to
    the other shards of the same step. By default all have the same weight."""
    gap_every: int = setting(200, "steps", ge=0)
    """Steps between measurements of the gap between robust accuracy on a fresh and on a stale attack of one shard.
    0: never."""


class SimulatedSettings(Settings):
    staleness: int = setting(0, "steps", ge=0, le=10_000)
    """Exact staleness of every batch; the first `staleness` batches have less."""
    exchange: bool = setting(False, "flag")
    """Simulate in-flight exchange: staleness falls evenly from `staleness` at the first attack step to
    `final_staleness` at the last."""
    final_staleness: int = setting(0, "steps", ge=0)
    """Staleness of the last attack step with simulated.exchange."""


class VirtualEvent(Settings):
    at_s: float = setting(0.0, "virtual seconds", ge=0)
    """When it happens."""
    worker: int = setting(1, "number", ge=1)
    """To which worker, from 1 on; not where the trainer dies."""
    what: Literal["dies", "joins", "slows", "trainer_dies"] = setting("dies", "name")
    """dies: its tickets are lost, and issued again when their leases have expired; joins: it begins only then; slows:
    its speed is `speed` from then on; trainer_dies: with all that share its steps; after `down_s` it goes on from the
    last checkpoint, and what it had asked the workers for is void."""
    speed: float = setting(1.0, "1", gt=0)
    """The new speed, relative to the others."""
    down_s: float = setting(10.0, "virtual seconds", ge=0)
    """For how long there is no trainer after it has died."""


class VirtualSettings(Settings):
    times: Path | None = setting(None, "path")
    """File with such settings as its table [virtual], as `sparring calibrate --out FILE` writes it; three are in
    recipes/times. Settings given beside it come first. A run records the values."""
    attack_s: float = setting(0.0, "seconds", ge=0)
    """Constant part of an attack step."""
    attack_example_s: float = setting(8e-5, "seconds per example", ge=0)
    """Part of an attack step for each of its examples."""
    forward_s: float = setting(0.0, "seconds", ge=0)
    """Constant part of a clean forward pass (the allocator's classification, TRADES)."""
    forward_example_s: float = setting(3e-5, "seconds per example", ge=0)
    """Its part for each example."""
    step_s: float = setting(0.0, "seconds", ge=0)
    """Constant part of a training step."""
    step_example_s: float = setting(8e-5, "seconds per example", ge=0)
    """Its part for each example."""
    publish_s: float = setting(0.001, "seconds", ge=0)
    """From the end of a step until workers have its weights."""
    load_s: float = setting(0.0, "seconds", ge=0)
    """How long a worker takes to load newer weights. It does not attack meanwhile."""
    push_s: float = setting(0.001, "seconds", ge=0)
    """From the end of an attack until the trainer has its shard."""
    lease_s: float = setting(0.0, "seconds", ge=0)
    """From issuing a ticket until a worker can take it."""
    message_s: float = setting(5e-5, "seconds", ge=0)
    """Latency of a message between trainers. Gradients are summed by a ring: 2·(trainer.count − 1) messages, one after
    the other."""
    bandwidth: float = setting(1.25e9, "bytes per second", gt=0)
    """How fast a trainer sends gradients. A message holds 1 / trainer.count of them."""
    jitter: float = setting(0.05, "share", ge=0, lt=1)
    """Every duration is multiplied by a random factor from 1 − jitter to 1 + jitter."""
    speeds: tuple[Annotated[float, Field(gt=0)], ...] = setting((), "1, one per worker")
    """Speed of each worker relative to the trainer; those without one have speed 1."""
    events: tuple[VirtualEvent, ...] = setting((), "table")
    """What happens to workers and trainer, as [[virtual.events]] with at_s, worker, what, speed and down_s."""

    @model_validator(mode="before")
    @classmethod
    def _from_file(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("times") is None:
            return given
        path = Path(given["times"]).expanduser()
        try:
            found = tomllib.loads(path.read_text())["virtual"]
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(f"times = {str(path)!r} is no TOML file with a table [virtual]: {error}") from error
        return {**found, **given, "times": None}


class DdpSettings(Settings):
    ranks: int = setting(2, "processes", ge=1, le=1024)
    """Number of processes on this host. They share the tickets of each step. With GPUs, each has its own."""
    timeout_s: float = setting(600.0, "seconds", gt=0)
    """How long the ranks wait for each other: at the start, for a slow rank, and for rank 0 while it evaluates."""


class WorkersSettings(Settings):
    count: int = setting(2, "workers", ge=0, le=MAX_WORKERS)
    """Number of workers: Ray actors that attack."""
    num_gpus: float = setting(0.0, "GPUs per worker", ge=0)
    """GPUs that Ray reserves per worker. With a fraction several workers share a GPU."""
    num_cpus: float = setting(1.0, "cores per worker", gt=0)
    """Cores that Ray reserves per worker."""
    threads: int | None = setting(None, "threads per worker", ge=1)
    """torch threads. By default 1 on GPU; on CPU an equal share of all cores but one."""
    resource: str | None = setting(None, "name")
    """Custom Ray resource that a node must have to run workers: `ray start --resources '{"NAME": 1}'`."""
    start_timeout_s: float = setting(120.0, "seconds", gt=0)
    """How long to wait for the first worker before the run fails."""
    hang_timeout_s: float = setting(240.0, "seconds", gt=0)
    """A worker that makes no attack step for so long, or takes longer to start, ends itself and is restarted; one that
    sends no heartbeat for so long is replaced. One of an evaluation ends itself after so long without a pass through
    the network. Longer than queue.timeout_s and than one step; with model.compile the first one compiles."""


class TrainerSettings(Settings):
    count: int = setting(1, "trainers", ge=1, le=256)
    """Number of trainers in parallel (engine ray). They share the shards of each step and average their gradients."""
    batch_norm: Literal["own", "synchronised"] = setting("own", "name")
    """Batch statistics of trainers in parallel (engine ray). own: each normalises with those of its own shards;
    synchronised: with those of all shards of the step, as one trainer does."""
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "name")
    """Device of the training step. auto: CUDA if a GPU is reserved for the trainer."""
    num_gpus: float = setting(0.0, "GPUs", ge=0)
    """GPUs that Ray reserves for each trainer."""
    num_cpus: float = setting(1.0, "cores", gt=0)
    """Cores that Ray reserves for each trainer."""
    threads: int | None = setting(None, "threads", ge=1)
    """torch threads. By default all cores (sync, simulated), an equal share for each rank (ddp), or the cores that the
    workers leave (ray; 1 if the workers have GPUs)."""
    resource: str | None = setting(None, "name")
    """Custom Ray resource that the trainer's node must have. That node must have access to run.root."""
    max_restarts: int = setting(3, "restarts", ge=0)
    """How many times in a row without progress a trainer that died is restarted from its last checkpoint."""
    wait_timeout_s: float = setting(300.0, "seconds", gt=0)
    """How long a step may wait for shards before the run fails."""
    hang_timeout_s: float = setting(1800.0, "seconds", gt=0)
    """A trainer of engine ray that stands still for so long, as on a GPU that hangs, ends itself and is restarted from
    the last checkpoint. Longer than its start, a step, an evaluation on held-out examples, or a batch of the final
    one."""


def _has_password(url: str) -> bool:
    parts = urlsplit(url)
    return any("password" in name for name in parse_qs(parts.query)) or ":" in parts.netloc.rpartition("@")[0]


def _resolved(url: str) -> str:
    """The URL, read from the environment where it is $NAME."""
    found = os.environ.get(url[1:]) if url.startswith("$") else url
    if not found:
        raise ValueError(f"the environment variable {url[1:]} is not set; set it to redis://HOST:PORT/DB")
    if _has_password(found):
        raise ValueError("it holds a password. Give that by queue.password_env or queue.password_file")
    return found


class QueueSettings(Settings):
    redis_url: str | None = setting(None, "URL")
    """redis://HOST:PORT/DB of a server with maxmemory-policy noeviction. $NAME is read from the environment. By default
    an embedded server is started. Give the password by password_env or password_file, never in the URL."""
    payload_urls: tuple[str, ...] = setting((), "URLs")
    """Servers that keep the payloads of the shards, in place of the queue's own: for more bytes a second than one
    carries. Each is as redis_url says, with the password of password_env or password_file. A server that dies costs the
    shards that are on it, which are made again."""
    password_env: str = setting("SPARRING_REDIS_PASSWORD", "environment variable")
    """Name of the environment variable that holds the password."""
    password_file: Path | None = setting(None, "path")
    """File that holds the password, such as a secret of Docker or Kubernetes. Used if that variable is not set."""
    access: Path | None = setting(None, "path")
    """Folder that `sparring access` made: the users of Redis for trainer, workers and readers, with their passwords, in
    place of one password for all of them. `sparring status` and `top` need the file `reader` alone."""
    wire: Literal["int8", "exact", "sign"] = setting("int8", "name")
    """Encoding of perturbations in the queue. int8: multiples of ε/127 (L2: of max|δ|/127); exact: float32; sign: one
    bit per value and max|δ| per example, so every value becomes ±max|δ| (L∞ only)."""
    weights: Literal["auto", "redis", "object_store"] = setting("auto", "name")
    """Transport of weight snapshots to the workers. redis: through the Redis of the queue; object_store: through Ray's
    object store, one copy per node; auto: redis up to 4 MiB."""
    lease_s: float = setting(15.0, "seconds", gt=0, le=3600)
    """A lease that is not renewed within this time is lost, and its ticket is issued again."""
    attempts: int = setting(3, "attempts", ge=1, le=100)
    """After this number of failed attacks on several workers, with one kind of error, a ticket is set aside; after
    twice as many in any case. Lost leases do not count."""
    missing_share: float = setting(0.0, "share of the examples", ge=0, lt=1)
    """A run that ends with more of its examples set aside is `incomplete`; `sparring resume` makes them."""
    timeout_s: float = setting(30.0, "seconds", gt=0)
    """How long to wait for a server that cannot be reached or is full."""
    maxmemory_mb: int | None = setting(None, "MiB", ge=1)
    """Memory limit of the embedded server; by default 1.3 × the outstanding payload + 64 MiB."""

    @field_validator("redis_url")
    @classmethod
    def _from_environment(cls, url: str | None) -> str | None:
        """Without a password: the run's folder keeps the URL, and many may read that."""
        return None if url is None else _resolved(url)

    @field_validator("payload_urls")
    @classmethod
    def _each_from_environment(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        found = tuple(map(_resolved, urls))
        if twice := [url for url in found if found.count(url) > 1]:
            raise ValueError(f"{twice[0]} is named twice. Name each server once")
        return found

    @model_validator(mode="after")
    def _one_user_for_a_role(self) -> QueueSettings:
        if self.access is not None and self.redis_url is not None and "@" in urlsplit(self.redis_url).netloc:
            raise ValueError("redis_url names a user, and access one for each role. Leave the user out of the URL")
        return self


class RaySettings(Settings):
    address: str = setting("local", "address")
    """Ray cluster of the run. local: start one for this run alone; auto or HOST:PORT: join a running cluster."""
    object_store_mb: int = setting(256, "MiB", ge=80)
    """Size of the object store of a local Ray."""


class GuardSettings(Settings):
    non_finite: Literal["rollback", "stop"] = setting("rollback", "name")
    """Reaction to a non-finite loss, gradient or weight. Such weights are never published. rollback: continue from the
    last checkpoint (not one of a stop) with a lower learning rate; stop: end the run and keep that checkpoint."""
    rate_factor: float = setting(0.5, "1", gt=0, le=1)
    """Factor by which every rollback multiplies the learning rate for the rest of the run."""
    max_rollbacks: int = setting(3, "rollbacks", ge=1, le=1000)
    """Maximum rollbacks for non-finite values before the run fails. For overfitting: maximum rollbacks to the same good
    weights before training ends with those weights."""
    overfitting: Literal["off", "rollback", "stop"] = setting("off", "name")
    """Guard against catastrophic overfitting (Wong et al.). It attacks a training batch by PGD-5 and compares the
    robust accuracy of the current weights with that of the last good weights. When it has fallen, the good weights are
    restored. rollback: then train on, for some time with PGD; stop: then end training."""
    overfitting_every: int = setting(50, "steps", ge=1)
    """Steps between checks for overfitting. There is also a check before every checkpoint."""
    overfitting_fall: float = setting(0.2, "share of examples", gt=0, lt=1)
    """Fall of robust accuracy above which the weights count as overfitted."""
    overfitting_steps: int = setting(2, "gradient steps", ge=2, le=1000)
    """Steps of the PGD attack that is used after a rollback for overfitting."""
    overfitting_for: int = setting(200, "steps", ge=1)
    """Number of training steps with that PGD attack after the rollback. It doubles with every further rollback."""
    staleness: bool = setting(False, "flag")
    """Guard against weak stale attacks. It attacks some consumed shards again with the current weights. When the stale
    perturbations are too weak, it switches on remedies one by one: age weights, refresh, publication twice as often,
    half the depth. When they are strong again, it switches the remedies off."""
    staleness_every: int = setting(20, "steps", ge=1)
    """Steps between these checks."""
    staleness_threshold: float = setting(0.05, "share of examples", gt=0, lt=1)
    """Largest accepted difference between accuracy under the stale attack and accuracy under the fresh attack."""
    staleness_patience: int = setting(5, "checks", ge=1)
    """Number of consecutive checks below half of the threshold after which the last remedy is switched off."""


class CheckpointSettings(Settings):
    every_steps: int = setting(500, "steps", ge=1)
    """Steps between checkpoints. Another one is written at the end, on Ctrl-C, SIGTERM and SIGHUP (a terminal that
    goes away)."""
    keep: int = setting(2, "checkpoints", ge=1, le=1000)
    """Number of latest checkpoints that are kept. After a stop the one to which a rollback returns is kept too; if
    held-out accuracy is measured, the best one."""


class EvaluationSettings(Settings):
    weights: Literal["plain", "ema"] = setting("plain", "name")
    """Weights that `sparring evaluate` evaluates. plain: the trained weights; ema: their moving average (train.ema).
    At the end of a run both are evaluated."""
    attack: Literal["pgd", "autoattack"] = setting("pgd", "name")
    """pgd: PGD with restarts; autoattack: the standard ensemble of four attacks, with its own steps and restarts. It
    takes minutes for a thousand small images."""
    version: Literal["standard", "plus", "rand"] = setting("standard", "name")
    """Of autoattack. plus: six attacks with five restarts; rand: APGD on the mean gradient of 20 passes, for networks
    that draw at random."""
    attacks: tuple[Literal["apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square"], ...] = setting(
        (), "list of names"
    )
    """Of autoattack: these attacks, in this order, instead of all of its version."""
    mode: Literal["exact", "fast"] = setting("exact", "name")
    """exact: example by example the verdicts of one process; autoattack's next attack waits for the one before, since
    its batches are made of all that is still correct. fast: each batch goes through all attacks on its own."""
    steps: int = setting(50, "gradient steps", ge=1, le=10_000)
    """PGD steps."""
    step_size: float | None = setting(None, "pixel intensity", gt=0)
    """PGD step size α; by default 2.5·ε/steps."""
    restarts: int = setting(3, "attempts", ge=1, le=1000)
    """Number of random starts. An example is robust only if it stays correct under all of them."""
    targets: Literal["none", "all"] | Annotated[int, Field(ge=1, le=100_000)] = setting("none", "classes")
    """Of pgd. none: away from the label, by the cross-entropy; all: towards each of the other classes, by the
    difference of logits; a number: towards so many of them, the likeliest ones. An example is robust only if it
    stays correct under all of them."""
    samples: int | None = setting(None, "examples", ge=1)
    """Evaluate only on `samples` test examples; by default on all."""
    draw: Literal["stratified", "first"] = setting("stratified", "name")
    """Which `samples` test examples. stratified: drawn at random, each class in its share, the same for every seed;
    first: the first ones, as RobustBench takes 1,000 of CIFAR-10."""
    batch_size: int = setting(500, "examples", ge=1, le=65536)
    """Examples per forward pass."""
    square_queries: int = setting(500, "forward passes", ge=0, le=100_000)
    """Queries of the black-box Square attack in `sparring curves`. 0: leave it out. AutoAttack uses 5000."""
    rolling: bool = setting(False, "flag")
    """While training (engine ray): workers that would wait judge the newest weights (their average with train.ema) by
    AutoAttack on held-out training examples (data.holdout). The best checkpoint is chosen by it."""
    rolling_samples: int = setting(256, "examples", ge=1)
    """Largest number of held-out examples in that judgement, drawn at random, each class in its share."""
    rolling_batch: int = setting(32, "examples", ge=1, le=65536)
    """Held-out examples that a worker judges together. A ticket that comes meanwhile waits for one pass over them, and
    a worker that dies loses no more than these."""
    rolling_attacks: tuple[Literal["apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square"], ...] = setting(
        (), "list of names"
    )
    """Attacks of that judgement, in this order. By default apgd-ce and, with four classes or more, apgd-t."""
    rolling_share: float = setting(0.0, "share of a worker's time", ge=0, lt=1)
    """Share of its time that a worker judges even where tickets wait. 0: only while it would wait."""
    rolling_patience: int | None = setting(None, "judged versions", ge=1)
    """End training after so many judged versions in a row that are not better than the best. By default it goes on."""

    @model_validator(mode="after")
    def _of_autoattack(self) -> EvaluationSettings:
        if self.attack != "autoattack" and (self.version != "standard" or self.attacks):
            raise ValueError("evaluation.version and evaluation.attacks need evaluation.attack = 'autoattack'")
        if self.attack == "autoattack" and self.targets != "none":
            raise ValueError("evaluation.targets is for evaluation.attack = 'pgd': AutoAttack has its own targets")
        if self.attacks and self.version != "standard":
            raise ValueError("evaluation.attacks and evaluation.version: set only one of them")
        if len(set(self.attacks)) < len(self.attacks):
            raise ValueError("evaluation.attacks names an attack twice")
        return self

    @model_validator(mode="after")
    def _of_rolling(self) -> EvaluationSettings:
        names = ("samples", "batch", "attacks", "share", "patience")
        given = [f"rolling_{name}" for name in names if f"rolling_{name}" in self.model_fields_set]
        changed = [name for name in given if getattr(self, name) != type(self).model_fields[name].default]
        if changed and not self.rolling:
            raise ValueError(f"evaluation.{changed[0]} needs evaluation.rolling = true")
        if len(set(self.rolling_attacks)) < len(self.rolling_attacks):
            raise ValueError("evaluation.rolling_attacks names an attack twice")
        return self


class CorruptionsSettings(Settings):
    root: Path | None = setting(None, "path")
    """Folder with the .npy files of CIFAR-10-C or CIFAR-100-C. By default `sparring corruptions` corrupts the test
    images itself."""


class MetricsSettings(Settings):
    bind: str = setting("127.0.0.1", "address")
    """Address of the Prometheus endpoint."""
    port: int = setting(0, "port", ge=0, le=65535)
    """Port of the Prometheus endpoint. 0: a free port. The port is written to the run folder."""
    enabled: bool = setting(True, "flag")
    """Serve metrics for Prometheus."""
    file_sd: Path | None = setting(None, "path")
    """Folder that Prometheus watches (file_sd_configs). While the run goes on, a file there holds its endpoint."""
    every_steps: int = setting(20, "steps", ge=1)
    """Steps between lines of metrics.jsonl."""
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = setting((), "list of names")
    """Experiment trackers that get these lines too. Each needs the extra of its name: pip install
    'sparring[tensorboard]'."""


class Config(Settings):
    """One run."""

    engine: Literal["ray", "sync", "ddp", "simulated", "virtual"] = setting("ray", "name")
    """ray: workers, queue and trainer; sync: the textbook loop in one process; ddp: the same loop in several processes
    that average their gradients; simulated: one process with an exact staleness; virtual: a cluster on a virtual
    clock in one process."""
    run: RunSettings = RunSettings()
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    attack: AttackSettings = AttackSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    augmix: AugmixSettings = AugmixSettings()
    allocator: AllocatorSettings = AllocatorSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    train: TrainSettings = TrainSettings()
    yopo: YopoSettings = YopoSettings()
    pruning: PruningSettings = PruningSettings()
    staleness: StalenessSettings = StalenessSettings()
    simulated: SimulatedSettings = SimulatedSettings()
    ddp: DdpSettings = DdpSettings()
    virtual: VirtualSettings = VirtualSettings()
    workers: WorkersSettings = WorkersSettings()
    trainer: TrainerSettings = TrainerSettings()
    queue: QueueSettings = QueueSettings()
    ray: RaySettings = RaySettings()
    guard: GuardSettings = GuardSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    corruptions: CorruptionsSettings = CorruptionsSettings()
    metrics: MetricsSettings = MetricsSettings()
