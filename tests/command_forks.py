"""Commands in forks of one process that has imported everything, because importing takes longer than most of what is tested.

A fork can die at one of the moments at which a process can leave something half done: before a file is flushed, renamed or appended to. It is
killed there, or finds the disk full from there on.
"""

import json
from pathlib import Path
from typing import NamedTuple

from .processes import start_python

_SERVER = """
import json, os, signal, sys

def serve():
    import analysis.explanations.explain, analysis.judges.chat_models, analysis.judges.reply_cache, analysis.plots.stage
    import analysis.report_stages, analysis.stages, crosscoder.run.tracking, training.stages
    import matplotlib.figure, openai, transformers.models.llama.modeling_llama
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        child = os.fork()
        if child == 0:
            run(request)
        print(child, flush=True)

def run(request):
    code = 1
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    try:
        counted = arm(request["how"], request["after"])
        from crosscoder.command.app import main
        sys.argv = ["crosscoder", *request["words"]]
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        if request["counts"]:
            with open(request["counts"], "w") as file:
                file.write(str(counted["moments"]))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

def arm(how, after):
    counted = {"moments": 0}

    def dying(function):
        def call(*words, **named):
            counted["moments"] += 1
            if how == "kill" and counted["moments"] == after:
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "full" and counted["moments"] >= after:
                raise OSError(28, "No space left on device")
            return function(*words, **named)
        return call

    for name in ("fsync", "replace", "rename"):
        setattr(os, name, dying(getattr(os, name)))
    from crosscoder.runtime import files
    import crosscoder.run.tracking, analysis.judges.reply_cache
    append_line = dying(files.append_line)
    for module in (files, crosscoder.run.tracking, analysis.judges.reply_cache):
        module.append_line = append_line
    return counted

serve()
"""


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    """Exit code; negative: the signal that killed it."""

    output: str


class Forks:
    """The process that is forked; commands work in its folder."""

    def __init__(self, folder: Path, outputs: Path) -> None:
        """
        Args:
            outputs: Folder for what the commands print.
        """
        self._outputs = outputs
        self._printed: dict[int, Path] = {}
        self._server = start_python(
            "-W", "ignore", "-c", _SERVER, folder=folder, asked=True,
            variables={"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"},
        )  # fmt: skip

    def start(
        self, *words: str | Path, how: str = "never", after: int = 0, counts: Path | None = None
    ) -> int:
        """Start a command, and return the id of its process.

        Args:
            how: `kill`, `full` or `never`.
            after: Number of the moment at which it dies.
            counts: File for the number of moments at which it could have died.
        """
        output = self._outputs / str(len(self._printed))
        request = {
            "words": [str(word) for word in words],
            "how": how,
            "after": after,
            "output": str(output),
            "counts": str(counts or ""),
        }
        process = int(self._asked(request))
        self._printed[process] = output
        return process

    def end_of(self, process: int) -> Ended:
        """Wait until a command ends."""
        code = int(self._asked({"wait": process}))
        return Ended(code, self._printed[process].read_text(encoding="utf-8", errors="replace"))

    def close(self) -> None:
        """End the process."""
        self._server.communicate(timeout=60)

    def _asked(self, request: dict[str, object]) -> str:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        assert answer, self._server.communicate()[1]
        return answer
