"""The model card of a run in Hugging Face's format: what its records say, and nothing else."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

from sparring.commands.evaluate import Trained
from sparring.data import SOURCES
from sparring.report.parts import percent
from sparring.runs import Run

TASK = "image-classification"
TAGS = [TASK, "adversarial-robustness", "adversarial-training"]


def results_of(trained: Trained, run: Run) -> list[dict[str, Any]]:
    """The evaluations of exactly these weights: the last `sparring evaluate`, and that at the end of training."""
    evaluation = run.read_object("evaluation.json")
    final = run.read_object("summary.json")
    of_last = f"step-{final.get('steps', -1):09d}" == trained.checkpoint.name
    epsilon = trained.threat.epsilon
    same = trained.named().items() <= evaluation.items() and evaluation.get("epsilon", epsilon) == epsilon
    if trained.config.evaluation.weights == "ema":
        names = ("clean_accuracy", "robust_accuracy", "clean_interval", "robust_interval", "warnings")
        final |= {name: final.get(f"ema_{name}") for name in names}
    return [*([evaluation] if same else []), *([final] if of_last else [])]


def card(trained: Trained, run: Run) -> str:
    """README.md: a front matter for the hub, and the same in words with intervals, attack, examples and warnings.

    License, authors and intended use are not in a run's records: they are named as missing.
    """
    results = [each for each in results_of(trained, run) if each.get("robust_accuracy") is not None]
    return f"---\n{_front_matter(trained, run, results)}---\n\n{_body(trained, run, results)}"


def _front_matter(trained: Trained, run: Run, results: list[dict[str, Any]]) -> str:
    """YAML, whose values are written as JSON: that is YAML too, and escapes what names may hold."""
    name = trained.config.data.name
    index = {"name": run.path.name, "results": [_result(name, each) for each in results[:1]]}
    fields: dict[str, Any] = {"pipeline_tag": TASK, "tags": TAGS, "metrics": ["accuracy"]}
    if name in SOURCES:
        fields["datasets"] = [name]
    if results:
        fields["model-index"] = [index]
    return "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in fields.items())


def _result(dataset: str, found: dict[str, Any]) -> dict[str, Any]:
    metrics = [{"type": "accuracy", "name": f"robust accuracy ({found['attack']})", "value": found["robust_accuracy"]}]
    if found.get("clean_accuracy") is not None:
        metrics.insert(0, {"type": "accuracy", "name": "clean accuracy", "value": found["clean_accuracy"]})
    return {
        "task": {"type": TASK},
        "dataset": {"name": dataset, "type": dataset, "split": "test"},
        "metrics": metrics,
    }


def _body(trained: Trained, run: Run, results: list[dict[str, Any]]) -> str:
    config, threat = trained.config, trained.threat
    summary = run.read_object("summary.json")
    lines = [
        f"# {run.path.name}",
        f"`{config.model.name}` trained adversarially on `{config.data.name}` with Sparring {version('sparring')}"
        + (f" ({summary['method']})." if summary.get("method") else "."),
        f"Threat model: perturbations of norm {threat.norm} up to ε = {threat.epsilon:g}, of images in [0, 1]; "
        "normalisation is inside the model.",
        f"Weights: {', '.join(trained.named().values())}; images are {' x '.join(map(str, trained.test.shape))} "
        f"(channels x height x width), {trained.test.classes} classes.",
        "## Accuracy",
        _table(results),
        *[f"- Warning: {each}" for each in _warnings(trained, results)],
        "## Not stated",
        "License, authors, intended use and limits are not in the run's records. Add them.",
    ]
    return "\n\n".join(lines) + "\n"


def _table(results: list[dict[str, Any]]) -> str:
    if not results:
        return "These weights were not evaluated: `sparring evaluate RUN`, then export again."
    rows = ["| attack | robust accuracy | clean accuracy | test examples |", "| --- | --- | --- | --- |"]
    for each in results:
        robust, clean = (percent(each.get(f"{of}_accuracy"), each.get(f"{of}_interval")) for of in ("robust", "clean"))
        rows.append(f"| {each['attack']} | {robust} | {clean} | {each['samples']} ({each.get('drawn')}) |")
    return "\n".join(rows) + "\n\nIn brackets: 95 % intervals (Wilson)."


def _warnings(trained: Trained, results: list[dict[str, Any]]) -> list[str]:
    found = [text for each in results for text in each.get("warnings") or ()]
    return list(dict.fromkeys([*trained.warnings, *found]))
