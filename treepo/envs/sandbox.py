"""A program that runs one piece of Python, read from its input, within limits and apart from the rest of the machine.

It is started by its path as `python -Iu sandbox.py LIMITS`, and imports the standard library alone. Where the kernel
permits it (Linux, user namespaces), the code has no network, sees no other process, cannot write but into an empty
folder in memory, and ends with all that it started when this program ends.
"""

import ast
import contextlib
import ctypes
import json
import os
import resource
import signal
import struct
import sys
import traceback
from collections.abc import Callable
from typing import Any

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = (
    0x20000,
    0x8000000,
    0x10000000,
    0x20000000,
    1 << 30,
)
MS_RDONLY, MS_NOSUID, MS_NODEV = 1, 2, 4
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE = 442, -100, 0x8000
MOUNT_ATTR_RDONLY, MS_PRIVATE = 1, 1 << 18
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
CAPABILITY_VERSION_3 = 0x20080522

NOT_APART = 91
"""Exit status where the kernel does not permit what the code should be kept apart by."""


def main() -> None:
    """Set the limits, leave the rest of the machine, and run the code in a process of its own."""
    limits = json.loads(sys.argv[1])
    _limit(resource.RLIMIT_CPU, limits["cpu_s"])
    # macOS has no such limit.
    if sys.platform != "darwin":
        _limit(resource.RLIMIT_AS, limits["memory_bytes"])
    _limit(resource.RLIMIT_FSIZE, limits["file_bytes"])
    _limit(resource.RLIMIT_CORE, 0)
    if limits["apart"]:
        try:
            _enter_namespaces()
            # After that the processes in the namespace alone are counted, not all of the user.
            _limit(resource.RLIMIT_NPROC, limits["processes"])
            # The first child is the init process of its own process namespace: what the code starts ends with it.
            _wait(_fork(lambda: _init(limits["folder"], limits["file_bytes"])))
        except (OSError, AttributeError) as error:
            sys.stderr.write(f"{error}\n")
            os._exit(NOT_APART)
    os.chdir(limits["folder"])
    _run(sys.stdin.read())


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _enter_namespaces() -> None:
    """Without network, mounts and processes of others. The user stays the same, with all privileges in there so far."""
    uid, gid = os.getuid(), os.getgid()
    kinds = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWPID
    _call("unshare", kinds)
    for name, text in (
        ("self/setgroups", "deny"),
        ("self/uid_map", f"{uid} {uid} 1"),
        ("self/gid_map", f"{gid} {gid} 1"),
        # In a namespace below this one the code would have privileges again.
        ("sys/user/max_user_namespaces", "0"),
    ):
        with open(f"/proc/{name}", "w") as file:
            file.write(text)


def _init(folder: str, num_bytes: int) -> None:
    """Be the init process: end with the parent; make files read-only; have a child run the code, and end with it."""
    _call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)
    attributes = struct.pack("QQQQ", MOUNT_ATTR_RDONLY, 0, MS_PRIVATE, 0)
    _call("syscall", SYS_MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, attributes, len(attributes))
    # Sockets of services, which a read-only folder would leave open.
    if os.path.isdir("/run"):
        _call("mount", b"tmpfs", b"/run", b"tmpfs", MS_RDONLY, b"size=0")
    # Other processes; where a container hides parts of /proc, a new one is not permitted.
    with contextlib.suppress(OSError):
        _call("mount", b"proc", b"/proc", b"proc", MS_RDONLY | MS_NOSUID | MS_NODEV, None)
    _call("mount", b"tmpfs", os.fsencode(folder), b"tmpfs", MS_NOSUID | MS_NODEV, f"size={num_bytes}".encode())
    _wait(_fork(_drop_privileges))


def _drop_privileges() -> None:
    _call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _call("capset", struct.pack("Ii", CAPABILITY_VERSION_3, 0), bytes(24))


def _fork(begin: Callable[[], None]) -> int:
    """The child's id in the parent, which has nothing else to do than to wait; the child begins, and goes on."""
    pid = os.fork()
    if pid == 0:
        begin()
    return pid


def _wait(pid: int) -> None:
    """In a parent: end as its child ends. In a child: go on."""
    if pid == 0:
        return
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def _call(name: str, *arguments: Any) -> None:
    """Call a function of the C library; raises OSError."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _run(code: str) -> None:
    """Run the code; what its last line is worth is printed, and of an error its traceback in the code."""
    sys.argv = ["-c"]
    scope = {"__name__": "__main__"}
    try:
        tree, value = ast.parse(code, "<code>"), None
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "<code>", "exec"), scope)  # noqa: S102 - what this program is for
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "<code>", "eval"), scope)  # noqa: S307
        if value is not None:
            print(repr(value))
    except SystemExit:
        pass
    except BaseException as error:  # noqa: BLE001 - whatever the code raises is its output
        frames = traceback.TracebackException.from_exception(error)
        frames.stack = traceback.StackSummary.from_list([f for f in frames.stack if f.filename == "<code>"])
        print("".join(frames.format(chain=False)), end="")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
