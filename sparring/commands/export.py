"""A run's model for others: RobustBench, safetensors, ONNX. Normalisation is inside the model: images are in [0, 1]."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import save_file

from sparring.attacks import frozen
from sparring.commands.evaluate import Trained, open_trained
from sparring.data import scaled
from sparring.errors import SparringError, UsageError
from sparring.models.starting import not_fresh
from sparring.runs import Run

Format = Literal["robustbench", "safetensors", "onnx"]
SUFFIX: dict[Format, str] = {"robustbench": ".pt", "safetensors": ".safetensors", "onnx": ".onnx"}
NORMS = {"linf": "Linf", "l2": "L2"}  # RobustBench's names of threat models
AGREES = 1e-4  # largest difference of logits between ONNX Runtime and torch, relative to the largest logit


def export_run(
    run: Run, kind: str, out: Path, changes: dict[str, str] | None = None, *, best: bool = False
) -> list[Path]:
    """Write the last (or best) weights of `run` to `out`; returns the files that were made.

    Args:
        kind: robustbench: the state dict as `out` and the model's info beside it as .json; safetensors: weights with
            metadata; onnx: images float32 [batch, C, H, W] to logits [batch, classes].

    Raises:
        UsageError: no such format, or a file is there already.
        SparringError: no such checkpoint, a package is missing, or the ONNX model disagrees with this one.
    """
    if kind not in get_args(Format):
        raise UsageError(f"--format {kind}: no such format; known are {', '.join(get_args(Format))}.")
    out = out.expanduser()
    files = [out, out.with_suffix(".json")] if kind == "robustbench" else [out]
    for file in files:
        _require_free(file)
    if kind == "robustbench" and out.suffix == ".json":
        raise UsageError(
            f"--out {out}: the weights' file, say {out.with_suffix('.pt')}; the .json is written beside it."
        )
    made = open_trained(run, changes or {}, best=best)
    made.model.cpu().eval()
    if kind == "onnx":
        _write(out, lambda path: _onnx(made, path))
    elif kind == "safetensors":
        _write(out, lambda path: save_file(_weights(made), path, metadata=_metadata(made, run)))
    else:
        info = json.dumps(model_info(made, run), indent=2) + "\n"
        _write(out, lambda path: torch.save(_weights(made), path))
        _write(files[1], lambda path: path.write_text(info))
    return files


def model_info(made: Trained, run: Run) -> dict[str, Any]:
    """RobustBench's model_info fields (robustbench/leaderboard) and the threat model, there a folder's name.

    Accuracies are percentages as text, as there; null where this checkpoint was not judged by AutoAttack. Paper and
    authors are the user's to fill in.
    """
    config = made.config
    judged = _judged(made, run)
    clean = robust = None
    footnote = "Not judged by AutoAttack."
    if judged is not None:
        clean, robust = (f"{100 * judged[name]:.2f}" for name in ("clean_accuracy", "robust_accuracy"))
        footnote = f"{judged['attack']}, first {judged['samples']} of {len(made.test)} test examples."
    return {
        "link": "",
        "name": "",
        "authors": "",
        "additional_data": config.data.extra is not None or not_fresh(config.model),
        "number_forward_passes": 1,
        "dataset": config.data.name,
        "venue": "",
        "architecture": config.model.name,
        "eps": fraction(made.threat.epsilon),
        "clean_acc": clean,
        "reported": robust,
        "autoattack_acc": robust,
        "footnote": footnote,
        "unreliable": False,
        "threat_model": NORMS.get(made.threat.norm, made.threat.norm),
    }


def _judged(made: Trained, run: Run) -> dict[str, Any] | None:
    """What AutoAttack said of these weights: the last `evaluate`, or the judgement at the end of training."""
    evaluation = run.read_json("evaluation.json") or {}
    final = run.read_json("summary.json") or {}
    of_last = f"step-{final.get('steps', -1):09d}" == made.checkpoint.name
    found = [evaluation] if made.named().items() <= evaluation.items() else []
    if made.config.evaluation.weights == "ema":
        final |= {name: final.get(f"ema_{name}") for name in ("clean_accuracy", "robust_accuracy")}
    found += [final] if of_last else []
    return next((each for each in found if str(each.get("attack")).startswith("AutoAttack")), None)


def fraction(epsilon: float) -> str:
    """0.3 as it is, 8/255 as such."""
    text, count = f"{epsilon:g}", round(epsilon * 255)
    return f"{count}/255" if float(text) != epsilon and abs(count / 255 - epsilon) < 1e-6 else text


def _weights(made: Trained) -> dict[str, torch.Tensor]:
    return {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in made.model.state_dict().items()
    }


def _metadata(made: Trained, run: Run) -> dict[str, str]:
    """What is needed to build the model again; safetensors takes text alone."""
    config = made.config
    return {
        "format": "pt",
        "sparring": version("sparring"),
        "run": run.path.name,
        **made.named(),
        "model": config.model.name,
        "shape": json.dumps(made.test.shape),
        "classes": str(made.test.classes),
        "dataset": config.data.name,
        "norm": made.threat.norm,
        "epsilon": str(made.threat.epsilon),
        "input": "float32 in [0, 1]; normalisation is inside the model",
    }


def _onnx(made: Trained, path: Path) -> None:
    """Write and try it: a model that answers otherwise is not handed out."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 (torch's exporter needs it, and would say so in a traceback)
    except ImportError as error:
        raise SparringError(
            f"--format onnx: {error.name} is not installed. pip install 'sparring[export]', or use --format "
            f"safetensors."
        ) from error
    x = scaled(made.test.images(torch.arange(min(2, len(made.test)))))
    x = x if len(x) > 1 else x.repeat(2, 1, 1, 1)  # a batch of one would become part of the graph
    with frozen(made.model), redirect_stdout(None):
        torch.onnx.export(
            made.model,
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
        some = scaled(made.test.images(torch.arange(min(7, len(made.test)))))
        with torch.no_grad():
            expected = made.model(some)
    answer = torch.from_numpy(session.run(None, {"images": some.numpy()})[0])
    gap, size = float((answer - expected).abs().max()), float(expected.abs().max())
    if not gap <= AGREES * max(size, 1.0):
        raise SparringError(
            f"--format onnx: the model's logits differ by {gap:.3g} from the run's (largest logit {size:.3g}): "
            f"nothing was written. Use --format safetensors, and tell us the model."
        )


def _require_free(path: Path) -> None:
    if path.exists():
        raise UsageError(f"--out: {path} exists; nothing is overwritten. Remove it, or give another --out.")
    if not path.parent.is_dir():
        raise UsageError(f"--out: there is no folder {path.parent}. Make it, or give another --out.")


def _write(path: Path, fill: Callable[[Path], Any]) -> None:
    """The whole file appears at once, and never over another."""
    with _beside(path) as partial:
        fill(partial)
        try:
            os.link(partial, path)
        except FileExistsError:
            _require_free(path)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        yield Path(folder) / path.name
