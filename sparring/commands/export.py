"""Export the model of a run: RobustBench, safetensors, ONNX, a card. It takes images in [0, 1], normalises inside."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from sparring.attacks import frozen
from sparring.commands.card import card, results_of
from sparring.commands.evaluate import Trained, open_trained
from sparring.data import scaled
from sparring.errors import SparringError, UsageError, file_failure
from sparring.evaluation.autoattack import describe
from sparring.models.starting import not_fresh
from sparring.runs import Run, writing

Format = Literal["robustbench", "safetensors", "onnx", "card"]
SUFFIX: dict[Format, str] = {"robustbench": ".pt", "safetensors": ".safetensors", "onnx": ".onnx", "card": ".md"}
NORMS = {"linf": "Linf", "l2": "L2"}  # RobustBench's names of threat models
TOLERANCE = 1e-4  # largest difference of logits between ONNX Runtime and torch, relative to their spread in a row
ROUNDING = 2.0**-22  # of a logit in float32, relative to it


def export_run(
    run: Run, kind: str, out: Path, changes: dict[str, str] | None = None, *, best: bool = False
) -> list[Path]:
    """Write the last (or best) weights of `run` to `out`; returns the files that were written.

    Args:
        kind: robustbench: the state dict as `out` and the model's info beside it as .json; safetensors: weights with
            metadata; onnx: images float32 [batch, C, H, W] to logits [batch, classes]; card: a model card, README.md.

    Raises:
        UsageError: no such format, or a file exists already.
        SparringError: no such checkpoint, a package is missing, or the ONNX model has other outputs.
    """
    if kind not in get_args(Format):
        raise UsageError(f"--format {kind}: no such format; known are {', '.join(get_args(Format))}.")
    out = out.expanduser()
    files = [out, out.with_suffix(".json")] if kind == "robustbench" else [out]
    for file in files:
        _require_free(file)
    if kind == "robustbench" and out.suffix == ".json":
        raise UsageError(
            f"--out {out}: give the file for the weights, such as {out.with_suffix('.pt')}; the .json is written next "
            f"to it."
        )
    trained = open_trained(run, changes or {}, best=best)
    trained.model.cpu().eval()
    if kind == "onnx":
        _write(out, lambda path: _onnx(trained, path))
    elif kind == "safetensors":
        _write(out, lambda path: save_file(_weights(trained), path, metadata=_metadata(trained, run)))
    elif kind == "card":
        text = card(trained, run)
        _write(out, lambda path: path.write_text(text))
    else:
        info = json.dumps(model_info(trained, run), indent=2) + "\n"
        content = BytesIO()  # torch's own writing of files hides why it failed
        torch.save(_weights(trained), content)
        _write(out, lambda path: path.write_bytes(content.getbuffer()))
        _write(files[1], lambda path: path.write_text(info))
    return files


def model_info(trained: Trained, run: Run) -> dict[str, Any]:
    """RobustBench's model_info fields (robustbench/leaderboard), and the threat model, which is a folder name there.

    Accuracies are percentages as strings, as in RobustBench; null if this checkpoint was not evaluated by AutoAttack.
    The user fills in paper and authors.
    """
    config = trained.config
    evaluation = _autoattack_result(trained, run)
    clean = robust = None
    footnote = "Not evaluated by AutoAttack."
    if evaluation is not None:
        clean, robust = (f"{100 * evaluation[name]:.2f}" for name in ("clean_accuracy", "robust_accuracy"))
        footnote = f"{evaluation['attack']}, {evaluation['samples']} test examples ({evaluation['drawn']})."
    return {
        "link": "",
        "name": "",
        "authors": "",
        "additional_data": config.data.extra is not None or not_fresh(config.model),
        "number_forward_passes": 1,
        "dataset": config.data.name,
        "venue": "",
        "architecture": config.model.name,
        "eps": fraction(trained.threat.epsilon),
        "clean_acc": clean,
        "reported": robust,
        "autoattack_acc": robust,
        "footnote": footnote,
        "unreliable": False,
        "threat_model": NORMS.get(trained.threat.norm, trained.threat.norm),
    }


def _autoattack_result(trained: Trained, run: Run) -> dict[str, Any] | None:
    """The AutoAttack result of these weights: of the last `sparring evaluate`, or of the end of training."""
    return next((each for each in results_of(trained, run) if _is_whole(each, trained)), None)


def _is_whole(evaluation: dict[str, Any], trained: Trained) -> bool:
    """Whether it is by all attacks of AutoAttack's standard or longer version, and did not stop early."""
    ball = trained.threat.norm, trained.threat.epsilon, trained.test.classes
    whole = [describe(*ball, version) for version in ("standard", "plus")]
    return evaluation.get("attack") in whole and "until" not in evaluation


