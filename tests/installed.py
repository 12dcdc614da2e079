"""Is this installation of pyasync_c whole? Run by `make sdist` outside the checkout."""

import importlib.util
import sys
from pathlib import Path

import pyasync_c


async def main() -> str:
    await pyasync_c.sleep(0.001)
    return "done"


package = Path(pyasync_c.__file__).parent
assert package.is_relative_to(sys.prefix), f"not the installed package: {package}"
assert (package / "py.typed").exists()
assert list(package.glob("*.pyi"))
assert (Path(pyasync_c.get_include()) / "pyasync_c.h").exists()
assert importlib.util.find_spec("pyasync_c._benchmarks") is not None
assert pyasync_c.run(main()) == "done"
print(f"pyasync_c works from {package}")
