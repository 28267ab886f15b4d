"""Datasets: any process rebuilds the same example from its index."""

from __future__ import annotations

from sparring.data.datasets import (
    ArrayDataset,
    Concatenated,
    Dataset,
    FolderDataset,
    Framed,
    Subset,
    require_bytes,
    split_holdout,
)
from sparring.data.extra import load_extra
from sparring.data.loading import SOURCES, load, prepared
from sparring.data.sampling import Sample
from sparring.data.training import TrainingSet, batch, scaled, training_set
from sparring.data.wrapping import wrap

__all__ = [
    "SOURCES",
    "ArrayDataset",
    "Concatenated",
    "Dataset",
    "FolderDataset",
    "Framed",
    "Sample",
    "Subset",
    "TrainingSet",
    "batch",
    "load",
    "load_extra",
    "prepared",
    "require_bytes",
    "scaled",
    "split_holdout",
    "training_set",
    "wrap",
]