def fraction(epsilon: float) -> str:
    """The radius as RobustBench writes it: 0.3, or 8/255."""
    text, count = f"{epsilon:g}", round(epsilon * 255)
    return f"{count}/255" if float(text) != epsilon and abs(count / 255 - epsilon) < 1e-6 else text


def _weights(trained: Trained) -> dict[str, torch.Tensor]:
    return {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in trained.model.state_dict().items()
    }


def _metadata(trained: Trained, run: Run) -> dict[str, str]:
    """What is needed to rebuild the model; safetensors stores only strings."""
    config = trained.config
    return {
        "format": "pt",
        "sparring": version("sparring"),
        "run": run.path.name,
        **trained.named(),
        "model": config.model.name,
        "shape": json.dumps(trained.test.shape),
        "classes": str(trained.test.classes),
        "dataset": config.data.name,
        "norm": trained.threat.norm,
        "epsilon": str(trained.threat.epsilon),
        "input": "float32 in [0, 1]; normalisation is inside the model",
    }


def _onnx(trained: Trained, path: Path) -> None:
    """Write the ONNX model and compare its logits with torch's; a model that differs is refused."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 (torch's exporter needs it; without this it would fail with a traceback)
    except ImportError as error:
        raise SparringError(
            f"--format onnx: {error.name} is not installed. pip install 'sparring[export]', or use --format "
            f"safetensors."
        ) from error
    x = scaled(trained.test.images(torch.arange(min(2, len(trained.test)))))
    x = x if len(x) > 1 else x.repeat(2, 1, 1, 1)  # a batch of one would become part of the graph
    with frozen(trained.model), redirect_stdout(None), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, about torch's internals
        torch.onnx.export(
            trained.model,
            (x,),
            path,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        some = scaled(trained.test.images(torch.arange(min(7, len(trained.test)))))
        with torch.no_grad():
            expected = trained.model(some)
    logits = torch.from_numpy(session.run(None, {"images": some.numpy()})[0])
    gap, size = float((logits - expected).abs().max()), float(expected.abs().max())
    spread = float((expected - expected.median(1, keepdim=True).values).abs().max())  # a constant hides nothing
    if not gap <= TOLERANCE * max(spread, 1.0) + ROUNDING * size:
        raise SparringError(
            f"--format onnx: the ONNX model's logits differ by {gap:.3g} from torch's (largest logit {size:.3g}), so "
            f"nothing was written. Use --format safetensors, and please report the model."
        )


def _require_free(path: Path) -> None:
    if path.exists():
        raise UsageError(f"--out: {path} exists; nothing is overwritten. Remove it, or give another --out.")
    if not path.parent.is_dir():
        raise UsageError(f"--out: there is no folder {path.parent}. Make it, or give another --out.")


def _write(path: Path, fill: Callable[[Path], Any]) -> None:
    """Write a file atomically, and never over an existing one.

    Raises:
        SparringError: it cannot be written.
    """
    with writing(path), _beside(path) as partial:
        try:
            fill(partial)
        except SafetensorError as error:
            raise file_failure(error, path) from error
        partial.chmod(_usual_mode())  # safetensors makes files that only their owner may read
        try:
            os.link(partial, path)
        except FileExistsError:
            _require_free(path)


def _usual_mode() -> int:
    """Permissions of a new file."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        yield Path(folder) / path.name
