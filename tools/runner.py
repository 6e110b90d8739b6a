"""Execute notebooks, two at a time, so that nothing hangs and one bad page doesn't stop the others.

Every cell has a limit that fits what it does. A kernel that dies or stalls is named in one line,
its page is tried once more from the top, and the other pages go on.
"""

import asyncio
import concurrent.futures
import contextlib
import os
import pathlib
import re
import sys
import tempfile
import threading
import time
import uuid
from typing import NamedTuple

import nbclient
import nbformat
import tqdm

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOKS, MODELS = ROOT / "notebooks", ROOT / "saved_models"
CELL_LIMIT = 300  # seconds for a cell that trains nothing; the slowest takes about 20
REPLY_LIMIT = 30  # seconds from a cell's end to the kernel's reply, which comes at once or never
START_LIMIT = 120  # seconds until a kernel answers
TRAINING_LIMIT = 3600  # seconds for a model that was never trained before
SLOWER = 10  # times the recorded training seconds, for a slower or busier machine
TRAINING = re.compile(r"^([\w-]+) \((\w+)\): training, because", re.M)
NEWS = re.compile(r"^[\w-]+ \(\w+\): (?:training, because|trained in|kept as) .*$", re.M)


class StoppedError(RuntimeError):
    """A kernel died or stalled."""


class Result(NamedTuple):
    """What became of a page: its executed notebook, or why there is none; and the seconds."""

    notebook: nbformat.NotebookNode | None
    error: str
    seconds: float


class Runner(nbclient.NotebookClient):
    """Executes one notebook in a kernel of its own, and ends the kernel if it stalls."""

    def __init__(self, path, environment, notebook=None, say=print, cell_limit=CELL_LIMIT):
        self.path, self.environment, self.say = path, environment, say
        self.cell_limit = cell_limit
        self.deadline, self.doing, self.stalled = float("inf"), "its start", ""
        super().__init__(
            notebook or nbformat.read(path, as_version=4),
            timeout=None,  # `_watch` knows better than a number that holds for all cells
            startup_timeout=START_LIMIT,
            iopub_timeout=REPLY_LIMIT,
            raise_on_iopub_timeout=True,  # instead of losing an output
            kernel_name="python3",
            coalesce_streams=True,  # how often a kernel flushes changes from run to run
            store_widget_state=False,
            resources={"metadata": {"path": str(NOTEBOOKS)}},
        )
        # nbclient answers an output widget on the channel on which it waits for the cell's reply,
        # and then sometimes misses that reply (2 of 100 times on a busy machine).
        self.comm_open_handlers = {}

    def create_kernel_manager(self):
        manager = super().create_kernel_manager()
        if os.name == "posix":  # sockets in the file system: nobody else can listen
            manager.transport = "ipc"
            manager.ip = f"{tempfile.gettempdir()}/ae_keras-{uuid.uuid4().hex[:12]}"
        return manager

    def run(self):
        """Execute all cells and return the notebook.

        Raises:
            StoppedError: the kernel died, or was ended because it stalled.
            nbclient.exceptions.CellExecutionError: a cell raised.
        """
        code = [cell for cell in self.nb.cells if cell.cell_type == "code"]
        with tqdm.tqdm(
            total=len(code), desc=self.path.stem, unit="cell", leave=False, disable=None
        ) as self.bar:
            asyncio.run(self._run())
        return self.nb

    async def _run(self):
        watch = asyncio.create_task(self._watch())
        try:
            await self.async_execute(env={**os.environ, **self.environment})
        except (RuntimeError, TimeoutError) as error:
            died = isinstance(error, nbclient.exceptions.DeadKernelError)
            cause = f"its kernel died in {self.doing}" if died else f"{self.doing}: {error}"
            raise StoppedError(self.stalled or cause) from error
        finally:
            watch.cancel()

    async def _watch(self):
        """End the kernel when a cell is past its deadline; nbclient then raises."""
        while True:
            await asyncio.sleep(0.5)
            if time.monotonic() > self.deadline:
                self.stalled = f"its kernel stalled in {self.doing}"
                self.deadline = float("inf")
                await self.km.shutdown_kernel(now=True)

    def on_cell_execute(self, cell, cell_index):
        number = sum(c.cell_type == "code" for c in self.nb.cells[: cell_index + 1])
        self.doing = f"code cell {number}"
        self.deadline = time.monotonic() + self.cell_limit

    def on_cell_executed(self, cell, cell_index, execute_reply):
        self.deadline = float("inf")
        self.bar.update()

    def process_message(self, message, cell, cell_index):
        content = message["content"]
        if message["msg_type"] == "stream":
            for name, dataset in TRAINING.findall(content["text"]):
                limit = self.cell_limit + training_limit(name, dataset)
                self.deadline = max(self.deadline, time.monotonic() + limit)
            for line in NEWS.findall(content["text"]):
                self.say(line)
            last = content["text"].replace("\r", "\n").rstrip().rpartition("\n")[2]
            self.bar.set_postfix_str(last.strip()[:60])  # a training's own bar, among others
        if message["msg_type"] == "status" and content["execution_state"] == "idle":
            self.deadline = min(self.deadline, time.monotonic() + REPLY_LIMIT)
        return super().process_message(message, cell, cell_index)

    def kill(self):
        """End the kernel from another thread."""
        with contextlib.suppress(AttributeError, OSError):  # it is not there, or no longer
            self.km.provisioner.process.kill()


