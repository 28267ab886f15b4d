"""Every setting of a run, with its unit, its bounds and its default; nothing is configured anywhere else.

The defaults are the demo: handwritten digits, a small network, two workers.
"""

from __future__ import annotations

import os
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

MOST_WORKERS = 10_000


class Settings(BaseModel):
    """A group of settings: unknown names are refused, values are fixed once made."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


def setting(default: Any, unit: str, **bounds: Any) -> Any:
    """A field with a unit; `bounds` are pydantic's (ge, gt, le, lt)."""
    return Field(default=default, json_schema_extra={"unit": unit}, **bounds)


def _toml_values(options: dict[str, Any]) -> dict[str, Any]:
    """What TOML can hold, so that a run's record of them is read back the same; None unsets an option."""
    odd = [name for name in options if not name.isidentifier()]
    if odd:
        raise ValueError(f"{odd[0]!r} is no name of a keyword argument")
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
    """Folder that run folders are made in."""
    name: str | None = setting(None, "name", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,80}$")
    """The run's folder; by default the time and the dataset. An existing one is refused, never overwritten."""


class PhaseSettings(Settings):
    until: float = setting(..., "share of training", gt=0, lt=1)
    """How much of training has passed when the phase ends, rounded to whole epochs."""
    size: int = setting(..., "pixels", ge=1, le=4096)
    """Images of these epochs are size × size."""


class DataSettings(Settings):
    name: str = setting("digits", "name")
    """digits, mnist, fashion_mnist, cifar10, cifar100, svhn, folder:PATH (ImageFolder), npz:PATH, or your own as
    module:factory or path.py:factory. A factory is called with split ("train" or "test"), root if it takes that, and
    data.options; it returns a torch Dataset of (image, label), or a pair of arrays (images, labels)."""
    options: Options = setting({}, "table")
    """Keyword arguments of that factory, as data.options.NAME."""
    root: Path | None = setting(None, "path")
    """Where torchvision's datasets lie (or are downloaded to); the digits need none."""
    download: bool = setting(True, "flag")
    """Let torchvision download what is missing."""
    holdout: int = setting(0, "examples", ge=0)
    """Training examples set aside and never trained on, the same for every seed: to tune on, and to choose the best
    checkpoint by."""
    limit: int | None = setting(None, "examples", ge=1)
    """Use the first so many training examples only, for a quick look."""
    size: int | None = setting(None, "pixels", ge=1, le=4096)
    """Bring every image to size × size: a centred square of it where it is judged, what augment says in training.
    By default images stay as they are, and those of a folder are brought to the size of the first one."""
    centre_share: float = setting(1.0, "share of the shorter side", gt=0, le=1)
    """How much of an image that centred square takes; 0.875 is usual on ImageNet."""
    phases: tuple[PhaseSettings, ...] = setting((), "list of {until, size}")
    """Training images grow with the epochs (Wong et al.): in each phase they are of its size, after the last one of
    data.size. Rising in until; the model must take every size."""
    mean: Channels | None = setting(None, "pixel intensity, images in [0, 1]")
    """Put the model behind (x − mean) / std: a number, or one a channel. For networks that do not normalise inside;
    those that are built in do, but for mnist-32-64-1024 and mnist-16-32-100. By default images stay as they are."""
    std: Channels | None = setting(None, "pixel intensity, images in [0, 1]")
    """The standard deviation of that, set together with data.mean."""
    augment: Literal["none", "crop_flip", "crop", "resized_crop_flip"] = setting("none", "name")
    """Seeded augmentation by example: crop pads by 4 pixels and cuts at random; crop_flip mirrors half of them too;
    resized_crop_flip takes 8 to 100 % of the area at a ratio of 3/4 to 4/3 and mirrors half (needs data.size)."""
    extra: str | None = setting(None, "name")
    """Synthetic or pseudo-labelled images that every batch holds a share of. npz:FILE is read into the memory of each
    process; npz:FOLDER with images.npy and labels.npy stays on disk, read as needed, once for all of a host."""
    extra_fraction: float = setting(0.7, "share of a batch", gt=0, lt=1)
    """How much of every batch is data.extra: round(share · b) of b examples. An epoch is one pass over the others."""

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

    @property
    def normalize(self) -> tuple[Channels, Channels] | None:
        """Mean and standard deviation that the model is put behind, where they are set."""
        return None if self.mean is None or self.std is None else (self.mean, self.std)

    @model_validator(mode="after")
    def _mean_with_std(self) -> DataSettings:
        if (self.mean is None) != (self.std is None):
            raise ValueError("data.mean and data.std are set together, or neither")
        return self


