"""The store of computed tensors: what is there is right, and what was cut off goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bolid.training import cache
from bolid.training.cache import Tensors, TensorStore

from .conftest import file_size_limit

KEYS = [f"photo-{number}" for number in range(10)]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cache, "SHARD_ENTRIES", 3)


def tensors_of(key: str) -> Tensors:
    generator = torch.Generator().manual_seed(KEYS.index(key))
    return {"mean": torch.randn(4, 5, generator=generator), "rows": torch.randn(6, 2, generator=generator).half().t()}


def opened(folder: Path, **depends_on: str) -> TensorStore:
    return TensorStore(folder, "latents", depends_on or {"model": "a"})


def fill(store: TensorStore, compute: Callable[[str], Tensors] = tensors_of) -> list[str]:
    """What had to be computed."""
    computed: list[str] = []

    def counted(key: str) -> Tensors:
        tensors = compute(key)
        computed.append(key)
        return tensors

    store.fill(store.missing(KEYS), counted, lambda: None)
    return computed


def shard_of(store: TensorStore, key: str) -> Path:
    """The file that holds a key."""
    (manifest,) = (path for path in store.folder.glob("shard-*.json") if key in json.loads(path.read_bytes())["keys"])
    return manifest.with_suffix(".safetensors")


def assert_holds_all(store: TensorStore) -> None:
    for key in KEYS:
        found, expected = store.get(key), tensors_of(key)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert found[name].dtype == tensor.dtype
            assert torch.equal(found[name], tensor)


def test_computed_once(tmp_path: Path):
    store = opened(tmp_path)
    steps: list[None] = []
    store.fill(store.missing(KEYS), tensors_of, lambda: steps.append(None))
    assert len(steps) == len(KEYS)
    assert_holds_all(store)
    assert fill(store) == []
    again = opened(tmp_path)
    assert again.missing(KEYS) == fill(again) == []
    assert_holds_all(again)
    assert len(list(store.folder.glob("*.safetensors"))) == 4  # 10 entries, 3 in a shard


def test_missing_keys_come_once_and_in_order(tmp_path: Path):
    store = opened(tmp_path)
    store.fill(["photo-1"], tensors_of, lambda: None)
    assert store.missing(["photo-4", "photo-1", "photo-3", "photo-4"]) == ["photo-4", "photo-3"]
    with pytest.raises(KeyError):
        store.get("photo-4")


def test_new_keys_are_added(tmp_path: Path):
    store = opened(tmp_path)
    store.fill(KEYS[:4], tensors_of, lambda: None)
    before = {path: path.read_bytes() for path in store.folder.glob("*.safetensors")}
    assert fill(opened(tmp_path)) == KEYS[4:]
    assert all(path.read_bytes() == content for path, content in before.items())
    assert_holds_all(opened(tmp_path))


def test_other_settings_have_a_store_of_their_own(tmp_path: Path):
    store = opened(tmp_path, model="a")
    fill(store)
    other = opened(tmp_path, model="b")
    assert other.missing(KEYS) == KEYS
    assert other.folder != store.folder
    assert fill(other, lambda key: {"mean": torch.zeros(1)}) == KEYS
    assert torch.equal(opened(tmp_path, model="b").get("photo-0")["mean"], torch.zeros(1))
    assert_holds_all(opened(tmp_path, model="a"))
    assert TensorStore(tmp_path, "text", {"model": "a"}).missing(KEYS) == KEYS


def test_order_of_settings_does_not_matter(tmp_path: Path):
    fill(opened(tmp_path, model="a", version="1"))
    assert opened(tmp_path, version="1", model="a").missing(KEYS) == []


# Runs that were cut off


def test_goes_on_after_the_last_full_shard(tmp_path: Path):
    def interrupted(key: str) -> Tensors:
        if key == KEYS[7]:
            raise KeyboardInterrupt
        return tensors_of(key)

    with pytest.raises(KeyboardInterrupt):
        fill(opened(tmp_path), interrupted)
    assert fill(opened(tmp_path)) == KEYS[6:]
    assert_holds_all(opened(tmp_path))


def test_partial_file_of_a_killed_process(tmp_path: Path):
    store = opened(tmp_path)
    store.fill(KEYS[:3], tensors_of, lambda: None)
    (store.folder / ".shard-1.safetensors.1234.partial").write_bytes(b"half of a shard")
    assert fill(opened(tmp_path)) == KEYS[3:]
    assert_holds_all(opened(tmp_path))


def test_shard_without_a_manifest(tmp_path: Path):
    """A process may be killed between the two."""
    store = opened(tmp_path)
    store.fill(KEYS[:3], tensors_of, lambda: None)
    store.fill(KEYS[5:8], tensors_of, lambda: None)
    shard_of(store, KEYS[5]).with_suffix(".json").unlink()
    assert fill(opened(tmp_path)) == KEYS[3:]
    assert_holds_all(opened(tmp_path))


def test_manifest_without_a_shard(tmp_path: Path):
    store = opened(tmp_path)
    fill(store)
    shard_of(store, KEYS[4]).unlink()
    assert fill(opened(tmp_path)) == KEYS[3:6]
    assert_holds_all(opened(tmp_path))


def test_several_writers(tmp_path: Path):
    """Two runs fill the same store at the same time, and a third sees what both have written."""
    one, other, reader = opened(tmp_path), opened(tmp_path), opened(tmp_path)
    one.fill(KEYS[:6], tensors_of, lambda: None)
    other.fill(KEYS[4:], tensors_of, lambda: None)
    assert reader.missing(KEYS) == KEYS
    reader.reload()
    assert reader.missing(KEYS) == []
    assert_holds_all(reader)


def test_full_disk(tmp_path: Path):
    store = opened(tmp_path)
    store.fill(KEYS[:3], tensors_of, lambda: None)
    with file_size_limit(50_000), pytest.raises(OSError, match="shard-.*safetensors could not be written.*room"):
        fill(store, lambda key: {"mean": torch.zeros(100_000)})
    shard = shard_of(store, KEYS[0])
    assert {path.name for path in store.folder.iterdir()} == {
        "depends_on.json", shard.name, shard.with_suffix(".json").name
    }  # fmt: skip
    again = opened(tmp_path)
    assert torch.equal(again.get("photo-1")["mean"], tensors_of("photo-1")["mean"])
    assert fill(again) == KEYS[3:]
    assert_holds_all(again)


@pytest.mark.parametrize("function", ["write_safetensors", "write_text"])
def test_failure_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str):
    store = opened(tmp_path)
    store.fill(KEYS[:3], tensors_of, lambda: None)

    def fails(path: Path, *arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(cache, function, fails)
        with pytest.raises(OSError, match="No space left on device"):
            fill(store)
    again = opened(tmp_path)
    assert torch.equal(again.get("photo-2")["rows"], tensors_of("photo-2")["rows"])
    assert fill(again) == KEYS[3:]
    assert_holds_all(opened(tmp_path))


# Damage


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip_a_byte, truncate, empty])
def test_damaged_shard_is_named_and_mended_as_the_message_says(tmp_path: Path, damage: Callable[[Path], None]):
    fill(opened(tmp_path))
    store = opened(tmp_path)
    path = shard_of(store, "photo-4")
    damage(path)
    assert torch.equal(store.get("photo-0")["mean"], tensors_of("photo-0")["mean"])
    for _ in range(2):
        with pytest.raises(ValueError, match=r"is damaged.*Delete it; the same command computes it anew") as caught:
            store.get("photo-4")
        assert str(path) in str(caught.value)
    path.unlink()
    assert fill(opened(tmp_path)) == KEYS[3:6]


@pytest.mark.parametrize("content", [b"", b'{"keys": {', b"\xff\xfe", b"[]", b"{}", b'{"keys": 3}', b'{"keys": {}}'])
def test_damaged_manifest_is_named_and_mended_as_the_message_says(tmp_path: Path, content: bytes):
    store = opened(tmp_path)
    fill(store)
    path = shard_of(store, "photo-4").with_suffix(".json")
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"is damaged.*Delete it") as caught:
        opened(tmp_path)
    assert str(path) in str(caught.value)
    path.unlink()
    assert fill(opened(tmp_path)) == KEYS[3:6]


def test_the_folder_says_what_it_depends_on(tmp_path: Path):
    store = opened(tmp_path, model="a")
    fill(store)
    assert json.loads((store.folder / "depends_on.json").read_text()) == {"model": "a"}


# Open files


def test_few_shards_are_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cache, "OPEN_SHARDS", 2)
    fill(opened(tmp_path))
    store = opened(tmp_path)
    for key in KEYS * 2:
        store.get(key)
        assert 1 <= len(mapped(store.folder)) <= 2
    assert_holds_all(store)


def test_tensors_outlive_their_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cache, "OPEN_SHARDS", 1)
    fill(opened(tmp_path))
    store = opened(tmp_path)
    kept = {key: store.get(key)["mean"] for key in KEYS}
    assert all(torch.equal(kept[key], tensors_of(key)["mean"]) for key in KEYS)


def test_shard_in_use_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cache, "OPEN_SHARDS", 2)
    fill(opened(tmp_path))
    store = opened(tmp_path)
    for key in ("photo-0", "photo-3", "photo-0", "photo-6"):
        store.get(key)
    assert mapped(store.folder) == {shard_of(store, key).name for key in ("photo-0", "photo-6")}


def test_shard_is_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cache, "OPEN_SHARDS", 1)
    fill(opened(tmp_path))
    checked: list[str] = []
    checksum = cache._checksum

    def counted(path: Path) -> int:
        checked.append(path.name)
        return checksum(path)

    monkeypatch.setattr(cache, "_checksum", counted)
    store = opened(tmp_path)
    for key in KEYS * 2:
        store.get(key)
    assert len(checked) == len(set(checked)) == 4


def mapped(folder: Path) -> set[str]:
    """Files of a folder that this process has open or mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {Path(line.split()[-1]).name for line in lines if str(folder) in line}
