"""Names of weights: those of a file as the model at hand has them, whatever wrapped the network that was saved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

from torch import Tensor, nn

# The attributes in which DataParallel, torch.compile, Lightning modules and `sparring` hold a network.
HOLDERS = frozenset({"module", "_orig_mod", "model", "net", "network"})
COUNTERS = frozenset({"n_averaged"})  # what torch's AveragedModel saves beside the weights


def named_alike(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The weights under the names of the model, where these differ only by the attributes that hold a network.

    A name that the model itself has stays as it is. What fits no name, or several, keeps its own, and is refused later.
    """
    own = model.state_dict()
    kept = {name: tensor for name, tensor in weights.items() if name.rpartition(".")[2] not in COUNTERS or name in own}
    names = max(_candidates([*kept], model), key=lambda each: len(own.keys() & set(each)))
    return dict(zip(_without_holders(names, own.keys()), kept.values(), strict=True))


def _candidates(names: list[str], model: nn.Module) -> Iterator[list[str]]:
    """The names without the holders that all begin with; each also with the name of the only child.

    Here torchvision's and timm's networks stand behind their normalisation.
    """
    children = [name for name, _ in model.named_children() if name != "normalize"]
    while True:
        yield names
        if len(children) == 1:
            yield [f"{children[0]}.{name}" for name in names]
        first = {name.partition(".")[0] for name in names}
        if len(first) != 1 or not first <= HOLDERS or not all("." in name for name in names):
            return
        names = [name.partition(".")[2] for name in names]


def _without_holders(names: list[str], own: Collection[str]) -> list[str]:
    """Each name that the model lacks, as the one that is the same without holders, if there is exactly one."""
    missing = sorted(set(own) - set(names))
    by_core = {_core(name): name for name in missing}
    counts = Counter(map(_core, missing)), Counter(_core(name) for name in names if name not in own)

    def found(name: str) -> str:
        core = _core(name)
        single = name not in own and all(count[core] == 1 for count in counts)
        return by_core[core] if single else name

    return [found(name) for name in names]


def _core(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in HOLDERS)