class ModelSettings(Settings):
    name: str = setting("digits-cnn", "name")
    """digits-cnn, mnist-32-64-1024 (Bhat et al.), mnist-16-32-100 (Wong et al.); for CIFAR preact-resnet-18, wrn-28-10,
    wrn-28-10-silu, wrn-34-10 and wrn-40-2, for ImageNet resnet-50; timm:NAME (pip install 'sparring[timm]'); or your
    own as module:factory or path.py:factory, called as factory(shape, classes) with model.options. It takes float32 in
    [0, 1] and normalises inside forward (sparring.Normalize, or data.mean and data.std)."""
    options: Options = setting({}, "table")
    """Keyword arguments of that factory, or of timm's, as model.options.NAME."""
    pretrained: bool = setting(False, "flag")
    """Start from the weights that timm downloads for timm:NAME."""
    checkpoint: Path | None = setting(None, "path")
    """Start from these weights: a run's folder (its last checkpoint), a checkpoint's folder, a .safetensors file or a
    torch file of a state dict. Read once, where the run starts; a head of another number of classes stays fresh."""
    precision: Literal["fp32", "bf16", "fp16"] = setting("fp32", "name")
    """What training and attacks compute their passes in, under torch.autocast; weights, losses and projections stay
    float32, and every judgement is. fp16 scales its gradients. Meant for GPUs: most CPUs are slower at both."""
    channels_last: bool = setting(False, "flag")
    """Weights and images of training and attacks lie in memory with their channels last, as GPUs like them in bf16 and
    fp16."""
    compile: bool = setting(False, "flag")
    """Pass the model through torch.compile in training and attacks; each process takes a minute or so at its start.
    Needs a C++ compiler."""


class AttackSettings(Settings):
    name: str = setting("pgd", "name")
    """pgd: `steps` steps of 2.5·ε/steps from a random start (Bhat et al.); fgsm: one step of ε from zero (1.25·ε from
    any other start); fgsm-rs: one step of 1.25·ε from a random start (Wong et al.); n-fgsm: one step of ε from noise
    that reaches `noise`·ε, not cut back to the ball of ε (de Jorge et al. 2022); augmix: no attack but two views; or
    module:object or path.py:object of your own (docs/extending.md)."""
    options: Options = setting({}, "table")
    """Keyword arguments of an attack of your own, as attack.options.NAME."""
    norm: Literal["linf", "l2"] = setting("linf", "name")
    """The ball that a perturbation stays in."""
    epsilon: float = setting(0.2, "pixel intensity, images in [0, 1]", gt=0, le=1000)
    """Radius ε of the ball."""
    steps: int = setting(8, "gradient steps", ge=1, le=1000)
    """κ, the attacker's power; FGSM takes one whatever this says."""
    noise: float = setting(2.0, "1", gt=0, le=10)
    """k of n-fgsm: it begins uniform within k·ε, and its perturbations reach (1 + k)·ε."""
    step_size: float | None = setting(None, "pixel intensity", gt=0, le=1000)
    """Step α at the full ε (it warms up with ε); by default the paper's rule for the attack."""
    start: Literal["auto", "zero", "uniform", "gaussian", "previous", "last"] = setting("auto", "name")
    """Where the attack begins. uniform: in the ball; gaussian: 0.001·N(0, 1) beside the image, as trades and mart do;
    previous: where the previous batch's perturbations ended, row by row (Wong et al.; not with ray); last: where the
    example's own last perturbation ended; auto: as the paper of the attack or the objective does."""
    loss: Literal["auto", "ce", "kl"] = setting("auto", "name")
    """What the attack maximises. ce: cross-entropy with the label; kl: divergence from the prediction on the clean
    image; auto: kl for trades, else ce."""
    restarts: int = setting(1, "attempts", ge=1, le=100)
    """Independent starts; the perturbation with the highest loss of each example is kept."""
    warmup_epochs: float = setting(10.0, "epochs", ge=0)
    """ε grows linearly from 0 over so many epochs; without it a small network can stay at loss ln(classes)."""


