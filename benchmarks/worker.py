"""A process that measures, one call after another. Run as a program, by harness.Worker.

It reads calls from its standard input and writes what they returned to its standard output, both as
JSON, a line each. It loads this folder as a package of its own, and not through pyasync_c, so that
nobody else's numbers are taken in a process that has our extension in it.
"""

import importlib
import importlib.util
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

NAME = "benchmarks"


def load_package() -> None:
    folder = Path(__file__).parent
    spec = importlib.util.spec_from_file_location(
        NAME, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    spec.loader.exec_module(module)


def answer(call: dict[str, Any]) -> dict[str, Any]:
    try:
        module = importlib.import_module(f"{NAME}.{call['module']}")
        return {"value": getattr(module, call["function"])(**call["arguments"])}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    # Ctrl-C reaches the whole process group; the harness is the one to act on it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What is measured may print: its standard output goes where its errors go.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.path[:] = json.loads(sys.stdin.readline())
    load_package()
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=replies, flush=True)


if __name__ == "__main__":
    main()
