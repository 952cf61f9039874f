"""`fulcrum ...` in a real process each, forked from one that has imported what every command does.

A new Python spends half a second of a core on those imports, which is most of what a command takes.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


class Commands:
    """Starts commands one after another, and tells how each ended. What they are forked from ends with us."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def run(self, arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        assert self._server.stdin
        assert self._server.stdout
        with tempfile.TemporaryDirectory(prefix="fulcrum-command-") as scratch:
            out, err = Path(scratch) / "out", Path(scratch) / "err"
            asked = {"arguments": arguments, "environment": environment, "out": str(out), "err": str(err)}
            self._server.stdin.write(json.dumps(asked) + "\n")
            code = int(self._server.stdout.readline())
            return subprocess.CompletedProcess(arguments, code, out.read_text(), err.read_text())


def _serve() -> None:
    import server.api.views
    import server.cli.show
    import server.client
    import server.serving  # noqa: F401 - here, so that commands find it imported
    from server.cli.main import application, main

    application()
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            for stream, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(asked[name], os.O_CREAT | os.O_WRONLY), stream)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.environ.clear()
            os.environ.update(asked["environment"])
            sys.argv = ["fulcrum", *asked["arguments"]]
            main()
            sys.exit()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    _serve()