class ObjectiveSettings(Settings):
    name: str = setting("pgd-at", "name")
    """What is minimised. pgd-at: cross-entropy on attacked examples (Bhat et al.); trades: clean cross-entropy and β
    times the divergence between clean and attacked predictions; mart: the same weighted by misclassification;
    augmix: clean cross-entropy and the divergence between the predictions on an image and its two views; or
    module:object or path.py:object of your own (docs/extending.md)."""
    options: Options = setting({}, "table")
    """Keyword arguments of an objective of your own, as objective.options.NAME."""
    beta: float = setting(6.0, "1", ge=0, le=1000)
    """β of trades and mart: 6 is usual for WRN on CIFAR-10, 1 for trades on MNIST, 5 for mart with ResNet-18."""
    passes: Literal["auto", "reference", "single_pass"] = setting("auto", "name")
    """reference: forward passes in the order and number of the authors' code, which batch norm sees; single_pass: the
    clean batch once, and of the attacked one only what an attack has changed (of augmix's views, what is not the
    image); auto: single_pass where an allocator spares examples, else reference."""
    label_smoothing: float = setting(0.0, "1", ge=0, lt=1)
    """Of the cross-entropy of pgd-at, and of that on clean images of trades."""
    awp_gamma: float = setting(0.0, "1", ge=0, le=1)
    """γ of adversarial weight perturbation (Wu et al. 2020), relative to each layer's norm; 0: off. Its authors take
    0.01 for pgd-at and 0.005 for trades."""
    awp_warmup_epochs: int = setting(0, "epochs", ge=0)
    """The first so many epochs go without it; its authors take 10 for trades and 0 for pgd-at."""


class AugmixSettings(Settings):
    width: int = setting(3, "chains", ge=1, le=10)
    """Chains of operations that a view mixes."""
    depth: int | None = setting(None, "operations", ge=1, le=10)
    """Operations of a chain; by default 1, 2 or 3 are drawn for each."""
    severity: float = setting(3.0, "levels", ge=1, le=10)
    """An operation's level is uniform in [0.1, severity]; 10 is its whole range."""
    weight: float = setting(12.0, "1", ge=0, le=1000)
    """Weight of the Jensen-Shannon divergence in the loss."""


class AllocatorSettings(Settings):
    name: str = setting("none", "name")
    """Who gets how many attack steps. none: all the same; bullettrain: by signed variance (Hua et al.); oracle: by the
    outcome of ten PGD steps, which costs more than it saves: for analysis; or module:object or path.py:object of your
    own (docs/extending.md)."""
    options: Options = setting({}, "table")
    """Keyword arguments of an allocator of your own, as allocator.options.NAME."""
    boundary_steps: int | None = setting(None, "gradient steps", ge=1, le=1000)
    """N_B, steps on boundary examples; by default attack.steps."""
    robust_steps: int = setting(2, "gradient steps", ge=0, le=1000)
    """N_R, steps of 1.7·ε/N_R on robust examples; 0 leaves them clean."""
    outlier_steps: int = setting(0, "gradient steps", ge=0, le=1000)
    """N_O, steps on examples that are misclassified without an attack; 0 leaves them clean."""
    gamma: float = setting(0.8, "1", gt=0, le=1)
    """γ: F_R follows γ times the robust accuracy of the training batches."""
    momentum: float = setting(0.9, "1", ge=0, lt=1)
    """p, the momentum of F_R (the paper does not state it)."""
    slots: Literal["auto"] | Annotated[int, Field(ge=0, le=65536)] = setting("auto", "slots")
    """Attack in a batch of so many slots of fixed shape, each refilled from the next ticket once its example has had
    its steps; 0: ticket by ticket, in a batch that shrinks; auto: train.batch_size slots on GPU workers, else 0."""
    hold_back: bool = setting(True, "flag")
    """Slots of workers: let few steps wait for their ticket's last ones, so that they see as new weights. It leaves
    about an eighth of the slots idle; without it a shard is as old as its first example that had its steps."""


