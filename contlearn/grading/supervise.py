"""The grader's hold on a student's process: it starts it, asks it, and ends it with everything that it started."""

import contextlib
import os
import queue
import shutil
import signal
import site
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import contlearn
from contlearn.exercises.judging import Calls
from contlearn.grading import messages
from contlearn.grading.confine import adopt_orphans

PACKAGE = Path(contlearn.__file__).resolve().parent
MOST_PROCESSES = 64
START = 300.0  # seconds for Python, PyTorch and IPython to be there
GRACE = 5.0  # seconds that a call has to react to an interrupt
KEPT_OUTPUT = 4_000  # bytes of what a notebook prints
KEPT_VARIABLES = ("PATH", "LANG", "SYSTEMROOT", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")

# Stands between grader and student's process, whose parent it is: whoever kills the parent kills this. Its group is the
# one that is killed in the end.
_KEEPER = """
import ctypes, signal, subprocess, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG: end with the grader, and the student's process with this
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.exit(subprocess.call(sys.argv[1:]))
"""


class Gone(BaseException):
    """The student's process is no more, and why. No `Exception`, so that no check takes it for a mistake in code."""


class Kernel:
    """A fresh process for one notebook.

    Args:
        memory: bytes that the process and what it starts may use.
        seconds: the time that the cells may take, and that every answer may take.
        files: folders that are copied beside the notebook's, by their names there: for cells that read `../files/…`.
    """

    def __init__(self, memory: int, seconds: float, files: Mapping[str, Path] | None = None) -> None:
        self.memory, self.seconds = memory, seconds
        self.answers: dict[str, str] = {}
        self.missing: list[str] = []
        self.spoken = 0
        self.tail = b""
        self._others = _descendants()
        adopt_orphans()
        self._scratch = Path(tempfile.mkdtemp(prefix="contlearn-grade-"))
        for own in ("notebooks", "home", "temporary", "matplotlib"):
            (self._scratch / own).mkdir()
        _copy(PACKAGE, self._scratch / "contlearn", leave=("__pycache__", "exercises"))
        for name, folder in (files or {}).items():
            _copy(folder, self._scratch / name, leave=("__pycache__",))
        _copy_font_list(self._scratch / "matplotlib")
        program = self._scratch / "contlearn" / "grading" / "kernel.py"
        command = [sys.executable, "-u", program, self._scratch, memory]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _KEEPER, *map(str, command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self._scratch / "notebooks",
            env=_environment(self._scratch),
            start_new_session=True,
        )
        self._frames: queue.Queue[Any] = queue.Queue(maxsize=4)
        for work in (self._listen, self._drain):
            threading.Thread(target=work, daemon=True).start()

    def run(self, cells: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
        """Run cells, each with its number; return the numbers of those that raised, and what.

        Raises:
            Gone: the process ended, or was ended, before the last cell was through.
        """
        hello, _ = self._next(time.monotonic() + START, "the kernel was ready", patient=False)
        with contextlib.suppress(TypeError, KeyError):
            self.missing = [str(each) for each in hello["missing"]][:9]
        self._send([list(cell) for cell in cells])
        told, _ = self._next(time.monotonic() + self.seconds, "the cells ran", patient=False)
        if not isinstance(told, dict) or not isinstance(told.get("answers"), dict):
            self._end("its messages were no longer those of a notebook")
        self.answers = {str(name): str(kind) for name, kind in told["answers"].items()}
        errors = told.get("errors")
        with contextlib.suppress(TypeError, ValueError):
            return [(int(number), str(problem)) for number, problem in errors or []]
        return []

    def answer(self, name: str) -> Any:
        """What the notebook gave to `check_<name>`: its value, or a function that asks the process when called.

        Raises KeyError if it gave nothing.
        """
        if self.answers[name] != "function":
            return self._ask(name, None)
        return lambda *arguments: self._ask(name, arguments)

    def close(self) -> None:
        """End the process and all that it started, and remove its folder."""
        _kill_group(self._process)
        self._process.wait()
        _kill_strays(self._others)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError, ValueError):
                if stream is not None:
                    stream.close()
        _remove(self._scratch)

    def __enter__(self) -> "Kernel":
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _ask(self, name: str, arguments: tuple[Any, ...] | None) -> Any:
        request: dict[str, Any] = {"answer": name, "call": arguments is not None, "count": bool(Calls.active)}
        given = arguments or ()
        _, data = messages.send_arguments(given) if arguments is not None else ([], memoryview(b""))
        self._send(request, data)
        deadline = time.monotonic() + self.seconds
        while True:
            reply, data_back = self._next(deadline, f"answer {name.replace('_', '.')} came", patient=True)
            try:
                if not isinstance(reply, dict):
                    raise messages.Malformed("no answer")
                if "ask_back" in reply:
                    self._send(*_answer_back(given, reply, data_back))
                    continue
                if "raised" in reply:
                    kind, words = (str(part) for part in reply["raised"])
                    raise _as_exception(kind, words)
                cut = int(reply["bytes"])
                if arguments is not None:
                    messages.apply_state(messages.unpack(reply["state"], data_back[cut:]), given)
                    if Calls.active:
                        Calls.active[-1].names |= {str(each) for each in reply["names"]}
                        Calls.active[-1].count += int(reply["count"])
                return messages.unpack(reply["value"], data_back[:cut], given)
            except (messages.Malformed, KeyError, TypeError, ValueError, AttributeError) as error:
                self._end(f"its messages were no longer those of a notebook ({error})")

    def _send(self, message: Any, data: bytes | bytearray | memoryview = b"") -> None:
        """A process that does not read must not stop the grader: the writing waits in a thread."""
        stream, failed = self._process.stdin, []

        def work() -> None:
            try:
                messages.write(stream, message, data)  # type: ignore[arg-type]
            except (OSError, ValueError) as error:
                failed.append(error)

        writer = threading.Thread(target=work, daemon=True)
        writer.start()
        writer.join(0.001)
        self._wait(lambda: not writer.is_alive(), time.monotonic() + self.seconds, "a question was read")
        if failed:
            self._end(self._how_it_ended())

    def _next(self, deadline: float, what: str, patient: bool) -> tuple[Any, bytearray]:
        found: list[Any] = []

        def arrived() -> bool:
            with contextlib.suppress(queue.Empty):
                found.append(self._frames.get(timeout=0.05))
            return bool(found)

        self._wait(arrived, deadline, what, interrupt=patient)
        if isinstance(found[0], str):
            self._end(found[0] or self._how_it_ended())
        return found[0]  # type: ignore[no-any-return]

    def _wait(self, done: Callable[[], bool], deadline: float, what: str, interrupt: bool = False) -> None:
        looked = 0.0
        while not done():
            now = time.monotonic()
            if now > deadline and interrupt and os.name != "nt":
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGINT)
                deadline, interrupt = now + GRACE, False
            elif now > deadline:
                self._end(f"too slow: the time was over before {what}")
            if self._process.poll() is not None and self._frames.empty():
                time.sleep(0.05)
                if not done():
                    self._end(self._how_it_ended())
                return
            if now - looked > 0.25:
                looked = now
                self._look()
            time.sleep(0.01)

    def _look(self) -> None:
        """On Linux: end the process if all that it started is too much."""
        mine = _descendants() - self._others
        if len(mine) > MOST_PROCESSES:
            self._end(f"it started more than {MOST_PROCESSES} processes")
        if sum(map(_resident, mine)) > self.memory and sum(map(_proportional, mine)) > self.memory:
            self._end(f"it used more than {self.memory / 2**30:g} GiB of memory")

    def _end(self, why: str) -> None:
        _kill_group(self._process)
        raise Gone(why)

    def _how_it_ended(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(1)
            return f"the kernel ended by itself (exit code {code})"
        return "the kernel closed its channel"

    def _listen(self) -> None:
        while True:
            try:
                self._frames.put(messages.read(self._process.stdout))  # type: ignore[arg-type]
            except messages.Malformed as error:
                self._frames.put(f"it sent {error}")
                return
            except (EOFError, OSError, ValueError):
                self._frames.put("")
                return

    def _drain(self) -> None:
        stream = self._process.stderr
        with contextlib.suppress(OSError, ValueError):
            while stream is not None and (part := os.read(stream.fileno(), 2**16)):
                self.spoken += len(part)
                self.tail = (self.tail + part)[-KEPT_OUTPUT:]


def _answer_back(given: tuple[Any, ...], reply: dict[str, Any], data: bytearray) -> tuple[Any, bytearray]:
    """Call the argument that is a function: with data, here, where it belongs."""
    k, arguments = reply["ask_back"], messages.unpack(reply["arguments"], data)
    if not isinstance(k, int) or not 0 <= k < len(given) or not callable(given[k]) or not isinstance(arguments, tuple):
        raise messages.Malformed("a question that cannot be answered")
    try:
        value, more = messages.pack(given[k](*arguments))
    except Exception as error:  # what the student's arguments provoke is the student's to see
        return {"raised": f"{type(error).__name__}: {error}"}, bytearray()
    return {"value": value}, more


def _as_exception(kind: str, words: str) -> Exception:
    """The student's exception as one of the same name; an interrupt is what a call gets that takes too long."""
    if kind == "KeyboardInterrupt":
        kind, words = "Timeout", "it took too long"
    name = "".join(c for c in kind[:40] if c.isalnum() or c == "_") or "Exception"
    return type(name, (Exception,), {})(words[:300])  # type: ignore[no-any-return]


def _environment(scratch: Path) -> dict[str, str]:
    """Nothing of the grader's environment but what a Python needs; all folders are below `scratch`."""
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    home, temporary = str(scratch / "home"), str(scratch / "temporary")
    return kept | {
        "PYTHONPATH": os.pathsep.join([str(scratch), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONUSERBASE": site.getuserbase(),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": home, "USERPROFILE": home, "IPYTHONDIR": home,
        "TMPDIR": temporary, "TEMP": temporary, "TMP": temporary,
        "MPLBACKEND": "agg", "MPLCONFIGDIR": str(scratch / "matplotlib"),
        "TQDM_DISABLE": "1", "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip


def _copy(source: Path, target: Path, leave: Sequence[str]) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*leave), dirs_exist_ok=True)


def _copy_font_list(target: Path) -> None:
    """Matplotlib's list of fonts takes seconds to make: pass it on where there is one."""
    try:
        import matplotlib
    except ImportError:
        return
    with contextlib.suppress(OSError):
        for each in Path(matplotlib.get_cachedir()).glob("fontlist-*.json"):
            shutil.copy(each, target)


def _descendants() -> set[int]:
    """On Linux, all processes below this one; elsewhere none are seen."""
    children: dict[int, list[int]] = {}
    if sys.platform != "linux":
        return set()
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = Path(entry.path, "stat").read_bytes().rpartition(b")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, waiting = set(), list(children.get(os.getpid(), ()))
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children.get(pid, ())
    return found


def _resident(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _proportional(pid: int) -> int:
    """Memory in which a page that n processes share counts 1/n for each: slower to tell, and just."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return 0


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    if os.name == "nt":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True, check=False)
        process.kill()
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _kill_strays(others: set[int]) -> None:
    """End what escaped from the group: processes that became this one's children when their parents ended."""
    for _ in range(200):
        strays = _descendants() - others
        if not strays:
            return
        for pid in strays:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        for pid in strays:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.01)


def _remove(folder: Path) -> None:
    """Remove a folder, also one whose rights were taken away."""
    for place, folders, _ in os.walk(folder):
        for name in folders:
            with contextlib.suppress(OSError):
                os.chmod(Path(place, name), 0o700, follow_symlinks=os.chmod not in os.supports_follow_symlinks)
    shutil.rmtree(folder, ignore_errors=True)
