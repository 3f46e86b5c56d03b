"""Train a classifier of handwritten digits from the job's mounted volumes.

Reads ``$AZ_BATCHAI_INPUT_DATA/{train,test}/<label>/<number>.png`` with several worker processes,
as a data loader does: every epoch reads every training image again and distorts it anew. Prints
one line an epoch. Writes ``model.joblib`` and ``metrics.json`` into ``$AZ_BATCHAI_OUTPUT_MODEL``.

The same data and seed give the same model, whatever the number of workers: what happens to an
image depends on the seed, the epoch and the image's place in the sorted list, on nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from PIL import Image
from scipy import ndimage
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

CLASSES = np.arange(10)
COPIES = 4  # distorted copies of each training image an epoch
MEAN, SPREAD = 0.305, 0.376  # of the data set's pixels: a network learns best from centred input
CHUNK = 64  # images that a worker takes at a time


def images_below(directory: Path) -> list[tuple[str, int]]:
    """The path and the label (its folder's name) of every image, sorted."""
    found = [(str(path), int(path.parent.name)) for path in directory.glob("[0-9]/*.png")]
    if not found:
        message = f"no images in {directory}/<label>/: was the data set uploaded?"
        raise SystemExit(message)
    return sorted(found)


def read_image(path: str) -> np.ndarray[Any, Any]:
    """One image as an array of 8x8 numbers between 0 and 1."""
    with Image.open(path) as image:
        return np.asarray(image, dtype=np.float64) / 255


def distorted(image: np.ndarray[Any, Any], random: np.random.Generator) -> np.ndarray[Any, Any]:
    """The image turned by up to 10 degrees and moved by up to half a pixel."""
    angle = np.deg2rad(random.uniform(-10, 10))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = (np.array(image.shape) - 1) / 2
    offset = centre - turn @ centre + random.uniform(-0.5, 0.5, size=2)
    moved: np.ndarray[Any, Any] = ndimage.affine_transform(image, turn, offset=offset, order=1)
    return moved


def rows_of(images: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """The images as rows of a matrix, centred and scaled."""
    return (np.stack([image.ravel() for image in images]) - MEAN) / SPREAD


def plain_chunk(paths: Sequence[str], _first: int) -> np.ndarray[Any, Any]:
    """Images as they are, one row each."""
    return rows_of([read_image(path) for path in paths])


def training_chunk(
    paths: Sequence[str], first: int, *, seed: int, epoch: int
) -> np.ndarray[Any, Any]:
    """``COPIES`` distorted copies of each image, one row each."""
    copies = []
    for number, path in enumerate(paths, start=first):
        random = np.random.default_rng((seed, epoch, number))
        image = read_image(path)
        copies += [distorted(image, random) for _ in range(COPIES)]
    return rows_of(copies)


def load(
    workers: Executor,
    paths: Sequence[str],
    chunk: Callable[[Sequence[str], int], np.ndarray[Any, Any]],
) -> np.ndarray[Any, Any]:
    """All rows of all images, in the order of ``paths``, read by the workers."""
    starts = range(0, len(paths), CHUNK)
    parts = workers.map(chunk, [paths[start : start + CHUNK] for start in starts], starts)
    return np.concatenate(list(parts))


def arguments() -> argparse.Namespace:
    """The command line; directories default to what the job's environment says."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("AZ_BATCHAI_INPUT_DATA"))
    parser.add_argument("--model", type=Path, default=os.environ.get("AZ_BATCHAI_OUTPUT_MODEL"))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--workers", type=int, default=max(2, len(os.sched_getaffinity(0))))
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    if given.data is None or given.model is None:
        parser.error("give --data and --model, or run as a job with DATA and MODEL directories")
    return given


def say(line: str) -> None:
    """Print a line that is seen at once, not when the buffer is full."""
    print(line, flush=True)


def main() -> None:
    """Train, report, save."""
    given = arguments()
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    say(f"started at {now} with {given.workers} worker processes")
    begun = time.monotonic()
    train = images_below(given.data / "train")
    test = images_below(given.data / "test")
    say(f"{len(train)} training and {len(test)} test images")
    labels = np.array([label for _, label in train]).repeat(COPIES)
    test_labels = np.array([label for _, label in test])
    order = np.random.default_rng(given.seed)
    model = MLPClassifier(
        (256, 128), random_state=given.seed, batch_size=128, learning_rate_init=5e-4
    )
    history = []
    with ProcessPoolExecutor(given.workers) as workers:
        test_rows = load(workers, [path for path, _ in test], plain_chunk)
        for epoch in range(1, given.epochs + 1):
            epoch_begun = time.monotonic()
            chunk = partial(training_chunk, seed=given.seed, epoch=epoch)
            rows = load(workers, [path for path, _ in train], chunk)
            shuffled = order.permutation(len(rows))
            model.partial_fit(rows[shuffled], labels[shuffled], classes=CLASSES)
            loss = float(log_loss(test_labels, model.predict_proba(test_rows), labels=CLASSES))
            accuracy = float(model.score(test_rows, test_labels))
            seconds = time.monotonic() - epoch_begun
            history.append({"epoch": epoch, "loss": loss, "accuracy": accuracy})
            say(
                f"epoch {epoch:2}/{given.epochs}  test loss {loss:.4f}  "
                f"test accuracy {accuracy:.4f}  {seconds:.2f} s"
            )
    given.model.mkdir(parents=True, exist_ok=True)
    joblib.dump(model, given.model / "model.joblib")
    metrics = {
        "accuracy": history[-1]["accuracy"],
        "loss": history[-1]["loss"],
        "trainImages": len(train),
        "testImages": len(test),
        "seconds": round(time.monotonic() - begun, 3),
        "epochs": history,
    }
    (given.model / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    say("wrote model.joblib and metrics.json")


if __name__ == "__main__":
    # One thread for the linear algebra of each process: the workers are the parallelism here.
    with threadpool_limits(1):
        main()
