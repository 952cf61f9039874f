"""`python -m device_agent.virtual --root DIR`: the same daemon as `fulcrum phone virtual`."""

import argparse
import sys
from pathlib import Path

from device_agent.contracts import FulcrumError
from device_agent.virtual.serve import serve


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m device_agent.virtual", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="the phone's directory")
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--accept-first-key", action="store_true", help="accept the first key presented, none after")
    options = parser.parse_args()
    try:
        serve(options.root, options.host, options.port, options.accept_first_key, _say)
    except FulcrumError as error:
        sys.stderr.write(f"{error.message} {error.advice}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
