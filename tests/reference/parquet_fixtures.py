"""The parquet files in tests/fixtures/parquet, with the schema of Hugging Face's `datasets`, and one with other columns.

    python tests/reference/parquet_fixtures.py tests/fixtures/parquet

Needs datasets, pyarrow and Pillow.
"""

import io
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CLASSES = ["daisy", "rose", "tulip"]


def picture(label, number):
    base = [(200, 40, 40), (40, 200, 40), (40, 40, 200)][label]
    image = Image.new("RGB", (20 + number % 3, 24))
    image.putdata([tuple((c + 3 * number + x) % 256 for c in base) for x in range(image.width * image.height)])
    return image


def rows(numbers):
    return [(label, number) for number in numbers for label in range(3)]


def png(label, number):
    buffer = io.BytesIO()
    picture(label, number).save(buffer, "PNG")
    return buffer.getvalue()


def write(folder, name, numbers):
    pairs = rows(numbers)
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=CLASSES))
    images = [{"bytes": png(*pair), "path": f"{CLASSES[pair[0]]}-{pair[1]}.png"} for pair in pairs]
    table = pa.table({"image": images, "label": [label for label, _ in pairs]}, schema=features.arrow_schema)
    # Several row groups, as in large datasets.
    pq.write_table(table, folder / name, row_group_size=5)


def main():
    folder = Path(sys.argv[1])
    write(folder, "train.parquet", range(8))
    write(folder, "test.parquet", range(8, 10))
    texts = []
    for label, number in rows(range(4)):
        texts.append((png(label, number), CLASSES[label]))
    pq.write_table(pa.table({"img": [a for a, _ in texts], "class": [b for _, b in texts]}), folder / "texts.parquet")


main()
