"""Builds the extension module pyasync_c._core; all else about the package is in pyproject.toml.

These variables of the environment change the build, as "1" where no value is named:

    PAC_SANITIZE    address,undefined or thread: gcc's sanitizers (tests/run.py preloads them)
    PAC_DEBUG       assertions and counters of the core, no optimization to speak of
    PAC_COVERAGE    gcov's counters
    PAC_NO_FREELIST every object from the allocator, as the sanitizers need; they imply it
    PAC_LTO         optimize over all files at once when linking
    PAC_WERROR      a warning is an error
"""

import os
from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


def is_set(name):
    return os.environ.get(name, "") not in ("", "0")


sanitizers = os.environ.get("PAC_SANITIZE", "")

compile_args = [
    "-std=c11",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    # Slots have arguments that they don't need, and CPython's tables end in a half-filled entry.
    # csrc/core does without these two: its own tests build it with all warnings on.
    "-Wno-unused-parameter",
    "-Wno-missing-field-initializers",
]
link_args = []
macros = []

if is_set("PAC_DEBUG") or sanitizers:
    compile_args += ["-O1", "-g", "-fno-omit-frame-pointer"]
elif is_set("PAC_COVERAGE"):
    compile_args += ["-O0", "-g"]
else:
    compile_args += ["-O3"]
if is_set("PAC_DEBUG"):
    compile_args += ["-UNDEBUG"]
    macros.append(("PAC_DEBUG", "1"))
if sanitizers:
    compile_args += [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]
    link_args += [f"-fsanitize={sanitizers}"]
if is_set("PAC_COVERAGE"):
    compile_args += ["--coverage"]
    link_args += ["--coverage"]
if is_set("PAC_NO_FREELIST") or sanitizers:
    macros.append(("PAC_NO_FREELIST", "1"))
if is_set("PAC_LTO"):
    compile_args += ["-flto"]
    link_args += ["-flto", "-O3"]
if is_set("PAC_WERROR"):
    compile_args += ["-Werror"]

core = Extension(
    "pyasync_c._core",
    sources=sorted(glob("csrc/python/*.c") + glob("csrc/core/*.c")),
    depends=sorted(glob("csrc/*/*.h")),
    define_macros=macros,
    extra_compile_args=compile_args,
    extra_link_args=link_args,
    libraries=["pthread"],
)


class BuildExt(build_ext):
    def run(self):
        # setuptools compares times only: other flags, and a source that went, must rebuild as well.
        flags = Path(self.build_temp) / "flags"
        now = repr((core.sources, macros, compile_args, link_args, os.environ.get("CC")))
        if not flags.exists() or flags.read_text() != now:
            self.force = True
        super().run()
        flags.parent.mkdir(parents=True, exist_ok=True)
        flags.write_text(now)
        # Python started in this directory finds the package's sources before the installed ones, so
        # that `pip install .` has to leave the module here too.
        if not self.inplace:
            self.copy_extensions_to_source()


setup(ext_modules=[core], cmdclass={"build_ext": BuildExt})
