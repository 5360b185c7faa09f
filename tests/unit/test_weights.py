import dataclasses
import hashlib
import io
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tessera_flow.errors import CheckpointError, ConfigError, OutputError
from tessera_flow.models import weights
from tessera_flow.models.published import PUBLISHED
from tessera_flow.models.v2_student import V2_STUDENT, StudentSizes
from tessera_flow.models.weights import check_choices, fetch_weights
from tessera_flow.models.weights_record import read_weights_record, write_weights_record

from ..support.servers import Fault
from .hub_server import COMMIT, Hub, serve

CHECKPOINTS = Path(__file__).parents[1] / "golden/checkpoints"
NANO = "geotessera/TESSERA-V-2.0-2B-N/ckpt/student_nano.pt"
CONTENT = (CHECKPOINTS / "v2_student_qk.pt").read_bytes()
TOKEN = "hf_neverToBeSeenAnywhere"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve({NANO: CONTENT}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the increasing delays of the library between attempts."""
    monkeypatch.setattr(time, "sleep", lambda _: None)


def test_published_names_and_urls() -> None:
    assert list(PUBLISHED) == [
        "v2-nano",
        "v2-small",
        "v2-medium",
        "v2-large",
        "v2-teacher",
    ]
    assert PUBLISHED["v2-large"].url == (
        "https://huggingface.co/geotessera/TESSERA-V-2.0-2B-L/resolve/main/ckpt/student_large.pt"
    )
    assert PUBLISHED["v2-teacher"].url == (
        "https://huggingface.co/geotessera/TESSERA-V-2.0-2B-Teacher/resolve/main/"
        "ckpt/tessera_v2_2B_teacher.pt"
    )


def test_path_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.pt").write_bytes(CONTENT)
    monkeypatch.chdir(tmp_path)
    record = fetch_weights("mine.pt")
    assert record.path == str(tmp_path / "mine.pt")
    assert record.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert (record.name, record.url, record.family) == (None, None, "v2-student")
    assert record.sizes == {
        "latent_dim": 12,
        "num_layers": 3,
        "nhead": 4,
        "dim_feedforward": 80,
        "repr_dim": 128,
        "qk_norm": True,
        "matryoshka_dims": [16, 32, 64, 128],
        "s1_nhead": None,
        "parameters": 153778,
    }
    assert (record.dims, record.dtype) == ([16, 32, 64, 128], "int8")


def test_record_is_reproducible(tmp_path: Path) -> None:
    record = fetch_weights(str(CHECKPOINTS / "v2_student_noqk.pt"))
    for name in ("a.json", "b.json"):
        write_weights_record(record, tmp_path / name)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert set(json.loads((tmp_path / "a.json").read_text())) == {
        field.name for field in dataclasses.fields(record)
    }
    assert read_weights_record(tmp_path / "a.json") == record
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"b\.json is not a record"):
        read_weights_record(tmp_path / "b.json")


def test_similar_name_is_suggested() -> None:
    for word, nearest in (("v2-nanno", "v2-nano"), ("V2_Large", "v2-large"), ("med", "v2-medium")):
        with pytest.raises(ConfigError, match=f"did you mean `{nearest}`"):
            fetch_weights(word)


def test_missing_path() -> None:
    for path in ("absent.pt", "folder/absent"):
        with pytest.raises(CheckpointError, match=f"{path} does not exist"):
            fetch_weights(path)


@pytest.mark.parametrize(
    ("name", "family", "dims", "dtype"),
    [
        ("v1_0", "v1.0", [8], "float32"),
        ("v1_0_qat", "v1.0-qat", [8], "int8"),
        ("v1_1", "v1.1", [128], "int8"),
        ("v2_teacher_tiny", "v2-teacher", [96], "float32"),
    ],
)
def test_checkpoint_of_every_family_is_recorded(
    name: str, family: str, dims: list[int], dtype: str
) -> None:
    record = fetch_weights(str(CHECKPOINTS / f"{name}.pt"))
    assert (record.family, record.dims, record.dtype) == (family, dims, dtype)
    state = next(
        iter(
            value
            for value in torch.load(CHECKPOINTS / f"{name}.pt", weights_only=True).values()
            if isinstance(value, dict) and len(value) > 20
        )
    )
    used = [tensor.numel() for key, tensor in state.items() if "projector" not in key]
    assert record.sizes["parameters"] == sum(used)


def test_settings_that_do_not_fit_the_weights_are_rejected() -> None:
    v1_1 = fetch_weights(str(CHECKPOINTS / "v1_1.pt"))
    check_choices(v1_1, None, "aws")
    check_choices(v1_1, 128, "mpc")
    with pytest.raises(ConfigError, match=r"set model\.statistics .* to mpc or aws"):
        check_choices(v1_1, None, None)
    with pytest.raises(ConfigError, match=r"dim is 64, .* stored with 128 dimensions"):
        check_choices(v1_1, 64, "mpc")
    teacher = fetch_weights(str(CHECKPOINTS / "v2_teacher_tiny.pt"))
    with pytest.raises(ConfigError, match=r"dim is 16, .* stored with 96 dimensions"):
        check_choices(teacher, 16, None)
    with pytest.raises(ConfigError, match="a single set of statistics"):
        check_choices(teacher, None, "mpc")
    for wrong in ({"seed": 3}, {"repeat_times": 2}):
        with pytest.raises(ConfigError, match="draws no observations at random: leave it out"):
            check_choices(teacher, None, None, **wrong)
    check_choices(fetch_weights(str(CHECKPOINTS / "v1_0.pt")), None, None, 3, 2)


def test_published_weights_are_downloaded_once(hub: Hub, tmp_path: Path) -> None:
    record = fetch_weights("v2-nano", str(tmp_path / "cache"))
    assert Path(record.path).read_bytes() == CONTENT
    assert Path(record.path).is_relative_to(tmp_path / "cache")
    assert COMMIT in record.path
    assert record.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert record.name == "v2-nano"
    assert record.url == "https://huggingface.co/geotessera/TESSERA-V-2.0-2B-N"
    assert fetch_weights("v2-nano", str(tmp_path / "cache")) == record
    assert len(hub.requests_by("GET")) == 1


def test_no_token_is_sent_or_written(hub: Hub, tmp_path: Path) -> None:
    record = fetch_weights("v2-nano", str(tmp_path / "cache"))
    assert hub.requests and not any("authorization" in r.headers for r in hub.requests)
    assert TOKEN not in str(record)


def checkpoint_of_real_size() -> bytes:
    """Return a v2 small, 28 MB: the library resumes transfers in steps of 10 MiB."""
    args = {"latent_dim": 64, "num_layers": 4, "nhead": 4, "dim_feedforward": 1024, "repr_dim": 128}
    generator = torch.Generator().manual_seed(0)
    model = {
        key: torch.randn(shape, generator=generator)
        for key, shape in V2_STUDENT.shapes(StudentSizes(**args)).items()
    }
    buffer = io.BytesIO()
    torch.save({"model": model, "args": args}, buffer)
    return buffer.getvalue()


def test_interrupted_download_resumes(hub: Hub, tmp_path: Path, no_waiting: None) -> None:
    content = checkpoint_of_real_size()
    hub.files = {"geotessera/TESSERA-V-2.0-2B-S/ckpt/student_small.pt": content}
    hub.faults = [Fault("cut", count=2, value=12 * 2**20)]
    record = fetch_weights("v2-small", str(tmp_path))
    assert record.sha256 == hashlib.sha256(content).hexdigest()
    assert record.sizes["parameters"] == 7_112_322
    ranges = [request.headers.get("range") for request in hub.requests_by("GET")]
    assert ranges == [None, "bytes=10485760-", "bytes=20971520-"]


def test_a_download_that_never_ends_leaves_nothing(
    hub: Hub, tmp_path: Path, no_waiting: None
) -> None:
    hub.faults = [Fault("cut", count=None)]
    with pytest.raises(CheckpointError, match="could not be downloaded"):
        fetch_weights("v2-nano", str(tmp_path))
    assert not list(tmp_path.rglob("*.pt")) and not list(tmp_path.rglob("*.incomplete"))


@pytest.mark.usefixtures("no_waiting")
def test_manual_download_is_described_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://user:{TOKEN}@127.0.0.1:{port}")
    with pytest.raises(CheckpointError) as error:
        fetch_weights("v2-small", str(tmp_path))
    text = str(error.value)
    assert f"127.0.0.1:{port} cannot be reached" in text
    assert PUBLISHED["v2-small"].url in text and "`model.weights`" in text
    assert TOKEN not in text
    assert error.value.__cause__ is None and error.value.__suppress_context__


@pytest.mark.usefixtures("no_waiting")
def test_cached_weights_need_no_network(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = fetch_weights("v2-nano", str(tmp_path))
    hub.status = 503
    assert fetch_weights("v2-nano", str(tmp_path)) == record
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert fetch_weights("v2-nano", str(tmp_path)) == record


@pytest.mark.usefixtures("no_waiting")
def test_http_status_is_reported(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"answered HTTP 404\)\. .*student_large\.pt"):
        fetch_weights("v2-large", str(tmp_path))
    hub.status = 403
    with pytest.raises(CheckpointError, match="v2-nano could not be downloaded"):
        fetch_weights("v2-nano", str(tmp_path))


def test_damaged_download_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve({NANO: CONTENT[:-500]}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        with pytest.raises(CheckpointError, match="its end is missing"):
            fetch_weights("v2-nano", str(tmp_path))


def test_cache_that_cannot_be_created(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="Cannot write"):
        fetch_weights("v2-nano", str(tmp_path / "file/cache"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_cache_that_cannot_be_written(hub: Hub, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Cannot write"):
        fetch_weights("v2-nano", str(tmp_path))


def test_host_of_a_url() -> None:
    assert weights._host("https://me:secret@mirror.example:8443/hf") == "mirror.example:8443"


def other_checkpoint() -> bytes:
    return (CHECKPOINTS / "v2_student_noqk.pt").read_bytes()


def test_weights_replaced_by_their_publisher_are_refused(hub: Hub, tmp_path: Path) -> None:
    """The first download of a work folder is recorded; a new file needs the key of its hash."""
    downloads = tmp_path / "published_weights.json"
    first = fetch_weights("v2-nano", str(tmp_path / "a"), downloads=downloads)
    assert json.loads(downloads.read_text()) == {
        "v2-nano": {"sha256": hashlib.sha256(CONTENT).hexdigest(), "revision": COMMIT}
    }
    hub.files = {NANO: other_checkpoint()}
    new = hashlib.sha256(other_checkpoint()).hexdigest()
    with pytest.raises(CheckpointError) as error:
        fetch_weights("v2-nano", str(tmp_path / "b"), downloads=downloads)
    assert f"{downloads} (first download) states {first.sha256}" in str(error.value)
    assert f"`model.sha256: {new}`" in str(error.value)
    assert hub.requests[-1].path == f"/{NANO.replace('/ckpt', f'/resolve/{COMMIT}/ckpt')}"

    accepted = fetch_weights("v2-nano", str(tmp_path / "c"), sha256=new, downloads=downloads)
    assert accepted.sha256 == new
    assert fetch_weights("v2-nano", str(tmp_path / "c"), downloads=downloads) == accepted
    with pytest.raises(CheckpointError, match=f"{downloads}.* states {new}"):
        fetch_weights("v2-nano", str(tmp_path / "a"), downloads=downloads)


def test_cache_below_a_folder_snapshots(hub: Hub, tmp_path: Path) -> None:
    downloads, cache = tmp_path / "published_weights.json", str(tmp_path / "snapshots" / "cache")
    first = fetch_weights("v2-nano", cache, downloads=downloads)
    assert json.loads(downloads.read_text())["v2-nano"]["revision"] == COMMIT
    assert fetch_weights("v2-nano", cache, downloads=downloads) == first


def test_pinned_hash_is_required(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = dataclasses.replace(PUBLISHED["v2-nano"], revision=COMMIT, sha256="0" * 64)
    monkeypatch.setitem(PUBLISHED, "v2-nano", pinned)
    downloads = tmp_path / "published_weights.json"
    with pytest.raises(CheckpointError, match=f"tessera-flow states {'0' * 64}"):
        fetch_weights("v2-nano", str(tmp_path), downloads=downloads)
    assert not downloads.exists()
    assert hub.requests[-1].path == f"/{NANO.replace('/ckpt', f'/resolve/{COMMIT}/ckpt')}"
    right = dataclasses.replace(pinned, sha256=hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setitem(PUBLISHED, "v2-nano", right)
    assert fetch_weights("v2-nano", str(tmp_path)).sha256 == right.sha256


def test_hash_of_a_local_file_is_checked_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    path.write_bytes(CONTENT)
    right = hashlib.sha256(CONTENT).hexdigest()
    assert fetch_weights(str(path), sha256=right).sha256 == right
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=f"another file than expected.* states {right}"):
        fetch_weights(str(path), sha256=right)


@pytest.mark.parametrize("content", ["", "[]", '{"v2-nano": {"sha256": "ab"}}', '{"v2-nano": 1}'])
def test_damaged_record_of_downloads_is_not_ignored(tmp_path: Path, content: str) -> None:
    downloads = tmp_path / "published_weights.json"
    downloads.write_text(content)
    with pytest.raises(CheckpointError, match="is not a record of downloaded weights"):
        fetch_weights("v2-nano", str(tmp_path), downloads=downloads)
    assert downloads.read_text() == content
