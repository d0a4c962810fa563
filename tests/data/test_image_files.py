"""Decoding of untrusted images and of the Parquet layout."""

import io
import struct
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_data import encode, pictures
from PIL import Image

from newton_krylov.data import image_files
from newton_krylov.data.image_files import Shape, decode, read_bytes, read_parquet, size_of
from newton_krylov.errors import DataError

RGB = Shape("rgb", 6, 4)


def test_a_lossless_image_comes_back_channel_by_channel():
    pixels = pictures(1)[0]
    assert np.array_equal(decode(encode(pixels), RGB, "it"), pixels)


def test_a_jpeg_comes_back_nearly():
    smooth = np.broadcast_to(np.arange(60, 180, 30, dtype=np.uint8), (3, 6, 4))
    decoded = decode(encode(smooth, "JPEG", quality=95), RGB, "it")
    assert abs(decoded.astype(int) - smooth).max() < 10


def test_grey_images_have_one_channel_or_three_equal_ones():
    grey = pictures(1, channels=1)[0]
    assert np.array_equal(decode(encode(grey), Shape("gray", 6, 4), "it"), grey)
    assert np.array_equal(decode(encode(grey), RGB, "it"), np.repeat(grey, 3, axis=0))
    coloured = np.repeat(grey, 3, axis=0)
    assert np.array_equal(decode(encode(coloured), Shape("gray", 6, 4), "it"), grey)


def test_a_palette_and_transparency_are_converted():
    image = Image.fromarray(pictures(1)[0].transpose(1, 2, 0)).convert("RGBA").quantize()
    stream = io.BytesIO()
    image.save(stream, "PNG")
    assert decode(stream.getvalue(), RGB, "it").shape == (3, 6, 4)


def test_resizing_keeps_a_constant_image_constant():
    constant = np.full((3, 12, 9), 200, dtype=np.uint8)
    assert (decode(encode(constant), Shape("rgb", 6, 4, resize=True), "it") == 200).all()


def test_the_size_is_height_before_width():
    assert size_of(encode(pictures(1)[0]), "it") == (6, 4)


def test_another_size_is_refused():
    with pytest.raises(DataError, match="it has 4 x 6 pixels, not 6 x 4"):
        decode(encode(pictures(1)[0]), Shape("rgb", 4, 6), "it")


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF"])
def test_other_formats_are_refused(kind):
    with pytest.raises(DataError, match=r"^it is not a sound JPEG or PNG image"):
        decode(encode(pictures(1)[0], kind), RGB, "it")


