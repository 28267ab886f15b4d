"""Accuracy under the 15 common corruptions: CIFAR-10-C and -100-C from their files, or generated for any data.

Hendrycks & Dietterich 2019 (arXiv:1903.12261). The files are the benchmark. Generated corruptions come from the package
imagecorruptions-imaug with the strengths of ImageNet-C. CIFAR-10-C has weaker strengths, so the accuracies of the two
cannot be compared.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from sparring.attacks import frozen
from sparring.data import Dataset, Sample, require_bytes, scaled
from sparring.data.framing import Framing, to_image
from sparring.data.sampling import Draw
from sparring.errors import SparringError, UsageError
from sparring.evaluation.findings import Findings, warnings_of
from sparring.evaluation.memory import Memory, Results
from sparring.evaluation.outcomes import Outcomes, clean_outcomes, joined
from sparring.evaluation.robustness import interval
from sparring.evaluation.strikes import Look
from sparring.evaluation.tickets import InProcess, Judges, Work, each_on_all
from sparring.randomness import generator

CORRUPTIONS = (
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
SEVERITIES = (1, 2, 3, 4, 5)
FOLDERS = {"cifar10": "CIFAR-10-C", "cifar100": "CIFAR-100-C"}
FILE_EXAMPLES = 10_000  # per severity, one severity after the other
MIN_SIDE = 32  # pixels: the smallest image that the package accepts
SEEDED_BY_ARGUMENT = ("glass_blur", "impulse_noise")  # these do not use numpy's global generator

Pair = tuple[float, float]
Array = np.ndarray[Any, np.dtype[np.uint8]]
Batch = tuple[Tensor, Tensor]  # uint8 [n, C, H, W], int64 [n]


class Source(Protocol):
    """Corrupts images. key: what its images depend on, beside the clean ones."""

    @property
    def key(self) -> str: ...

    def __call__(self, name: str, severity: int, indices: Tensor, images: Tensor, labels: Tensor) -> Batch:
        """The images (uint8 [n, C, H, W], clean) and labels, corrupted."""
        ...


@dataclass(frozen=True)
class Corrupted:
    """Accuracy under one corruption: at each severity with Wilson's interval, and the mean over severities."""

    corruption: str
    accuracy: list[float]
    interval: list[Pair]
    mean_accuracy: float
    mean_interval: Pair


@dataclass(frozen=True)
class Corruptions:
    """Accuracies in [0, 1] on `samples` test examples, each under every corruption and severity; drawn: which ones."""

    source: str
    samples: int
    drawn: str
    clean_accuracy: float
    clean_interval: Pair
    corrupted_accuracy: float
    corrupted_interval: Pair
    corruptions: list[Corrupted]
    warnings: list[str]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def corruptions(
    model: nn.Module,
    test: Dataset,
    data: str,
    root: Path | None,
    *,
    samples: int | None,
    draw: Draw = "stratified",
    batch_size: int,
    seed: int,
    framing: Framing | None = None,
    progress: Callable[[str], None] | None = None,
    judges: Judges | None = None,
    results: Results | None = None,
) -> Corruptions:
    """Accuracy on test images, 15 corruptions by 5 severities.

    Args:
        samples, draw: the images; see `Sample`.
        data: the dataset's name. root: see `CorruptionsSettings`; workers need it too. framing: that of the test
            images, by which those of its files are cropped and resized too.
        judges: who does it, with this model; by default this process. results: known ones are not made again.

    Raises:
        UsageError: corruptions.root is set, and there are no files for these data.
        SparringError: files are missing or wrong, or the package is not installed.
    """
    if root is None:
        require_bytes(test, "sparring corruptions")
        _package()
    sample = Sample(test, samples, draw)
    source = Generated(seed) if root is None else Read(_folder(root, data), framing)
    works: list[Callable[[tuple[int, ...]], Work]] = [lambda places: Look(twice=0 in places)]
    works += [partial(_under, sample, source, name, severity) for name, severity in product(CORRUPTIONS, SEVERITIES)]
    names = ["clean", *(f"{name} {severity} {source.key}" for name, severity in product(CORRUPTIONS, SEVERITIES))]
    memory: Memory[Outcomes] = Memory(results, sample.indices.tolist(), names, Outcomes.plain, Outcomes.of_plain)
    judges = InProcess([model]) if judges is None else judges
    report = None if progress is None else partial(_tell, progress)
    done = each_on_all(judges, sample, works, batch_size, memory=memory, report=report)
    clean, *seen = (joined(parts) for parts in done)
    rows = torch.stack([each.clean for each in seen]).reshape(len(CORRUPTIONS), len(SEVERITIES), len(sample))
    broken = torch.stack([each.non_finite_logits for each in (clean, *seen)]).any(0)
    source_name = "imagecorruptions-imaug (ImageNet-C's strengths)" if root is None else FOLDERS[data]
    found = Findings(len(sample), non_finite_logits=int(broken.sum()), varies=bool(clean.varies.any()))
    warnings = [*sample.warnings, *warnings_of(found)]
    return summarised(source_name, sample.rule, clean.clean, rows, warnings)