def training_limit(name, dataset):
    """Return how many seconds a model's training may take, from what its file says it took."""
    from ae_keras import errors  # slow to import

    for path in (MODELS / dataset / f"{name}.h5", *sorted(MODELS.glob(f"*/{name}.h5"))):
        with contextlib.suppress(FileNotFoundError, errors.DamagedModelError):
            return SLOWER * modelfile_seconds(path)
    return TRAINING_LIMIT


def modelfile_seconds(path):
    from ae_keras import modelfile

    return modelfile.read(path).facts["seconds"]


def run_all(paths, workers=2, notebooks=None, cell_limit=CELL_LIMIT, **environment):
    """Execute notebooks side by side, and say in a line each what became of them.

    Args:
        paths: of the notebooks.
        workers: how many run at a time; 1 where they train.
        notebooks: dict of path → notebook that is executed in the file's place.
        cell_limit: seconds for a cell that trains nothing.
        **environment: variables for the kernels.

    Returns:
        A dict of path → `Result`, in the order of `paths`.
    """
    live, stopping = set(), threading.Event()

    def run(path):
        start = time.monotonic()
        notebook, error = None, ""
        for attempt in (1, 2):
            source = nbformat.from_dict(notebooks[path]) if notebooks else None
            runner = Runner(path, environment, source, say, cell_limit)
            live.add(runner)
            try:
                notebook, error = runner.run(), ""
                break
            except StoppedError as stopped:
                error = str(stopped)
                if stopping.is_set():
                    break
                say(f"{path.stem}: {error}; {'once more' if attempt == 1 else 'given up'}")
            except nbclient.exceptions.CellExecutionError as failed:
                error = f"{runner.doing} failed: {failed.ename}: {failed.evalue}"
                say(f"{path.stem}: {error}\n{failed.traceback}")
                break
            finally:
                live.discard(runner)
        seconds = time.monotonic() - start
        if notebook:
            cells = sum(cell.cell_type == "code" for cell in notebook.cells)
            say(f"{path.stem}: {cells} cells in {seconds:.0f} s")
        return Result(notebook, error, seconds)

    pool = concurrent.futures.ThreadPoolExecutor(workers)
    try:
        futures = {path: pool.submit(run, path) for path in paths}
        return {path: future.result() for path, future in futures.items()}
    except BaseException:  # Ctrl-C: no new page, and no kernel left behind
        stopping.set()
        pool.shutdown(wait=False, cancel_futures=True)
        while live:
            for runner in tuple(live):
                runner.kill()
            time.sleep(0.1)
        raise
    finally:
        pool.shutdown()


def say(line):
    """Print a line above the bars."""
    with tqdm.tqdm.external_write_mode(file=sys.stdout):
        print(line, flush=True)


def exit_if_failed(results):
    """End the program with a status ≠ 0 if a page was not executed to its end."""
    if failed := [
        f"{path.stem}: {result.error}" for path, result in results.items() if result.error
    ]:
        sys.exit("\nNot executed:\n" + "\n".join(failed))
