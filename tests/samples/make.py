"""Cut the real data that tests read from the whole sets: `python tests/samples/make.py DATA_FOLDER`."""

import gzip
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


HERE = Path(__file__).parent
SPEECH, DIGITS, FASHION = "librispeech_small", "spoken_digits", "fashion_mnist_small"


def read(data: Path, name: str, split: str) -> pa.Table:
    return pq.read_table(data / name / "data" / f"{split}-00000-of-00001.parquet")


def write(table: pa.Table, name: str, split: str) -> None:
    path = HERE / name / "data" / f"{split}-00000-of-00001.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def first_of_each(table: pa.Table, columns: list[str], count: int) -> pa.Table:
    """The first `count` rows with each value of the columns, in order."""
    seen: dict[tuple[object, ...], int] = {}
    rows = []
    for row, value in enumerate(zip(*(table[name].to_pylist() for name in columns), strict=True)):
        seen[value] = seen.get(value, 0) + 1
        rows += [row] if seen[value] <= count else []
    return table.take(rows)


def main(folder: str) -> None:
    data = Path(folder)
    shortest = read(data, SPEECH, "validation").sort_by("duration").slice(0, 10)
    write(shortest, SPEECH, "validation")
    seconds = [round(value, 2) for value in read(data, SPEECH, "train")["duration"].to_pylist()]
    (HERE / SPEECH / "durations.json").write_text(json.dumps(seconds) + "\n", encoding="utf-8")
    write(first_of_each(read(data, DIGITS, "train"), ["digit", "speaker_id"], 1), DIGITS, "train")
    write(first_of_each(read(data, DIGITS, "test"), ["digit", "speaker_id"], 1), DIGITS, "test")
    write(first_of_each(read(data, FASHION, "train"), ["label"], 8), FASHION, "train")
    write(first_of_each(read(data, FASHION, "test"), ["label"], 4), FASHION, "test")
    text = gzip.decompress((data / "text_misc" / "tinyshakespeare.txt.gz").read_bytes()).decode()
    speeches = text[:60_000].split("\n\n")[:-1]
    write(pa.table({"text": speeches}), "shakespeare", "validation")


if __name__ == "__main__":
    main(sys.argv[1])
