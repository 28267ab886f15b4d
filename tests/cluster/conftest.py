"""The hosts are prepared once for all tests of this folder, and started anew for each module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hosts import Hosts, hosts, missing, prepare


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if (reason := missing()) is not None:
        pytest.fail(reason)  # who asks for these tests wants to know
    work = tmp_path_factory.mktemp("cluster")
    prepare(work)
    return work


@pytest.fixture(scope="module")
def two_hosts(homes: Path) -> Iterator[Hosts]:
    with hosts(homes) as running:
        yield running
