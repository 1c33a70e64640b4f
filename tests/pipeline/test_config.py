"""Configurations: what is accepted, what is made of it, and what is said of a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradsift.errors import ConfigError
from gradsift.pipeline import describe_config, load_config, parse_config, with_selection

MINIMAL = """
run_dir = "runs/first"
[model]
path = "some/model"
[pool]
sources = ["pool/*.jsonl", "hf:name:train"]
[targets.skill]
sources = ["few.jsonl"]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_relative_paths_are_taken_from_the_configuration_file(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, MINIMAL))
    assert config.run_dir == str(tmp_path / "runs/first")
    assert config.pool.sources == [str(tmp_path / "pool/*.jsonl"), "hf:name:train"]
    assert config.targets["skill"].sources == [str(tmp_path / "few.jsonl")]


def test_a_hub_name_stays_a_name_and_a_folder_becomes_a_path(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, MINIMAL)).model.path == "some/model"
    (tmp_path / "some/model").mkdir(parents=True)
    assert load_config(write(tmp_path, MINIMAL)).model.path == str(tmp_path / "some/model")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ('[warmup]\nepoch = 3\n', "warmup.epoch: expected no such key"),
        ('[warmup]\nepochs = 0\n', "warmup.epochs: Input should be greater than or equal to 1, got 0"),
        ('[warmup]\nepochs = "two"\n', "warmup.epochs: Input should be a valid integer, got 'two'"),
        ('[collect]\nproj_dim = 1000\n', "proj_dim: expected a power of two"),
        ('[collect]\nmax_tokens = 0\n', '1 thing(s) to change\n  collect.max_tokens: expected "auto" or an integer'),
        ('[collect]\nmax_tokens = "lots"\n', "an integer of at least 1, got 'lots'"),
        ("[collect]\nmemory_limit_gib = inf\n", "collect.memory_limit_gib: Input should be a finite number, got inf"),
        ('[collect]\ngamma = "adamw"\n', "collect.gamma: Input should be 'adam'"),
        ('[select]\nfraction = 0.1\ncount = 3\n', "expected fraction or count, got both"),
        ('[collect]\nproj_dim = 1000\n', "collect: proj_dim: expected a power of two from 256 to 65536, got 1000"),
        ('[train]\nseeds = [-1]\n', "train.seeds.0: Input should be greater than or equal to 0, got -1"),
        ('[select]\nselector = "round_robin"\nreduce = "mean"\n', 'select: selector: expected one that reads a'),
        ('[targets.random]\nsources = ["x"]\n', "target names: expected another than 'random'"),
        ('[targets.t]\nsources = ["hf:name"]\n', "targets.t.sources.0: expected a path, a glob or hf:NAME:SPLIT"),
        (
            '[targets.t]\nsources = ["x"]\nsubtask_field = "a"\nsubtask_from_file = true\n',
            "targets.t: expected subtask_field or subtask_from_file, got both",
        ),
        ('[targets."a/b"]\nsources = ["x"]\n', "target names: expected letters"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_its_key(tmp_path: Path, change: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, MINIMAL + change))
    assert says in str(caught.value)


def test_every_missing_key_is_listed_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"run_dir": "x"}, base=Path("/"))
    text = str(caught.value)
    assert all(f"{key}: expected a value, got none" in text for key in ("model", "pool", "targets"))


@pytest.mark.parametrize(
    ("content", "says"), [(b"a = [", "expected TOML"), (b"\xff\xfe", "expected a readable UTF-8 file")]
)
def test_a_file_that_is_not_toml_is_said_to_be_so(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=says):
        load_config(path)


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a configuration file, got nothing there"):
        load_config(tmp_path / "none.toml")


def test_the_printed_defaults_are_the_defaults(tmp_path: Path) -> None:
    """`gradsift config` with its blanks filled in is a valid configuration, equal to one that says nothing."""
    text = (
        describe_config()
        .replace('run_dir = "…"', 'run_dir = "runs/first"')
        .replace("[targets.NAME]", "[targets.skill]")
        .replace('path = "…"', 'path = "some/model"')
    )
    head, tail = text.split("[targets.skill]")
    head = head.replace("sources = […]", 'sources = ["pool/*.jsonl", "hf:name:train"]')
    tail = tail.replace("sources = […]", 'sources = ["few.jsonl"]')
    printed = load_config(write(tmp_path, head + "[targets.skill]" + tail))
    assert printed == load_config(write(tmp_path, MINIMAL))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ('selector = "vote"\noptions = { tpo = 0.1 }\n', "select: options: expected the options of 'vote', top, over,"),
        ('selector = "threshold"\n', "select: options: expected at_least with selector 'threshold', got none"),
        ('selector = "vote"\noptions = { top = "much" }\n', "select: top: expected a number, got str"),
        ('selector = "knn_kde"\n', 'select: reduce: expected "max" with selector "knn_kde"'),
        ('selector = "best"\n', "select.selector: Input should be 'top', 'round_robin'"),
        ('selector = "rds"\n', 'select: reduce: expected "max" with selector "rds"'),
        ('selector = "bm25"\ndeduplicate = 0.9\n', "select: expected neither deduplicate nor reduce"),
        ('target_dtype = "bfloat16"\nselector = "bm25"\n', 'select: expected target_dtype "auto" with'),
        ('target_dtype = "bfloat16"\n[collect]\nkeep = "scores"\n', 'select.target_dtype: expected "auto" or'),
        ('scan_dtype = "int2"\n', "select.scan_dtype: Input should be 'int8', 'int4' or 'int1'"),
        ('scan_dtype = "int1"\nselector = "random"\n', 'expected selector "top" and a budget in samples'),
        ('scan_dtype = "int4"\n[collect]\ndtype = "int4"\n', "select.scan_dtype: expected fewer bits than"),
        ("deduplicate = 1.5\n", "select.deduplicate: Input should be less than or equal to 1, got 1.5"),
    ],
)  # fmt: skip
def test_options_of_a_selector_are_checked_with_the_file(tmp_path: Path, change: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, MINIMAL + "[select]\n" + change))
    assert says in str(caught.value)


def test_every_selector_of_the_library_can_be_configured(tmp_path: Path) -> None:
    from typing import get_args

    from gradsift.pipeline.config import SelectConfig
    from gradsift.selection import SELECTORS

    assert set(get_args(SelectConfig.model_fields["selector"].annotation)) == {*SELECTORS, "bm25"}


def test_what_the_command_line_says_of_a_selection_replaces_what_it_excludes(tmp_path: Path) -> None:
    text = MINIMAL + '[select]\nfraction = 0.1\nselector = "vote"\noptions = { top = 0.3 }\nreduce = "max"\n'
    config = load_config(write(tmp_path, text))
    changed = with_selection(config, {"count": 7, "selector": "top"}).select
    assert (changed.fraction, changed.count, changed.selector, changed.options) == (None, 7, "top", {})
    assert changed.reduce == "max"
    with pytest.raises(ConfigError, match="select: top: expected 0 < top < 1"):
        with_selection(config, {"options": {"top": 2}})
