"""Who is compared: event loops under asyncio's names, and runtimes with names of their own."""

import importlib
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from importlib import metadata, util
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Framework:
    """One column of the comparison."""

    name: str
    title: str
    dialect: str
    """Whose names its programs use: native, asyncio or trio."""
    package: str | None = None
    """What has to be installed; None is the standard library."""
    loop: str = ""
    """module:function that makes the event loop, for the dialect asyncio."""

    @property
    def is_ours(self) -> bool:
        return self.package == "pyasync_c"

    def version(self) -> str | None:
        """The version that is installed here; None if it cannot run here."""
        if self.name == "asyncio-eager" and sys.version_info < (3, 12):
            return None
        if self.package is None:
            return sys.version.split()[0]
        if util.find_spec(self.package) is None:
            return None
        try:
            return metadata.version(self.package)
        except metadata.PackageNotFoundError:
            return "in place"

    def run(self, main: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """Run `main(*args)` to its end, in an event loop made for it."""
        if self.dialect == "trio":
            result: T = importlib.import_module("trio").run(main, *args)
        elif self.dialect == "native":
            result = importlib.import_module("pyasync_c").run(main(*args))
        else:
            import asyncio

            with asyncio.Runner(loop_factory=self.new_loop) as runner:
                result = runner.run(main(*args))
        return result

    def new_loop(self) -> Any:
        """The event loop that runs the dialect asyncio."""
        module, _, function = self.loop.partition(":")
        loop = getattr(importlib.import_module(module), function)()
        if self.name == "asyncio-eager":
            loop.set_task_factory(importlib.import_module("asyncio").eager_task_factory)
        return loop


_ALL = [
    Framework("pyasync_c", "pyasync_c", "native", "pyasync_c"),
    Framework(
        "pyasync_c-asyncio",
        "pyasync_c loop, asyncio code",
        "asyncio",
        "pyasync_c",
        "pyasync_c:new_event_loop",
    ),
    Framework("asyncio", "asyncio", "asyncio", None, "asyncio:new_event_loop"),
    Framework("asyncio-eager", "asyncio, eager tasks", "asyncio", None, "asyncio:new_event_loop"),
    Framework("uvloop", "uvloop", "asyncio", "uvloop", "uvloop:new_event_loop"),
    Framework("rloop", "rloop", "asyncio", "rloop", "rloop:new_event_loop"),
    Framework("trio", "trio", "trio", "trio"),
]

FRAMEWORKS = {framework.name: framework for framework in _ALL}
BASELINE = "asyncio"