class OptimizerSettings(Settings):
    name: Literal["sgd", "adam", "adamw"] = setting("adam", "name")
    """Optimizer of the weights."""
    lr: float = setting(0.002, "1", gt=0, le=100)
    """Peak learning rate."""
    momentum: float = setting(0.9, "1", ge=0, lt=1)
    """SGD's momentum."""
    nesterov: bool = setting(False, "flag")
    """Nesterov's form of that momentum, where there is one."""
    weight_decay: float = setting(0.0, "1", ge=0, le=10)
    """Weight decay (L2 for sgd and adam, decoupled for adamw)."""
    decay_norm: bool = setting(True, "flag")
    """Decay the scales and shifts of normalisation layers too; false: they are left out, as in Wong et al.'s ImageNet
    recipe. Biases of other layers decay either way."""
    beta1: float = setting(0.9, "1", ge=0, lt=1)
    """Adam's first decay."""
    beta2: float = setting(0.999, "1", ge=0, lt=1)
    """Adam's second decay."""

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> OptimizerSettings:
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            raise ValueError("optimizer.nesterov needs optimizer.name = 'sgd' and optimizer.momentum above 0")
        return self


class ScheduleSettings(Settings):
    name: str = setting("one_cycle", "name")
    """Learning rate over training. constant; piecewise: lowered at each milestone; cyclic: 0 up to the peak and
    linearly back to 0 (Wong et al.); one_cycle: cosine from peak/25 up and down to peak/250000; cosine: from the peak
    down to 0; or your own as module:factory or path.py:factory, which returns rate(peak, progress)."""
    options: Options = setting({}, "table")
    """Keyword arguments of that factory, as schedule.options.NAME; peak_at, milestones and factor are passed if it
    takes them."""
    peak_at: float = setting(0.4, "share of training", gt=0, lt=1)
    """Where cyclic and one_cycle reach the peak."""
    milestones: tuple[float, ...] = setting((0.5, 0.75), "share of training")
    """Where piecewise lowers the rate."""

    @field_validator("milestones")
    @classmethod
    def _rising(cls, milestones: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < share < 1 for share in milestones) or list(milestones) != sorted(set(milestones)):
            raise ValueError("must be shares of training between 0 and 1, rising")
        return milestones

    factor: float = setting(0.1, "1", gt=0, le=1)
    """What piecewise multiplies the rate by at each milestone."""


class TrainSettings(Settings):
    epochs: int = setting(30, "epochs", ge=1, le=100_000)
    """Passes over the training set; each example is trained on exactly once in each (see replays)."""
    max_steps: int | None = setting(None, "steps", ge=1)
    """Stop after so many steps, wherever the epoch is; schedules do not change by it."""
    batch_size: int = setting(64, "examples per shard", ge=1, le=65536)
    """Examples that one attack works on, b."""
    shards_per_step: int = setting(1, "shards", ge=1, le=4096)
    """Shards that one step is made of, M: a step trains on M·b examples."""
    replays: int = setting(1, "steps per batch", ge=1, le=1000)
    """m of Free adversarial training: above 1 every batch is trained on m times in a row, each pass serving attack and
    weights, and epochs are divided by m, rounded up. Needs engine sync, pgd-at and attack fgsm."""
    seed: int = setting(0, "1", ge=0, lt=2**31)
    """All randomness is keyed by it, the epoch and the ticket, never by worker or time."""
    gradient_clip: float | None = setting(None, "L2 norm", gt=0)
    """Clip the gradient of the weights to this norm."""
    ema: float | None = setting(None, "1", gt=0, lt=1)
    """Decay of an exponential moving average of the weights, after a warm-up; it is judged apart, and chooses the best
    checkpoint. Wang et al. 2023 take 0.995. By default there is none."""
    evaluate_every_epochs: float = setting(0.0, "epochs", ge=0)
    """Clean and PGD-10 accuracy on held-out examples so often; 0: never. Needs data.holdout."""
    evaluate_samples: int = setting(512, "examples", ge=1)
    """How many held-out examples at most."""


