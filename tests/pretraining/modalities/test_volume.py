"""Volumes: NIfTI and DICOM upright and in order, cut and scaled; what cannot be used is left out under its name."""

import gzip
from pathlib import Path

import datasets
import nibabel
import numpy as np
import pydicom
import pytest
import torch
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from data2vec.modeling import MedCossVolumeConfig, MedCossVolumeFeatureExtractor
from data2vec.pretraining.data.arguments import Source
from data2vec.pretraining.data.bad_examples import BadExample
from data2vec.pretraining.data.examples import PretrainingDataset
from data2vec.pretraining.data.sources import load_source
from data2vec.pretraining.modalities.volume import VolumeData, VolumeDataArguments, cut
from data2vec.pretraining.modalities.volume_files import VOLUME, read_volume
from data2vec.tests.modeling.tiny_medcoss import volume_config


SHAPE = (5, 11, 13)  # depth, height, width


def volume(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-900, 900, SHAPE).astype(np.int16)


def write_nifti(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine), path)
    return path


def write_slice(path: Path, pixels: np.ndarray, place: float) -> Path:
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    part = pydicom.dataset.FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    part.PatientName, part.SOPClassUID = "Doe^Jane", CTImageStorage
    part.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    part.Rows, part.Columns = pixels.shape
    part.BitsAllocated = part.BitsStored = 16
    part.HighBit, part.PixelRepresentation, part.SamplesPerPixel = 15, 0, 1
    part.PhotometricInterpretation = "MONOCHROME2"
    part.ImagePositionPatient, part.ImageOrientationPatient = [0, 0, place], [1, 0, 0, 0, 1, 0]
    part.RescaleSlope, part.RescaleIntercept = 2, -1024
    part.PixelData = pixels.astype(np.uint16).tobytes()
    part.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_nifti_is_turned_so_that_slices_come_first(tmp_path, packed):
    values = volume()
    flipped = np.diag([-1.0, 1, 1, 1])  # x runs the other way
    path = write_nifti(tmp_path / "a.nii", values.transpose(2, 1, 0)[::-1], flipped)
    if packed:
        path.with_suffix(".nii.gz").write_bytes(gzip.compress(path.read_bytes()))
        path = path.with_suffix(".nii.gz")
    for value in (str(path), path.read_bytes(), {"bytes": path.read_bytes(), "path": None}):
        np.testing.assert_array_equal(read_volume(value, "a"), values)


def test_slices_of_a_series_are_put_in_order(tmp_path):
    values = volume() + 1000
    order = [3, 0, 4, 1, 2]
    paths = [write_slice(tmp_path / f"{i}.dcm", values[place], 2.5 * place) for i, place in enumerate(order)]
    np.testing.assert_array_equal(read_volume([str(path) for path in paths], "a"), values * 2.0 - 1024)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "empty"),
        (b"Dear patient, " * 40, "unreadable"),
        (b"%PDF-1.7 and so on" * 20, "wrong type"),
        ("cut", "truncated"),
        ("plane", "pixel format"),
        ("nan", "not finite"),
        ("dicom", "unreadable"),
    ],
)
def test_what_is_no_volume_is_named(tmp_path, content, problem):
    path = tmp_path / "a.nii"
    if content == "cut":
        whole = gzip.compress(write_nifti(path, volume().transpose(2, 1, 0)).read_bytes())
        path.write_bytes(whole[: len(whole) // 2])
    elif content == "plane":
        write_nifti(path, volume()[0].astype(np.float32))
    elif content == "nan":
        write_nifti(path, np.full(SHAPE, np.nan, dtype=np.float32))
    elif content == "dicom":
        part = write_slice(tmp_path / "a.dcm", volume()[0] + 1000, 0)
        path.write_bytes(part.read_bytes()[:-100])  # pixels are missing
    else:
        path.write_bytes(content)
    with pytest.raises(BadExample) as error:
        read_volume(str(path), "a scan")
    assert error.value.problem == problem and "a scan" in str(error.value) and "Doe" not in str(error.value)


def dataset(folder: Path, config: MedCossVolumeConfig | None = None, **fields) -> PretrainingDataset:
    args = VolumeDataArguments(sources=[{"path": str(folder)}], **fields)
    modality = VolumeData(args, config or volume_config())
    rows = modality.prepare(load_source(Source(path=str(folder)), VOLUME))
    return PretrainingDataset([rows], modality, seed=3, max_bad_share=0.5)


def test_a_folder_of_scans(tmp_path):
    """Files of NIfTI, and folders of DICOM; one of four is damaged, left out and counted."""
    for number in range(2):
        write_nifti(tmp_path / f"{number}.nii", volume(number).transpose(2, 1, 0))
    (tmp_path / "broken.nii").write_bytes(b"\0" * 500)
    for place in range(SHAPE[0]):
        (tmp_path / "series").mkdir(exist_ok=True)
        write_slice(tmp_path / "series" / f"{place}.dcm", volume(7)[place] + 1000, place)
    examples = dataset(tmp_path, window=[-1000, 1000])
    assert len(examples) == 4
    found = {examples[i]["name"].rpartition("/")[2] for i in range(4)}
    assert found == {"0.nii", "1.nii", "series"}
    assert examples.ledger.counts() == {"unreadable": 1}
    batch = examples.modality.collator(None, 0)([examples[i] for i in range(4)])
    assert batch["voxel_values"].shape == (4, 1, 4, 9, 10) and batch["voxel_values"].abs().max() <= 1
    assert torch.equal(examples[0, 1]["voxel_values"], examples[0, 1]["voxel_values"])
    kept = examples.modality.kept(examples.sources[0], [len(examples.sources[0]) - 1])
    assert isinstance(kept, datasets.Dataset) and len(kept) == SHAPE[0]


def test_boxes_are_cut_and_small_volumes_get_borders():
    values = torch.arange(3 * 4 * 5).view(3, 4, 5).float()
    assert torch.equal(cut(values, (1, 2, 3), None), values[1:2, 1:3, 1:4])
    drawn = {tuple(cut(values, (1, 2, 3), np.random.default_rng(i)).flatten().tolist()) for i in range(40)}
    assert len(drawn) > 10
    grown = cut(values, (5, 2, 7), None)
    assert grown.shape == (5, 2, 7) and (grown[[0, -1]] == -1).all() and (grown[:, :, [0, -1]] == -1).all()
    assert torch.equal(grown[1:4, :, 1:6], values[:, 1:3])


def test_the_processor_prepares_a_volume_as_pretraining_did(tmp_path):
    write_nifti(tmp_path / "a.nii", volume().transpose(2, 1, 0))
    examples = dataset(tmp_path, box="none")
    examples.modality.processor.save_pretrained(tmp_path / "processor")
    processor = MedCossVolumeFeatureExtractor.from_pretrained(tmp_path / "processor")
    prepared = processor(volume())["voxel_values"]
    torch.testing.assert_close(prepared[0], examples[0]["voxel_values"])
    with pytest.raises(ValueError, match="pass \\(depth, height, width\\)"):
        processor(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="window = \\[3, 1\\]"):
        MedCossVolumeFeatureExtractor(window=[3, 1])