def _under(sample: Sample, source: Source, name: str, severity: int, places: tuple[int, ...]) -> Work:
    return Seen(source, name, severity, tuple(sample.indices[list(places)].tolist()))


def _tell(progress: Callable[[str], None], done: int, total: int) -> None:
    progress(f"{done} of {total} tickets done, each a batch under one corruption at one severity")


def summarised(source: str, drawn: str, clean: Tensor, correct: Tensor, warnings: list[str]) -> Corruptions:
    """Accuracies of clean: bool [N], and correct: bool [corruptions, severities, N].

    Intervals of means count every image once, because its corrupted versions are not independent samples.
    """
    table = [
        Corrupted(
            name,
            [float(cell.float().mean()) for cell in row],
            [interval(int(cell.sum()), len(cell)) for cell in row],
            *mean_of_images(row),
        )
        for name, row in zip(CORRUPTIONS, correct, strict=True)
    ]
    total, count = len(clean), int(clean.sum())
    mean, mean_interval = mean_of_images(correct.flatten(0, 1))
    of_clean = count / total, interval(count, total)
    return Corruptions(source, total, drawn, *of_clean, mean, mean_interval, table, warnings)


def mean_of_images(correct: Tensor) -> tuple[float, Pair]:
    """Mean of bool [versions, N] and its 95 % interval: normal, over the means of the N images.

    If these means are all equal, it is Wilson's interval instead.
    """
    images = correct.double().mean(0)
    mean = float(images.mean())
    if len(images) < 2 or bool((images == images[0]).all()):
        return mean, interval(round(mean * len(images)), len(images))
    half_width = 1.959964 * float(images.std(correction=1)) / math.sqrt(len(images))
    return mean, (max(0.0, mean - half_width), min(1.0, mean + half_width))


@dataclass(frozen=True)
class Read:
    """Corrupted images from the benchmark's files: NAME.npy uint8 [50000, 32, 32, 3], severity by severity."""

    folder: Path
    framing: Framing | None = None

    @property
    def key(self) -> str:
        stamps = [path.stat() for path in sorted(self.folder.glob("*.npy"))]
        return f"{self.folder} {[(stamp.st_size, stamp.st_mtime_ns) for stamp in stamps]}"

    def __call__(self, name: str, severity: int, indices: Tensor, images: Tensor, labels: Tensor) -> Batch:
        part = (severity - 1) * FILE_EXAMPLES + indices.numpy()
        stored, theirs = _array(self.folder / f"{name}.npy", 4), _array(self.folder / "labels.npy", 1)
        found = torch.from_numpy(np.array(theirs[part]).astype(np.int64))
        if not torch.equal(found, labels):
            raise SparringError(
                f"corruptions.root: {self.folder / 'labels.npy'} has other labels than the test set, of "
                f"{int((found != labels).sum())} of {len(labels)} examples at severity {severity}: it is of other "
                f"data. Download the files again."
            )
        read = torch.from_numpy(np.array(stored[part])).permute(0, 3, 1, 2)
        if self.framing is not None:
            read = torch.stack([self.framing.apply(to_image(image), place) for place, image in enumerate(read)])
        return read, found


