"""File formats whose writers seek back, extend, append or map: HDF5, zip, checkpoints, arrays."""

from __future__ import annotations

import hashlib
import os
import pickle
import random
import struct
import zipfile

import h5py
import numpy as np
import pytest

from tests.suites.programs import run

pytestmark = pytest.mark.integration

MIB = 1024 * 1024


def test_hdf5_is_written_read_and_extended(blob):
    values = np.arange(300_000, dtype="f8").reshape(300, 1000)
    with blob() as top:
        with h5py.File(top / "data.h5", "w") as file:
            rows = file.create_dataset(
                "rows", data=values[:100], maxshape=(None, 1000), chunks=(10, 1000)
            )
            rows.attrs["unit"] = "m"
            packed = file.create_group("packed")
            packed.create_dataset("rows", data=values, compression="gzip", compression_opts=1)
        with h5py.File(top / "data.h5", "r+") as file:
            file["rows"].resize(200, axis=0)
            file["rows"][100:] = values[100:200]
    with blob() as top:
        with h5py.File(top / "data.h5", "a") as file:
            file["rows"].resize(300, axis=0)
            file["rows"][200:] = values[200:]
            file.flush()
            del file["packed"]
    with blob() as top:
        with h5py.File(top / "data.h5", "r") as file:
            assert list(file) == ["rows"]
            assert file["rows"].attrs["unit"] == "m"
            assert np.array_equal(file["rows"], values)


def test_a_zip_archive_grows_by_appending(volume):
    with volume() as top:
        with zipfile.ZipFile(top / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("first", b"1" * 100_000)
    with volume() as top:
        with zipfile.ZipFile(top / "all.zip", "a") as archive:
            archive.writestr("second", os.urandom(3 * MIB))
        (top / "third").write_bytes(b"3" * 1000)
        run("zip", "-q", "all.zip", "third", cwd=top)
        run("unzip", "-q", "all.zip", "-d", "out", cwd=top)
        assert (top / "out" / "first").read_bytes() == b"1" * 100_000
        assert (top / "out" / "third").read_bytes() == b"3" * 1000
    with volume() as top:
        with zipfile.ZipFile(top / "all.zip") as archive:
            assert archive.testzip() is None
            assert archive.namelist() == ["first", "second", "third"]


def test_a_checkpoint_in_a_zip_whose_headers_are_written_last(volume):
    """As ``torch.save`` does: members of a size not known before, stored, aligned."""
    tensors = {f"model/data/{index}": random.Random(index).randbytes(5 * MIB) for index in range(4)}
    with volume() as top:
        with zipfile.ZipFile(top / "model.pt.tmp", "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("model/data.pkl", pickle.dumps(list(tensors)))
            for name, body in tensors.items():
                with archive.open(name, "w") as member:  # seeks back to the header when closed
                    for start in range(0, len(body), 700_001):
                        member.write(body[start : start + 700_001])
        os.replace(top / "model.pt.tmp", top / "model.pt")
    with volume() as top:
        assert os.listdir(top) == ["model.pt"]
        with zipfile.ZipFile(top / "model.pt") as archive:
            assert {name: archive.read(name) for name in tensors} == tensors


def test_a_checkpoint_whose_index_is_filled_in_at_the_end(blob):
    """As the older format of ``torch.save`` and many others: a table in front, known at last."""
    parts = [random.Random(index).randbytes(MIB + index) for index in range(24)]
    digest = hashlib.sha256(b"".join(parts)).hexdigest()
    with blob() as top:
        with open(top / "model.bin", "wb") as file:
            file.write(bytes(8 * len(parts)))
            table = []
            for part in parts:
                table.append(file.tell())
                file.write(part)
            file.seek(0)
            file.write(struct.pack(f"<{len(table)}q", *table))
            file.flush()
            os.fsync(file.fileno())
    with blob() as top:
        with open(top / "model.bin", "rb") as file:
            assert list(struct.unpack(f"<{len(table)}q", file.read(8 * len(table)))) == table
            assert hashlib.file_digest(file, "sha256").hexdigest() == digest


def test_a_mapped_array_is_written_and_changed_in_place(blob):
    shape = (600, 2500)
    with blob() as top:
        array = np.memmap(top / "array", dtype="f8", mode="w+", shape=shape)
        for row in range(0, 600, 3):
            array[row] = row
        array.flush()
        del array
    with blob() as top:
        array = np.memmap(top / "array", dtype="f8", mode="r+", shape=shape)
        assert (array[:, 0] == [row if row % 3 == 0 else 0 for row in range(600)]).all()
        array[100, 1000:1500] = 7.5
        del array
    with blob() as top:
        np.save(top / "copy.npy", np.memmap(top / "array", dtype="f8", shape=shape, mode="r"))
        copy = np.load(top / "copy.npy", mmap_mode="r")
        assert copy[100, 999:1501].tolist() == [0.0, *[7.5] * 500, 0.0]
        assert copy[99].tolist() == [99.0] * 2500
        del copy
