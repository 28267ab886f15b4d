"""`ray up deploy/ray/local.yaml` from the operator's machine, on the two hosts of the tests."""

from __future__ import annotations

import json

from tests.support.hosts import HEAD, WORKER, Hosts

CLUSTER = "deploy/ray/local.yaml"


def render(two_hosts: Hosts) -> None:
    """What a user changes: addresses, user; nothing else."""
    path = two_hosts.home("operator") / "checkout" / CLUSTER
    text = path.read_text()
    for before, after in (("192.0.2.10", HEAD), ("192.0.2.11", WORKER), ("ssh_user: sparring", "ssh_user: root")):
        assert text.count(before) == 1 or after in text, "another test has done it"
        text = text.replace(before, after)
    path.write_text(text)


def nodes(two_hosts: Hosts) -> set[str]:
    script = "import json, ray; ray.init(log_to_driver=False, logging_level=50); print(json.dumps(ray.nodes()))"
    reported = two_hosts.on(HEAD, f"bash -ic 'python -c \"{script}\" 2>/dev/null' 2>/dev/null")
    nodes = json.loads(reported.strip().splitlines()[-1])
    return {node["NodeManagerAddress"] for node in nodes if node["Alive"]}


def on_operator(two_hosts: Hosts, command: str, timeout_s: float = 180) -> str:
    return two_hosts.run("bash", "-c", f"cd checkout && {command}", timeout_s=timeout_s)