class PruningSettings(Settings):
    name: Literal["none", "random", "low", "high", "low_high"] = setting("none", "name")
    """Drop training examples for good (Kaufmann et al.). random: any; low: those of the lowest loss when attacked;
    high: those of the highest; low_high: of both evenly."""
    epoch: int = setting(1, "epochs", ge=1)
    """p_e: so many epochs are trained on all examples before (the paper: 3 in its text, 1 in its figures)."""
    share: float = setting(0.2, "share of the training set", gt=0, lt=1)
    """d, what is dropped."""


class StalenessSettings(Settings):
    max_staleness: int = setting(4, "steps", ge=0, le=10_000)
    """Upper bound on staleness: a shard that is staler is dropped, and its examples are attacked again."""
    depth: int | None = setting(None, "steps", ge=0, le=10_000)
    """Steps' worth of shards that may be outstanding beside those of the current step, d. Default: the largest with
    which no shard is dropped, max_staleness − publish_every, but at least 0 and at most 3."""
    publish_every: int = setting(1, "steps", ge=1, le=10_000)
    """Steps between two broadcasts of the weights, K."""
    exchange: bool = setting(True, "flag")
    """In-flight exchange: workers load newer weights between two attack steps."""
    refresh: Literal[0, 1, 2, "auto"] = setting(0, "attack steps")
    """Attack steps r that the trainer adds to a shard with its own weights before it trains on it; auto: as many as fit
    into its idle time."""
    trainer_attacks: Literal["auto", "always", "never"] = setting("auto", "name")
    """Whether the trainer attacks while it waits for shards; auto: only if its device would be idle."""
    lockstep: bool = setting(False, "flag")
    """For tests: workers attack with exactly the version that the ticket names, and shards are consumed in order, so
    that the trained weights do not depend on timing. Turns exchange and the trainer's own attacks off."""
    age_half_life: float | None = setting(None, "steps", gt=0)
    """Half-life of a shard's weight in the loss of its step: one that is staler than another by so many steps counts
    half as much. Default: all shards count the same."""
    gap_every: int = setting(200, "steps", ge=0)
    """Steps between two measurements of fresh-minus-stale robust accuracy on one shard; 0: never."""


class SimulatedSettings(Settings):
    staleness: int = setting(0, "steps", ge=0, le=10_000)
    """Every batch after the first so many has exactly this staleness."""
    exchange: bool = setting(False, "flag")
    """The attack starts at `staleness`, newer weights are swapped in evenly and its last step has `final_staleness`."""
    final_staleness: int = setting(0, "steps", ge=0)
    """Staleness of the last attack step under exchange."""


class DdpSettings(Settings):
    ranks: int = setting(2, "processes", ge=1, le=1024)
    """Processes of this host that share each step's tickets, each on a GPU of its own where there are GPUs."""
    timeout_s: float = setting(600.0, "seconds", gt=0)
    """How long the ranks wait for one another: for the start, for a slow one, for the first while it judges."""


class WorkersSettings(Settings):
    count: int = setting(2, "workers", ge=0, le=MOST_WORKERS)
    """Ray actors that attack."""
    num_gpus: float = setting(0.0, "GPUs per worker", ge=0)
    """Fractions share a GPU."""
    num_cpus: float = setting(1.0, "cores per worker", gt=0)
    """What Ray reserves for a worker."""
    threads: int | None = setting(None, "threads per worker", ge=1)
    """torch threads; by default an equal share of the cores but one on CPU, 1 on GPU."""
    resource: str | None = setting(None, "name")
    """Custom resource of Ray that a node must have for workers to run there: `ray start --resources '{"NAME": 1}'`."""
    start_timeout_s: float = setting(120.0, "seconds", gt=0)
    """How long the first worker may take to appear before the run says so and ends."""


class TrainerSettings(Settings):
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "name")
    """Device of the training step; auto: CUDA if a GPU is reserved for the trainer, else the CPU."""
    num_gpus: float = setting(0.0, "GPUs", ge=0)
    """GPUs that Ray reserves for the trainer."""
    num_cpus: float = setting(1.0, "cores", gt=0)
    """Cores that Ray reserves for the trainer."""
    threads: int | None = setting(None, "threads", ge=1)
    """torch threads. Default: all cores with sync and simulated, the cores that workers leave with ray, an equal share
    with ddp."""
    resource: str | None = setting(None, "name")
    """Custom resource of Ray that the trainer's node must have. run.root must be reachable from that node."""
    max_restarts: int = setting(3, "restarts", ge=0)
    """Maximum restarts of a dead trainer from its last checkpoint, counted since it last made a step."""
    wait_timeout_s: float = setting(300.0, "seconds", gt=0)
    """Maximum wait for the shards of a step before the run fails."""