def png_header(width, height):
    """The beginning of a PNG that promises a size, and a compressed stream of zeros."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(10_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels)


@pytest.mark.parametrize("side", [4097, 9000, 20_000, 2**31 - 1])
@pytest.mark.parametrize("resize", [False, True])
def test_a_decompression_bomb_is_refused_by_its_header(side, resize, recwarn):
    with pytest.raises(DataError, match=r"it has .*pixels.* a side"):
        decode(png_header(side, side), Shape("rgb", 6, 4, resize=resize), "it")
    assert not recwarn


def test_a_file_that_is_no_image_for_its_size_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "MAX_FILE", 100)
    (tmp_path / "large.png").write_bytes(bytes(101))
    with pytest.raises(DataError, match=r"large\.png has more than"):
        read_bytes(tmp_path / "large.png")


PNG = encode(pictures(1)[0])


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_truncated_image_is_refused(kind):
    whole = encode(pictures(1)[0], kind)
    for cut in (0, 1, 20, len(whole) // 2, len(whole) * 3 // 4):
        with pytest.raises(DataError, match=r"^it is not a sound JPEG or PNG image"):
            decode(whole[:cut], RGB, "it")


def flipped(place, change):
    damaged = bytearray(PNG)
    damaged[place] ^= change
    return bytes(damaged)


@given(
    st.binary(max_size=200)
    | st.builds(flipped, st.integers(0, len(PNG) - 1), st.integers(1, 255))
    | st.integers(0, len(PNG)).map(lambda cut: PNG[:cut])
)
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_refused_by_a_sentence_or_decoded_to_the_size_wanted(data):
    try:
        assert decode(data, RGB, "it").shape == (3, 6, 4)
    except DataError as error:
        assert str(error).startswith("it ")
        assert "\n" not in str(error)


def table(images, labels, **other):
    structs = [None if i is None else {"bytes": i, "path": "x"} for i in images]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.table({"img": pa.array(structs, kind), "label": labels, **other})


def write(path, *arguments, **keywords):
    pq.write_table(table(*arguments, **keywords), path)
    return path


def test_parquet_rows_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "_BATCH", 3)
    X, y = pictures(10), np.arange(10) % 4
    path = write(tmp_path / "a.parquet", list(map(encode, X)), y)
    read, labels = read_parquet(path, RGB, 4)
    assert np.array_equal(read, X)
    assert np.array_equal(labels, y)
    assert labels.dtype == np.int64


@pytest.mark.parametrize(
    ("images", "labels", "sentence"),
    [
        ([PNG, None], [0, 1], r"a\.parquet, row 2 has no image\."),
        ([PNG, PNG], [0, None], r"a\.parquet, row 2 has the label None, not one of 0 to 3\."),
        ([PNG, PNG], [0, 4], r"a\.parquet, row 2 has the label 4, not one of 0 to 3\."),
        ([PNG, PNG], [-1, 0], r"a\.parquet, row 1 has the label -1, not one of 0 to 3\."),
        ([PNG, PNG], [0.5, 0], r"a\.parquet, row 1 has the label 0\.5, not one of 0 to 3\."),
        ([PNG, PNG[:40]], [0, 1], r"a\.parquet, row 2 is not a sound JPEG or PNG image"),
        ([PNG, b""], [0, 1], r"a\.parquet, row 2 is not a sound JPEG or PNG image"),
        ([], pa.array([], pa.int64()), r"a\.parquet holds no image\."),
    ],
)
def test_a_wrong_row_is_told_by_its_number(tmp_path, images, labels, sentence):
    path = write(tmp_path / "a.parquet", images, labels)
    with pytest.raises(DataError, match=sentence):
        read_parquet(path, RGB, 4)


def test_another_layout_is_refused(tmp_path):
    pq.write_table(pa.table({"image": [1], "label": [0]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"has no column img\.bytes.*\(its columns: image, label\)"):
        read_parquet(tmp_path / "a.parquet", RGB, 4)


def test_a_column_that_expands_without_measure_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    other = [bytes(2**20)] * 20
    pq.write_table(table([PNG] * 20, [0] * 20, other=other), path, compression="gzip")
    with pytest.raises(DataError, match="expands to more than 200 times its size"):
        read_parquet(path, RGB, 4)


def test_missing_and_damaged_parquet_files(tmp_path):
    with pytest.raises(DataError, match="There is no file"):
        read_parquet(tmp_path / "a.parquet", RGB, 4)
    path = write(tmp_path / "a.parquet", [PNG] * 3, [0] * 3)
    whole = path.read_bytes()
    for damaged in (b"", b"PAR1", whole[:100], whole[:-1], b"x" * 100):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"a\.parquet is not a sound Parquet file"):
            read_parquet(path, RGB, 4)


def test_a_column_s_name_that_is_no_text(tmp_path):
    """pyarrow tells it by the decoder's own error."""
    path = write(tmp_path / "a.parquet", [PNG] * 3, [0, 1, 2])
    whole = path.read_bytes()
    assert b"img" in whole
    path.write_bytes(whole.replace(b"img", b"\xe9mg"))
    with pytest.raises(DataError, match="is not a sound Parquet file"):
        read_parquet(path, RGB, 4)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_flipped_byte_of_a_parquet_file_never_escapes(tmp_path_factory, data):
    path = write(tmp_path_factory.mktemp("p") / "a.parquet", [PNG] * 3, [0, 1, 2])
    damaged = bytearray(path.read_bytes())
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(damaged)
    try:
        X, y = read_parquet(path, RGB, 4)
        assert X.shape == (len(y), 3, 6, 4)
    except DataError as error:
        assert "\n" not in str(error)
