"""Weight files: what is saved comes back bit by bit; a bad file is one clear error and leaves nothing behind."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from graphc.errors import ArtifactError
from graphc.frontend import nn
from graphc.weights import load_weights, save_weights

pytest.importorskip("safetensors")


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2, bias=False))


def test_arrays_of_any_layout_come_back_bit_by_bit(tmp_path: Path) -> None:
    arrays = {
        "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "every other": np.arange(10, dtype=np.int64)[::-2],
        "big endian": np.array([1.5, -2.25], dtype=">f8"),
        "scalar": np.float32(3).reshape(()),
        "empty": np.zeros((0, 3), np.float32),
        "mask": np.array([True, False]),
        "bytes": np.array([0, 255], np.uint8),
    }
    save_weights(arrays, tmp_path / "w.safetensors")
    loaded = load_weights(tmp_path / "w.safetensors")
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype.newbyteorder("=") and loaded[name].shape == array.shape
        np.testing.assert_array_equal(loaded[name], array)
        assert loaded[name].flags.writeable


def test_a_file_says_that_graphc_wrote_it_and_keeps_ordinary_permissions(tmp_path: Path) -> None:
    save_weights({"w": np.zeros(1, np.float32)}, tmp_path / "w")
    assert b'"__metadata__":{"format":"graphc"}' in (tmp_path / "w").read_bytes()
    (tmp_path / "plain").touch()
    assert (tmp_path / "w").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    save_weights({"w": np.float32([7])}, tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and sorted(os.listdir(tmp_path)) == ["link", "real"]
    np.testing.assert_array_equal(load_weights(tmp_path / "real")["w"], [7])


def test_a_model_loads_what_another_one_saved(tmp_path: Path) -> None:
    first, second = model().init(1), model().init(2)
    first.save(tmp_path / "m.safetensors")
    assert second.load(tmp_path / "m.safetensors") is second
    for name, array in first.parameters.items():
        np.testing.assert_array_equal(second.parameters[name], array)


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({"0.weight": np.zeros((4, 3), np.float32)}, "missing 0.bias, 2.weight"),
        ({"extra": np.zeros(1, np.float32)}, "unknown extra"),
        ({"0.weight": np.zeros((3, 4), np.float32)}, "0.weight: expected f32[4,3], got float32[3,4]"),
        ({"0.weight": np.zeros((4, 3), np.float64)}, "0.weight: expected f32[4,3], got float64[4,3]"),
    ],
)
def test_a_file_of_another_model_is_refused_and_changes_nothing(
    tmp_path: Path, state: dict[str, np.ndarray], text: str
) -> None:
    target = model().init(3)
    before = {name: array.copy() for name, array in target.parameters.items()}
    whole = state if text.startswith("missing") else {**target.parameters, **state}
    save_weights(whole, tmp_path / "m.safetensors")
    with pytest.raises(ArtifactError) as caught:
        target.load(tmp_path / "m.safetensors")
    assert str(caught.value) == f"{tmp_path}/m.safetensors: {text}"
    for name, array in before.items():
        np.testing.assert_array_equal(target.parameters[name], array)


def test_damaged_and_hostile_files_are_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights({"a": np.arange(4, dtype=np.float32), "b": np.ones((2, 2), np.float32)}, path)
    good = path.read_bytes()
    damaged = [
        b"",
        good[:7],
        good[:-1],
        good + b"\0",
        b"\xff" * 64,
        (2**63 - 1).to_bytes(8, "little") + good[8:],
        (17).to_bytes(8, "little") + b"{" * 17,
        good.replace(b'"F32"', b'"X99"'),
        good.replace(b'"shape":[4]', b'"shape":[9]'),
        good.replace(b'"data_offsets":[0,', b'"data_offsets":[8,'),
    ]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match="expected a safetensors file, got") as caught:
            load_weights(path)
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        ArtifactError, match=r"none.safetensors: expected a safetensors file, got No such file"
    ):
        load_weights(tmp_path / "none.safetensors")
    with pytest.raises(ArtifactError, match="expected a safetensors file, got Is a directory"):
        load_weights(tmp_path)


def test_a_full_disk_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.safetensors"
    save_weights({"a": np.float32([1])}, path)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        ArtifactError, match=r"w.safetensors: expected a writable file, got No space left on device"
    ):
        save_weights({"a": np.float32([2])}, path)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["w.safetensors"]
    np.testing.assert_array_equal(load_weights(path)["a"], np.float32([1]))


def test_what_the_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="z: expected an array of numbers, got complex128"):
        save_weights({"z": np.zeros(2, complex)}, tmp_path / "w")
    with pytest.raises(ArtifactError, match="expected names that are strings, got 3"):
        save_weights({3: np.zeros(2)}, tmp_path / "w")  # type: ignore[dict-item]
    with pytest.raises(ArtifactError, match="expected a writable file, got No such file"):
        save_weights({}, tmp_path / "no" / "w")
    assert os.listdir(tmp_path) == []


def test_without_the_package_the_error_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ArtifactError, match=r"pip install graphc\[safetensors\]"):
        load_weights(tmp_path / "w")


@pytest.mark.peers
def test_files_that_pytorch_wrote_load(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    theirs = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2, bias=False))
    save_file(theirs.state_dict(), tmp_path / "t.safetensors")
    ours = model().load(tmp_path / "t.safetensors")
    for name, value in theirs.state_dict().items():
        np.testing.assert_array_equal(ours.parameters[name], value.numpy())
    halves = {"b": torch.tensor([1.5, -3e38, float("inf")]).bfloat16(), "h": torch.tensor([0.1]).half()}
    save_file(halves, tmp_path / "h.safetensors")
    loaded = load_weights(tmp_path / "h.safetensors")
    for name, value in halves.items():
        assert loaded[name].dtype == np.float32
        np.testing.assert_array_equal(loaded[name], value.float().numpy())