class QueueSettings(Settings):
    redis_url: str | None = setting(None, "URL")
    """redis://HOST:PORT/DB of a server with maxmemory-policy noeviction, or $NAME of an environment variable that holds
    it. The password belongs into password_env or password_file, never into the URL. Default: an embedded server is
    started."""
    password_env: str = setting("SPARRING_REDIS_PASSWORD", "environment variable")
    """Name of the environment variable that holds the server's password."""
    password_file: Path | None = setting(None, "path")
    """File that holds the password, such as a secret of Docker or Kubernetes; read if that variable is not set."""
    wire: Literal["int8", "exact", "sign"] = setting("int8", "name")
    """Encoding of perturbations. int8: rounded to ε/127 (L2: to max|δ|/127 of the example); exact: float32; sign: one
    bit per value and max|δ| of the example, which moves values in between to a corner of the ball (L∞ only)."""
    weights: Literal["auto", "redis", "object_store"] = setting("auto", "name")
    """Route of weight snapshots to the workers. redis: through this queue's server; object_store: through Ray's object
    store, with one copy per node; auto: redis up to 4 MiB, else object_store."""
    lease_s: float = setting(15.0, "seconds", gt=0, le=3600)
    """Time after which a lease that is not renewed expires and its ticket is issued again."""
    attempts: int = setting(3, "attempts", ge=1, le=100)
    """Maximum attempts at a ticket. After as many failures it is set aside, counted and reported."""
    timeout_s: float = setting(30.0, "seconds", gt=0)
    """Maximum wait for a server that cannot be reached or whose memory is full."""
    maxmemory_mb: int | None = setting(None, "MiB", ge=1)
    """Memory limit of the embedded server. Default: 1.3 × the payload that may be outstanding, plus 64 MiB."""

    @field_validator("redis_url")
    @classmethod
    def _from_environment(cls, url: str | None) -> str | None:
        if url is None or not url.startswith("$"):
            return url
        found = os.environ.get(url[1:])
        if not found:
            raise ValueError(f"the environment has no {url[1:]}; set it to redis://HOST:PORT/DB")
        return found


class RaySettings(Settings):
    address: str = setting("local", "address")
    """local starts a Ray of this run's own; auto or HOST:PORT joins a cluster."""
    object_store_mb: int = setting(256, "MiB", ge=80)
    """Object store of a local Ray."""


class GuardSettings(Settings):
    non_finite: Literal["rollback", "stop"] = setting("rollback", "name")
    """Action when the loss, its gradient or a weight is not finite. Such weights are never published. rollback:
    continue from the last checkpoint at a lower learning rate; stop: the run fails and keeps its last checkpoint."""
    rate_factor: float = setting(0.5, "1", gt=0, le=1)
    """Factor on the learning rate at every rollback, for the rest of the run."""
    max_rollbacks: int = setting(3, "rollbacks", ge=1, le=1000)
    """Maximum rollbacks for non-finite values before the run fails. Also the maximum returns from overfitting to the
    same good weights before training ends with them."""
    overfitting: Literal["off", "rollback", "stop"] = setting("off", "name")
    """Guard against catastrophic overfitting (Wong et al.): PGD-5 on the training batch, with the present weights and
    with the last good ones. If robust accuracy has fallen: rollback: continue from the good weights, with PGD for a
    while; stop: training ends with the good weights."""
    overfitting_every: int = setting(50, "steps", ge=1)
    """Steps between two checks for overfitting. There is a check before every checkpoint, too."""
    overfitting_fall: float = setting(0.2, "share of examples", gt=0, lt=1)
    """Largest fall of robust accuracy that is not overfitting."""
    overfitting_steps: int = setting(2, "gradient steps", ge=2, le=1000)
    """Steps of the PGD that replaces the attack for a while after a rollback."""
    overfitting_for: int = setting(200, "steps", ge=1)
    """Duration of that replacement, from the good weights on. It doubles with every further fall."""
    staleness: bool = setting(False, "flag")
    """Guard against weak stale perturbations: attack a shard again with the present weights. If the stale perturbations
    are weaker, turn one remedy on, the cheapest first: age weights, refresh, broadcasts twice as often, half the depth.
    Turned off again when they are as strong."""
    staleness_every: int = setting(20, "steps", ge=1)
    """Steps between two checks of the staleness guard."""
    staleness_threshold: float = setting(0.05, "share of examples", gt=0, lt=1)
    """Largest difference of accuracy under the stale attack and under the fresh one that is accepted."""
    staleness_patience: int = setting(5, "checks", ge=1)
    """Checks in a row below half of that threshold after which the last remedy is turned off."""


