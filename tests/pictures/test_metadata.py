"""What stands beside the pixels is kept, but where it describes or shows what is no longer so."""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, JpegImagePlugin
from PIL.PngImagePlugin import PngInfo

from sa_flax.pictures import Picture, read_picture, write_picture
from sa_flax.pictures.tags import pack_directory, pack_exif, read_exif
from tests.pictures.files_by_hand import (
    PIXELS,
    PROFILE,
    RNG,
    SMOOTH,
    THUMBNAIL,
    XMP,
    camera_exif,
    join_png,
    saved,
    split_png,
    through,
)


@pytest.mark.parametrize("to", [".png", ".jpg", ".tif", ".webp"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_everything_goes_from_every_format_to_every_other(tmp_path, kind, to):
    exif = camera_exif()
    dpi = {} if kind == "WEBP" else {"dpi": (300, 150)}
    options = {"exif": exif, "icc_profile": PROFILE, **dpi}
    if kind == "PNG":
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP.decode())
    elif kind == "TIFF":
        tags = Image.Exif()
        tags.load(exif)
        tags[700] = XMP
        options["exif"] = tags
    else:
        options["xmp"] = XMP
    suffix = {"PNG": ".png", "JPEG": ".jpg", "TIFF": ".tif", "WEBP": ".webp"}[kind]
    picture, result = through(tmp_path, saved(PIXELS, kind, **options), suffix, to)
    assert THUMBNAIL[:3] not in picture.metadata["exif"]
    with Image.open(io.BytesIO(result)) as image:
        image.load()
        tags = image.getexif()
        assert tags[0x010F] == "camera"
        assert tags.get(0x0112, 1) == 1
        inner = tags.get_ifd(0x8769)
        assert inner[0x829A] == pytest.approx(1 / 250)
        assert inner[0x927C] == b"maker's notes"
        assert tags.get_ifd(0x8825)[1] == "N"
        assert not tags.get_ifd(1)
        assert image.info["icc_profile"] == PROFILE
        found = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp", "").encode()
        if to == ".tif":
            found = image.tag_v2[700]
        assert found == XMP
        if dpi and to != ".webp":
            assert image.info["dpi"] == pytest.approx((300, 150), abs=0.02)
    with_thumbnail = THUMBNAIL[:20]
    assert with_thumbnail not in result


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_and_the_sizes_in_exif_follow(tmp_path, order, orientation):
    exif = camera_exif(order, orientation)
    for kind, suffix in (("PNG", ".png"), ("WEBP", ".webp"), ("TIFF", ".tif")):
        options = {"lossless": True} if kind == "WEBP" else {}
        picture, result = through(tmp_path, saved(PIXELS, kind, exif=exif, **options), suffix)
        with Image.open(io.BytesIO(result)) as image:
            assert image.getexif().get(0x0112, 1) == 1
            width, height = (image.getexif().get_ifd(0x8769)[tag] for tag in (0xA002, 0xA003))
        tall = orientation < 5
        assert picture.pixels.shape[:2] == ((12, 10) if tall else (10, 12))
        assert (width, height) == ((10, 12) if tall else (12, 10))
        once = Image.fromarray(PIXELS)
        flips = Image.Transpose
        turn = [
            None, flips.FLIP_LEFT_RIGHT, flips.ROTATE_180, flips.FLIP_TOP_BOTTOM, flips.TRANSPOSE,
            flips.ROTATE_270, flips.TRANSVERSE, flips.ROTATE_90,
        ][orientation - 1]  # fmt: skip
        expected = once if turn is None else once.transpose(turn)
        np.testing.assert_array_equal(picture.pixels, np.asarray(expected))


def test_orientation_said_by_xmp_alone(tmp_path):
    xmp = b'<rdf:Description tiff:Orientation="3" tiff:Make="x"/>'
    picture, result = through(tmp_path, saved(PIXELS, "WEBP", xmp=xmp, lossless=True), ".webp")
    np.testing.assert_array_equal(picture.pixels, PIXELS[::-1, ::-1])
    assert b"Orientation" not in result
    assert b'tiff:Make="x"' in result


def test_copies_of_the_picture_are_not_carried(tmp_path):
    xmp = (
        b"<rdf:Description><xmp:Thumbnails><rdf:Alt><xmpGImg:image>/9j/4AAQ</xmpGImg:image>"
        b'</rdf:Alt></xmp:Thumbnails><dc:x GDepth:Data="AAAA" dc:title="kept"/></rdf:Description>'
    )
    exif = camera_exif(notes=b"notes" + THUMBNAIL)
    extra = [
        (37724, 7, len(THUMBNAIL), b"Adobe Photoshop Document Data Block" + THUMBNAIL[4:20], True),
        (34377, 1, 12, b"8BIM" + bytes(8), True),
        (50341, 7, 4, b"kept", True),
    ]
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(
            PIXELS, photometric="rgb", metadata=None, subifds=1, extratags=extra, software=False
        )
        writer.write(PIXELS[::2, ::2], photometric="rgb", metadata=None, subfiletype=1)
    _, result = through(tmp_path, file.getvalue(), ".tif")
    with tifffile.TiffFile(io.BytesIO(result)) as written:
        codes = {tag.code for tag in written.pages[0].tags}
        assert len(written.pages) == 1
    assert not codes & {37724, 34377, 330}
    assert 50341 in codes
    _, result = through(tmp_path, saved(SMOOTH, "JPEG", exif=exif, xmp=xmp), ".jpg")
    assert b"/9j/" not in result
    assert b"AAAA" not in result
    assert b'dc:title="kept"' in result
    assert result.count(b"\xff\xd8\xff") == 1
    assert b"notes" not in result


def test_several_pictures_in_a_jpeg_are_its_previews(tmp_path):
    mpo = saved(SMOOTH, "MPO", save_all=True, append_images=[Image.fromarray(SMOOTH[::2, ::2])])
    _, result = through(tmp_path, mpo, ".jpg")
    assert result.count(b"\xff\xd8\xff") == 1
    assert b"MPF" not in result


def test_profiles_follow_the_colours(tmp_path):
    palette = Image.fromarray(PIXELS).quantize(8)
    file = io.BytesIO()
    palette.save(file, "PNG", icc_profile=PROFILE)
    picture, result = through(tmp_path, file.getvalue(), ".png")
    assert Image.open(io.BytesIO(result)).info["icc_profile"] == PROFILE
    np.testing.assert_array_equal(picture.pixels, np.asarray(palette.convert("RGB")))
    for mode, kind, suffix in (("LAB", "TIFF", ".tif"), ("CMYK", "TIFF", ".tif"),
                               ("CMYK", "JPEG", ".jpg")):  # fmt: skip
        file = io.BytesIO()
        Image.fromarray(SMOOTH).convert(mode).save(file, kind, icc_profile=b"of other colours")
        picture, result = through(tmp_path, file.getvalue(), suffix)
        assert "icc_profile" not in picture.metadata
        assert b"of other colours" not in result
        assert picture.pixels.shape == SMOOTH.shape
        assert np.abs(picture.pixels.astype(int) - SMOOTH).mean() < 12
    gray_profile = PROFILE[:16] + b"GRAY" + PROFILE[20:]
    for kind in (".webp", ".avif"):  # which have no gray of their own
        write_picture(tmp_path / f"p{kind}", Picture(PIXELS[..., 0], {"icc_profile": gray_profile}))
        with Image.open(tmp_path / f"p{kind}") as image:
            assert "icc_profile" not in image.info
    for array, profile, kept in (
        (PIXELS, PROFILE, True),
        (PIXELS[..., 0], PROFILE, True),  # many have it so
        (PIXELS[..., 0], gray_profile, True),
        (PIXELS, gray_profile, False),
        (PIXELS, PROFILE[:16] + b"CMYK" + PROFILE[20:], False),
    ):
        write_picture(tmp_path / "p.png", Picture(array, {"icc_profile": profile}))
        with Image.open(tmp_path / "p.png") as image:
            assert image.info.get("icc_profile") == (profile if kept else None)


def test_a_transparent_colour_stays_one_at_any_depth(tmp_path):
    deep = RNG.integers(0, 65536, (6, 5), np.uint16)
    _, chunks, end = split_png(saved(deep, "PNG"))
    key = struct.pack(">H", deep[2, 3])
    content = join_png([*chunks[:1], (b"tRNS", key), *chunks[1:], *end])
    picture, result = through(tmp_path, content, ".png")
    np.testing.assert_array_equal(picture.pixels[..., 0], deep)
    np.testing.assert_array_equal(picture.pixels[..., 1], np.where(deep == deep[2, 3], 0, 65535))
    (tmp_path / "again.png").write_bytes(result)
    np.testing.assert_array_equal(read_picture(tmp_path / "again.png").pixels, picture.pixels)
    for mode, transparency in (("1", 0), ("L", 7), ("RGB", (1, 2, 3))):
        image = Image.fromarray(PIXELS % 16).convert(mode)
        file = io.BytesIO()
        image.save(file, "PNG", transparency=transparency)
        (tmp_path / "key.png").write_bytes(file.getvalue())
        read = read_picture(tmp_path / "key.png").pixels
        np.testing.assert_array_equal(
            read,
            np.asarray(Image.open(tmp_path / "key.png").convert("LA" if mode != "RGB" else "RGBA")),
        )


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_key_of_gray_levels_of_few_bits(tmp_path, bits):
    top = 2**bits - 1
    levels = np.arange(64).reshape(8, 8) % (top + 1)
    flat = np.unpackbits(levels.astype(np.uint8)[..., None], axis=-1)[..., 8 - bits :]
    rows = np.packbits(flat.reshape(8, -1), axis=1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", 8, 8, bits, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"tRNS", struct.pack(">H", top)), (b"IDAT", zlib.compress(data))]
    (tmp_path / "a.png").write_bytes(join_png([*chunks, (b"IEND", b"")]))
    read = read_picture(tmp_path / "a.png").pixels
    np.testing.assert_array_equal(read[..., 0], levels * (255 // top))
    np.testing.assert_array_equal(read[..., 1], np.where(levels == top, 0, 255))


def test_text_comments_and_the_meaning_of_png_values(tmp_path):

    info = PngInfo()
    info.add_text("Title", "a photograph")
    info.add_text("Long", "x" * 3000, zip=True)
    info.add_itxt("Author", "写真家")
    info.add(b"gAMA", struct.pack(">I", 100_000))
    picture, result = through(tmp_path, saved(PIXELS, "PNG", pnginfo=info), ".png")
    with Image.open(io.BytesIO(result)) as image:
        image.load()
        assert image.text == {"Title": "a photograph", "Long": "x" * 3000, "Author": "写真家"}
        assert image.info["gamma"] == 1.0
    assert len(picture.metadata["text"]) == 3
    _, result = through(tmp_path, saved(SMOOTH, "JPEG", comment=b"by me"), ".jpg")
    assert Image.open(io.BytesIO(result)).info["comment"] == b"by me"
    _, result = through(tmp_path, saved(SMOOTH, "JPEG", comment=b"Caf\xe9"), ".jpg")
    assert Image.open(io.BytesIO(result)).info["comment"].decode() == "Café"


@pytest.mark.parametrize("quality", [1, 30, 60, 95])
@pytest.mark.parametrize("sampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_is_written_as_it_came(tmp_path, quality, sampling, progressive):
    array = np.clip(SMOOTH + RNG.normal(0, 6, SMOOTH.shape), 0, 255).astype(np.uint8)
    content = saved(array, "JPEG", quality=quality, subsampling=sampling, progressive=progressive)
    _, result = through(tmp_path, content, ".jpg")
    with Image.open(io.BytesIO(content)) as before, Image.open(io.BytesIO(result)) as after:
        assert after.quantization == before.quantization
        assert JpegImagePlugin.get_sampling(after) == sampling
        assert ("progressive" in after.info) == progressive
    assert len(result) < 1.05 * len(content)
    picture = read_picture(tmp_path / "a.jpg")
    sizes = []
    for asked in (20, 90):
        write_picture(tmp_path / "asked.jpg", picture, quality=asked)
        with Image.open(tmp_path / "asked.jpg") as other:
            expected = io.BytesIO()
            Image.fromarray(array).save(expected, "JPEG", quality=asked)
            assert other.quantization == Image.open(expected).quantization
        sizes.append((tmp_path / "asked.jpg").stat().st_size)
    assert sizes[0] < sizes[1]


def test_gray_jpeg_stays_gray(tmp_path):
    picture, result = through(tmp_path, saved(SMOOTH[..., 0], "JPEG", quality=70), ".jpg")
    assert picture.pixels.ndim == 2
    assert Image.open(io.BytesIO(result)).mode == "L"


def test_webp_is_lossless_where_it_was_and_on_request_not(tmp_path):
    noise = RNG.integers(0, 256, (32, 32, 4), np.uint8)
    content = saved(noise, "WEBP", lossless=True, exact=True)
    picture, result = through(tmp_path, content, ".webp")
    np.testing.assert_array_equal(picture.pixels, noise)
    assert b"VP8L" in result
    lossy, result = through(tmp_path, saved(SMOOTH, "WEBP", quality=50), ".webp")
    assert b"VP8L" not in result
    again = read_picture(tmp_path / "b.webp").pixels
    assert np.abs(again.astype(float) - lossy.pixels).mean() < 2
    write_picture(tmp_path / "c.webp", picture, quality=50)
    assert b"VP8L" not in (tmp_path / "c.webp").read_bytes()
    _, from_jpeg = through(tmp_path, saved(SMOOTH, "JPEG"), ".jpg", ".webp")
    assert b"VP8L" not in from_jpeg
    write_picture(tmp_path / "d.webp", Picture(noise, {}))
    np.testing.assert_array_equal(read_picture(tmp_path / "d.webp").pixels, noise)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_tiff_compression_is_kept(tmp_path, compression):
    content = saved(PIXELS, "TIFF", compression=compression)
    _, result = through(tmp_path, content, ".tif")
    with Image.open(io.BytesIO(result)) as image:
        assert image.info["compression"] == compression
        np.testing.assert_array_equal(np.asarray(image), PIXELS)


def test_exif_of_either_order_goes_into_tiff(tmp_path):
    for order in "<>":
        write_picture(tmp_path / "a.tif", Picture(PIXELS, {"exif": camera_exif(order)}))
        with Image.open(tmp_path / "a.tif") as image:
            inner = image.getexif().get_ifd(0x8769)
        assert inner[0x829A] == pytest.approx(1 / 250)
        assert inner[0xA002] == 10


def test_resolutions_change_places_with_the_sides(tmp_path):
    for kind, suffix in (("PNG", ".png"), ("TIFF", ".tif"), ("JPEG", ".jpg")):
        content = saved(PIXELS, kind, exif=camera_exif(orientation=6), dpi=(300, 150))
        _, result = through(tmp_path, content, suffix)
        with Image.open(io.BytesIO(result)) as image:
            assert image.info["dpi"] == pytest.approx((150, 300), abs=0.02)


def test_more_exif_than_jpeg_has_room_for(tmp_path):
    exif = camera_exif(notes=bytes(100_000))
    write_picture(tmp_path / "a.jpg", Picture(PIXELS, {"exif": exif, "xmp": b"x" * 70_000}))
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.getexif()[0x010F] == "camera"
        assert "xmp" not in image.info


def test_directories_survive_packing():
    for order in "<>":
        directory, found = read_exif(camera_exif(order))
        assert found == order
        assert read_exif(pack_exif(directory, order)) == (directory, order)
        assert pack_directory({}, order, 8) == bytes(6)


def test_a_tiff_that_came_with_loss_loses_no_more(tmp_path):
    picture, result = through(tmp_path, saved(SMOOTH, "TIFF", compression="jpeg"), ".tif")
    np.testing.assert_array_equal(read_picture(tmp_path / "b.tif").pixels, picture.pixels)
    with Image.open(io.BytesIO(result)) as image:
        assert image.info["compression"] == "tiff_adobe_deflate"