@dataclass(frozen=True)
class Generated:
    """Generated corrupted images. Each depends only on the seed, its index, the corruption and the severity."""

    seed: int

    @property
    def key(self) -> str:
        return f"imagecorruptions-imaug {version('imagecorruptions-imaug')}, seed {self.seed}"

    def __call__(self, name: str, severity: int, indices: Tensor, images: Tensor, labels: Tensor) -> Batch:
        which, pixels = CORRUPTIONS.index(name), images.permute(0, 2, 3, 1).numpy()
        seeds = [
            generator(self.seed, "corruption", which, severity, index).initial_seed() for index in indices.tolist()
        ]
        done = [corrupt(image, name, severity, key) for image, key in zip(pixels, seeds, strict=True)]
        return torch.from_numpy(np.stack(done)).permute(0, 3, 1, 2), labels


@dataclass(frozen=True)
class Seen:
    """Work: the outcomes of corrupted images. indices: of the examples in the data set."""

    source: Source
    name: str
    severity: int
    indices: tuple[int, ...]

    def __call__(
        self, models: Sequence[nn.Module], x: Tensor, y: Tensor, progress: Callable[[str], None] | None
    ) -> Outcomes:
        clean = (255 * x).round().to("cpu", torch.uint8)
        images, labels = self.source(self.name, self.severity, torch.tensor(self.indices), clean, y.cpu())
        with frozen(models[0]):
            return clean_outcomes(models[0], scaled(images.to(x.device)), labels.to(x.device)).cpu()


def corrupt(image: Array, name: str, severity: int, seed: int) -> Array:
    """Corrupt one image, uint8 [H, W, C].

    An image smaller than 32 pixels is padded with its edge values and cropped afterwards. For a grey image the first
    channel of the result is kept.
    """
    height, width, channels = image.shape
    top, left = (max(0, -(-(MIN_SIDE - side) // 2)) for side in (height, width))
    padded = np.pad(image, ((top, top), (left, left), (0, 0)), mode="edge")
    key = seed % 2**31
    seed_argument = {"seed": key} if name in SEEDED_BY_ARGUMENT else {}
    with _numpy_seeded(key), redirect_stdout(sys.stderr):  # the package prints when shapes do not fit
        done = _package().corrupt(padded, corruption_name=name, severity=severity, **seed_argument)
    result: Array = done[top : top + height, left : left + width, :channels]
    return result


def _package() -> Any:
    try:
        import imagecorruptions
    except ImportError as error:
        raise SparringError(
            "corruptions.root is unset, and the package that generates corruptions is not installed: pip install "
            "'sparring[corruptions]', or set corruptions.root to the folder of CIFAR-10-C."
        ) from error
    return imagecorruptions


@contextmanager
def _numpy_seeded(seed: int) -> Iterator[None]:
    """Seed numpy's global generator, which the package uses, and restore it."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)


def _folder(root: Path, data: str) -> Path:
    if data not in FOLDERS:
        raise UsageError(
            f"corruptions.root = {str(root)!r} with data.name = {data!r}: files exist for {' and '.join(FOLDERS)}. "
            f"Leave corruptions.root unset to generate the corruptions."
        )
    folder = root.expanduser() / FOLDERS[data]
    needed = FILE_EXAMPLES * len(SEVERITIES)
    for name in (*CORRUPTIONS, "labels"):
        array = _array(folder / f"{name}.npy", 1 if name == "labels" else 4)
        if len(array) != needed:
            raise SparringError(
                f"corruptions.root = {str(root)!r}: {folder / name}.npy has {len(array)} entries; {needed} are "
                f"needed, {FILE_EXAMPLES} per severity. Download the files again."
            )
    return folder


def _array(path: Path, dimensions: int) -> Any:
    """A memory-mapped array: a file has 150 MB."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SparringError(
            f"corruptions.root: {path} cannot be read ({error}). It must be a file of CIFAR-10-C or CIFAR-100-C."
        ) from error
    fits = array.ndim == dimensions and (
        dimensions == 1 or (array.dtype == np.uint8 and array.shape[1:] == (32, 32, 3))
    )
    if not fits:
        raise SparringError(
            f"corruptions.root: {path} is {array.dtype} of shape {array.shape}; images are uint8 [50000, 32, 32, 3] "
            f"and labels [50000]. Download the files again."
        )
    return array
