"""Who may do what at the queue's server: a user of Redis for each role, with rules for keys and commands.

A user is limited to the keys of the runs that it is made for, and within them to what its role needs. So whoever has a
worker's password can neither write weights, stop the run, nor read what other workers have sent (SECURITY.md has the
bounds). Reading and writing are told apart, as Redis 7 does: `%R~` is for reading, `%W~` for writing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Literal, get_args

from sparring.errors import UsageError

Role = Literal["trainer", "worker", "reader"]
ROLES: tuple[Role, ...] = get_args(Role)
DIGITS = 8  # of the random number that ends a run's name in Redis
SPECIAL = frozenset("*?[]\\")  # in patterns of Redis

# By role: what may be read, what may be written, and what both; `*` stands for all keys of the run.
READ: dict[Role, str] = {
    "trainer": "",
    "worker": "fence control meta worker_target weights judged",
    "reader": "state heartbeat pool worker_target",
}
WRITE: dict[Role, str] = {"trainer": "", "worker": "returned payload:* heartbeat verdicts", "reader": ""}
BOTH: dict[Role, str] = {"trainer": "*", "worker": "tickets wake leases owners ready:* arrived:* pieces", "reader": ""}

EVERYBODY = "ping time select get hgetall"
# evalsha: the scripts that the trainer has loaded, none of its own
WORKER = "set unlink persist hget hset hdel hmget hexists llen lpop blpop rpush zadd zrem zscore xread xrange evalsha"
TRAINER = "hkeys lpush zrange zrangebyscore zcard xadd xrevrange xtrim pexpire info script|load command|info"
COMMANDS: dict[Role, str] = {
    "trainer": f"{EVERYBODY} {WORKER} {TRAINER}",
    "worker": f"{EVERYBODY} {WORKER}",
    "reader": EVERYBODY,
}


@dataclass(frozen=True)
class Login:
    """A user of Redis (None: the default one) and its password."""

    user: str | None
    password: str | None = field(repr=False)


def pattern_of(run_name: str | None) -> str:
    """What the keys of all runs begin with whose folder has this name; None: of all runs.

    Raises:
        UsageError: rules of Redis cannot contain the name.
    """
    if run_name is None:
        return "sparring:{*}:"
    if any(sign.isspace() for sign in run_name):
        raise UsageError(
            f"{run_name!r}: rules of Redis cannot contain a space. Choose a run.name without one, or leave the name "
            f"out for users who may work on all runs."
        )
    escaped = "".join(f"\\{sign}" if sign in SPECIAL else sign for sign in run_name)
    return f"sparring:{{{escaped}-{'[0-9a-f]' * DIGITS}}}:"


def user_of(role: Role, run_name: str | None) -> str:
    """The name of the role's user."""
    return f"sparring-{role}" if run_name is None else f"sparring-{run_name}-{role}"


def rules_of(role: Role, run_name: str | None, password: str) -> list[str]:
    """The rules that ACL SETUSER, or a line of an ACL file, gives the role's user. They hold the password's digest."""
    prefix = pattern_of(run_name)
    keys = [
        f"{kind}{prefix}{name}"
        for kind, names in (("%R~", READ), ("%W~", WRITE), ("~", BOTH))
        for name in names[role].split()
    ]
    commands = [f"+{name}" for name in COMMANDS[role].split()]
    return ["reset", "on", f"#{sha256(password.encode()).hexdigest()}", "resetchannels", *keys, *commands]


def line_of(role: Role, run_name: str | None, password: str) -> str:
    """The role's user as a line of Redis's configuration."""
    return " ".join(["user", user_of(role, run_name), *rules_of(role, run_name, password)])


def to_line(login: Login) -> str:
    """The content of a role's file."""
    return f"{login.user} {login.password}\n"


def read_login(folder: Path, role: Role) -> Login:
    """The user and password of a role, from its file in a folder that `sparring access` made.

    Raises:
        UsageError: there is no such file, or it does not hold a user and a password.
    """
    path = folder.expanduser() / role
    remedy = "`sparring access --out FOLDER` makes the files trainer, worker and reader; each holds USER PASSWORD."
    try:
        user, _, password = path.read_text().strip().partition(" ")
    except OSError as error:
        raise UsageError(f"queue.access = {folder}: {path}: {error.strerror}. {remedy}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"queue.access = {folder}: {path} is not text. {remedy}") from error
    if not user or not password:
        raise UsageError(f"queue.access = {folder}: {path} does not hold a user and a password. {remedy}")
    return Login(user, password)