class CheckpointSettings(Settings):
    every_steps: int = setting(500, "steps", ge=1)
    """Steps between two checkpoints. One more is written at the end, on SIGTERM and on Ctrl-C."""
    keep: int = setting(2, "checkpoints", ge=1, le=1000)
    """Number of latest checkpoints to keep, beside the best one if held-out accuracy is measured."""


class EvaluationSettings(Settings):
    weights: Literal["plain", "ema"] = setting("plain", "name")
    """What `sparring evaluate` judges: the trained weights, or their moving average (train.ema). A run that ends judges
    both."""
    attack: Literal["pgd", "autoattack"] = setting("pgd", "name")
    """pgd: with restarts; autoattack: the standard ensemble of four attacks, which has steps and restarts of its own
    and takes minutes for a thousand small images."""
    steps: int = setting(50, "gradient steps", ge=1, le=10_000)
    """PGD steps."""
    step_size: float | None = setting(None, "pixel intensity", gt=0)
    """Step α; by default 2.5·ε/steps."""
    restarts: int = setting(3, "attempts", ge=1, le=1000)
    """Random starts; an example counts as robust only if it survives all."""
    samples: int | None = setting(None, "examples", ge=1)
    """The first so many test examples; by default all."""
    batch_size: int = setting(500, "examples", ge=1, le=65536)
    """Examples per forward pass."""
    square_queries: int = setting(500, "forward passes", ge=0, le=100_000)
    """What `sparring curves` gives the black-box Square attack; 0 leaves it out. AutoAttack's own takes 5000."""


class CorruptionsSettings(Settings):
    root: Path | None = setting(None, "path")
    """Folder that holds CIFAR-10-C or CIFAR-100-C with their .npy files; without it `sparring corruptions` makes the
    corruptions of the test images itself."""


class MetricsSettings(Settings):
    bind: str = setting("127.0.0.1", "address")
    """Where the Prometheus endpoint listens."""
    port: int = setting(0, "port", ge=0, le=65535)
    """Its port; 0 picks a free one. Written to the run's folder."""
    enabled: bool = setting(True, "flag")
    """Serve metrics."""
    file_sd: Path | None = setting(None, "path")
    """Folder that Prometheus watches (file_sd_configs): while the run goes on, a file there names its endpoint."""
    every_steps: int = setting(20, "steps", ge=1)
    """Steps between lines of metrics.jsonl."""
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = setting((), "list of names")
    """Who is told of these lines too; each is an extra of its name (pip install 'sparring[tensorboard]')."""


class Config(Settings):
    """One run."""

    engine: Literal["ray", "sync", "ddp", "simulated"] = setting("ray", "name")
    """ray: workers, queue and trainer; sync: the textbook's loop in one process; ddp: the same on several, which
    average their gradients; simulated: exact staleness in one process."""
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
    pruning: PruningSettings = PruningSettings()
    staleness: StalenessSettings = StalenessSettings()
    simulated: SimulatedSettings = SimulatedSettings()
    ddp: DdpSettings = DdpSettings()
    workers: WorkersSettings = WorkersSettings()
    trainer: TrainerSettings = TrainerSettings()
    queue: QueueSettings = QueueSettings()
    ray: RaySettings = RaySettings()
    guard: GuardSettings = GuardSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    corruptions: CorruptionsSettings = CorruptionsSettings()
    metrics: MetricsSettings = MetricsSettings()
