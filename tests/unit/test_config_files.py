"""Configuration files as they are written: keys twice, values that YAML changes, paths."""

from __future__ import annotations

import os
import pwd
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tessera_flow.config.configuration import Config, load_config
from tessera_flow.config.messages import section_of
from tessera_flow.config.yaml_file import check_config_files, check_config_values
from tessera_flow.errors import ConfigError
from tessera_flow.jobs.running.staging import staged

HEAD = "regions:\n  here:\n    roi: a.geojson\n"


def problems(folder: Path, text: str, name: str = "c.yaml") -> list[str]:
    """Return the messages about a file, without its name."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    try:
        check_config_files([path])
    except ConfigError as error:
        return [line.removeprefix(f"{path}: ") for line in str(error).splitlines()]
    return []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "periods: {}\nperiods: {}\n", "the key periods is defined twice (lines 4, 5)"),
        (HEAD + "  here:\n    roi: b\n", "the key regions.here is defined twice (lines 2, 4)"),
        (HEAD + '  "here":\n    roi: b\n', "the key regions.here is defined twice (lines 2, 4)"),
        (HEAD + "  2023: {}\n  '2023': {}\n", "the key regions.2023 is defined twice (lines 4, 5)"),
        (HEAD + "    roi: b\n    roi: c\n", "the key regions.here.roi is defined 3 times"),
        (HEAD + "x: [{a: 1, a: 2}]\n", "the key x[0].a is defined twice (line 4)"),
        (HEAD + "a: &a {b: 1}\nc:\n  <<: *a\n  <<: *a\n", "the key c.<< is defined twice"),
        (HEAD + "  no: {}\n", "YAML reads the key no in regions as false"),
        (HEAD + "  2021_22: {}\n", "YAML reads the key 2021_22 in regions as 202122"),
        (HEAD + "  010: {}\n", "YAML reads the key 010 in regions as 8"),
        (HEAD + "  1e3: {}\n  1.0: {}\n  1.00: {}\n", "YAML reads the key 1.00 in regions as 1.0"),
        (HEAD + "? [a]\n: 1\n", "line 4: a key at the top level is not text"),
        (HEAD + "grid:\n  block_size: 0100\n", "line 5: YAML reads grid.block_size: 0100 as 64"),
        (HEAD + "jobs: {cpu_gpu: 1:4}\n", "line 4: YAML reads jobs.cpu_gpu: 1:4 as 64"),
        (
            HEAD + "periods: {p: {start: 2023-02-30}}\n",
            "line 4: periods.p.start is 2023-02-30, which is not a date in the calendar",
        ),
    ],
)  # fmt: skip
def test_what_yaml_would_drop_or_change(tmp_path: Path, text: str, message: str) -> None:
    assert any(message in line for line in problems(tmp_path, text)), problems(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        HEAD,
        HEAD + "  2023: {roi: x}\n  2021-06-01: {roi: y}\n  'no': {roi: z}\n",
        HEAD + "grid: {block_size: 100, downsample_rate: 1_0, resolution: 10.0}\n",
        "base: &base {roi: a}\n" + HEAD + "  b: *base\n  c:\n    <<: *base\n    roi: d\n",
        HEAD + "jobs: {cpu_gpu: '1:4', max_disk_gb: 0}\n",
        "",
        "own: {mode: 0644}\nno: 1\n",  # of a workflow that uses this one as a module
        "regions:\n\t- tab\n",  # left to Snakemake
    ],
)
def test_files_without_such_problems(tmp_path: Path, text: str) -> None:
    assert problems(tmp_path, text) == []


def test_json_and_all_problems_at_once(tmp_path: Path) -> None:
    text = '{"regions": {"a": {"roi": "x"},\n\t"a": {"roi": "y"}}, "jobs": {}, "jobs": {}}'
    assert problems(tmp_path, text, "c.json") == [
        "the key a is defined twice: keep one of them.",
        "the key jobs is defined twice: keep one of them.",
    ]
    assert problems(tmp_path, '{"regions": {"a": 1}, "grid": {"a": 1}}', "d.json") == []
    assert len(problems(tmp_path, HEAD + "  no: {}\n" + HEAD)) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: 1\nb: München\n".encode("latin-1"), "line 2: the byte 0xfc is not UTF-8"),
        ("a: 1\n".encode("utf-16"), "line 1: the byte 0xff is not UTF-8"),
        ("b: München\n".encode("utf-8-sig"), None),
    ],
)
def test_file_in_another_encoding_is_refused(
    tmp_path: Path, content: bytes, message: str | None
) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    if message is None:
        check_config_files([path])
        return
    with pytest.raises(ConfigError, match=rf"config\.yaml: {message}: save the file"):
        check_config_files([path])


def test_key_twice_in_a_value_of_the_command_line_is_refused() -> None:
    check_config_values(["sentinel2={max_cloud: 10, enabled: true}", "a=b: c: d", "n=1", "e="])
    message = r"^--config: the key sentinel2\.max_cloud is defined twice"
    with pytest.raises(ConfigError, match=message):
        check_config_values(["sentinel2={max_cloud: 10, max_cloud: 20}"])
    with pytest.raises(ConfigError, match=r"the key regions\.a\.roi is defined twice"):
        check_config_values(['regions={"a": {"roi": "x", "roi": "y"}}'])


PATHS = [
    ("regions", "here", "roi"),
    ("model", "weights"),
    ("model", "cache"),
    ("sentinel2", "location"),
    ("sentinel1", "location"),
    ("regions", "here", "sentinel2", "location"),
    ("regions", "here", "sentinel1", "location"),
    ("periods", "here", "sentinel2", "location"),
    ("periods", "here", "sentinel1", "location"),
    ("tiles", "location"),
    ("geotessera", "location"),
    ("maps", "here", "labels"),
    ("sites", "table"),
    ("paths", "results"),
    ("paths", "work"),
    ("paths", "logs"),
]


def document(key: tuple[str, ...], value: str) -> dict[str, Any]:
    result: dict[str, Any] = {
        "regions": {"here": {"roi": "a.geojson"}},
        "periods": {"here": {"start": "2021-01-01", "end": "2021-12-31"}},
        "model": {"weights": "x.pt"},
    }
    if key[0] in ("tiles", "geotessera"):
        result["source"] = key[0]
    if key[0] == "maps":
        result["maps"] = {"here": {"column": "class"}}
    section = result
    for part in key[:-1]:
        section = section.setdefault(part, {})
    section[key[-1]] = value
    return result


def read(key: tuple[str, ...], value: str) -> str:
    config: Any = load_config(document(key, value))
    for part in key:
        config = config[part] if isinstance(config, dict) else getattr(config, part)
    return str(config)


@pytest.mark.parametrize("key", PATHS, ids=".".join)
def test_every_path_is_expanded(monkeypatch: pytest.MonkeyPatch, key: tuple[str, ...]) -> None:
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    monkeypatch.setenv("HOME", "/home/me")
    assert read(key, "$SCRATCH/a") == "/scratch/me/a"
    assert read(key, "x/${SCRATCH}_b/$SCRATCH") == "x//scratch/me_b//scratch/me"
    assert read(key, "~/a") == "/home/me/a"
    assert read(key, "a/~/b$$c$") == "a/~/b$c$"
    user = pwd.getpwuid(os.getuid())
    assert read(key, f"~{user.pw_name}/a") == f"{user.pw_dir}/a"
    name = ".".join(key)
    monkeypatch.delenv("SCRATCH")
    with pytest.raises(ConfigError, match=rf"^{name} is .*\$SCRATCH is not set"):
        read(key, "$SCRATCH/a")
    monkeypatch.setenv("SCRATCH", "")
    with pytest.raises(ConfigError, match=rf"^{name} is .*\$SCRATCH is empty"):
        read(key, "${SCRATCH}/a")
    with pytest.raises(ConfigError, match=rf"^{name} is .*~nobody-of-this-name is a user"):
        read(key, "~nobody-of-this-name/a")
    with pytest.raises(ConfigError, match=rf"^{name} is .*\$\{{A:-b\}} is not one"):
        read(key, "${A:-b}/c")


def test_list_of_path_keys_is_complete() -> None:
    """Every key that is a path, by its type and by its description, is in PATHS."""

    def walk(model: Any, prefix: tuple[str, ...]) -> Any:
        for name, field in model.model_fields.items():
            section = section_of(field.annotation)
            if section:
                yield from walk(section[0], (*prefix, name, *(["here"] if section[1] else [])))
            else:
                expanded = re.search(
                    r"function _(path|roi) ", f"{field.annotation} {field.metadata}"
                )
                yield (*prefix, name), expanded, field.description or ""

    keys = list(walk(Config, ()))
    lists = {key for key, _, _ in keys if key[-1] == "asset_folders"}
    assert len(lists) == 6
    assert {key for key, expanded, _ in keys if expanded} == {*PATHS, *lists}
    described = {key for key, _, text in keys if text.startswith(("Path", "Folder", "URL"))}
    assert described - set(PATHS) == {("jobs", "scratch")}


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:hunter2@h/stac", "https://h/stac) contains a user name or password, which"),
        ("https://hunter2@h/stac", "https://h/stac) contains a user name or password, which"),
        ("http://me:hun/ter2@h/stac", "http://h/stac) contains a user name or password, which"),
        ("https://h/stac?f=json&sig=hunter2", "https://h/stac) contains the parameter sig, which"),
        ("abfs://c:hunter2@h/stac", "abfs://h/stac) contains a user name or password, which"),
    ],
)
def test_secrets_in_the_configuration_are_refused(url: str, shown: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(("sentinel2", "location"), url)
    message = str(raised.value)
    assert message.startswith(f"sentinel2.location ({shown}")
    assert "~/.netrc" in message and "hun" not in message and "ter2" not in message


def test_variables_of_the_environment_in_a_url_stay_in_the_configuration() -> None:
    """They are replaced for requests only, so that no file contains them."""
    url = "https://${USER}:${PASSWORD}@h/stac?sig=${SIG}&f=json"
    assert read(("sentinel2", "location"), url) == url


def test_paths_in_a_list_are_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISK", "/disk")
    config = load_config(document(("sentinel2", "asset_folders"), ["$DISK/a", "b"]))
    assert config.sentinel2.asset_folders == ["/disk/a", "b"]


def test_urls_are_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "secret")
    url = "https://example.org/~me/api?q=$KEY"
    assert read(("sentinel2", "location"), url) == url


def test_variables_of_a_job_give_a_warning(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "123")
    assert read(("paths", "work"), "/local/$SLURM_JOB_ID") == "/local/123"
    assert "$SLURM_JOB_ID (123), which differs between the jobs" in caplog.text


def test_scratch_is_expanded_on_the_node(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("NODE_DISK", raising=False)
    config = load_config(document(("jobs", "scratch"), "~/$NODE_DISK"))
    assert config.jobs.scratch == "~/$NODE_DISK"
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"jobs.scratch is .*\$NODE_DISK is not set"):
        staged([tmp_path / "file"], config.jobs.scratch)
    monkeypatch.setenv("NODE_DISK", "disk")
    monkeypatch.setenv("HOME", str(tmp_path))
    (copy,) = staged([tmp_path / "file"], config.jobs.scratch)
    assert copy.is_relative_to(tmp_path / "disk")


def test_dates_without_quotes_reach_the_configuration(tmp_path: Path) -> None:
    text = yaml.safe_load("{start: 2023-02-28, end: 2024-02-29}")
    values = document(("periods", "then", "start"), text["start"])
    values["periods"]["then"]["end"] = text["end"]
    assert load_config(values).periods["then"].end.isoformat() == "2024-02-29"
    values["periods"]["then"]["end"] = "2023-02-29"
    with pytest.raises(ConfigError, match="exists in the calendar"):
        load_config(values)
