"""BoLIDLoadReferences: which files are read, how they are read, and what a user reads when one cannot be."""

from __future__ import annotations

import os
import time
import tracemalloc
from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from bolid.nodes.photos import MAX_SIDE, BoLIDLoadReferences

EXIF_ORIENTATION = 0x0112
UNDO = {
    # What a camera that reports this orientation did to the upright picture.
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.fixture
def inputs(tmp_path, monkeypatch) -> Path:
    """ComfyUI's input folder; its parent holds what must not be read."""
    folder = tmp_path / "input"
    folder.mkdir()
    monkeypatch.setattr(folder_paths, "input_directory", str(folder))
    Image.new("RGB", (8, 8), "red").save(tmp_path / "secret.png")
    return folder


def load(folder: str = "", files: str = "") -> list[torch.Tensor]:
    assert BoLIDLoadReferences.validate_inputs(folder, files) is True
    (images,) = BoLIDLoadReferences.execute(folder, files).result
    for image in images:
        assert image.dtype == torch.float32 and image.ndim == 4 and image.shape[0] == 1 and image.shape[-1] == 3
        assert image.min() >= 0 and image.max() <= 1
    return images


def refused(folder: str = "", files: str = "") -> str:
    """What both validation and execution say; the fingerprint must not hide it either."""
    message = BoLIDLoadReferences.validate_inputs(folder, files)
    assert isinstance(message, str)
    with pytest.raises(ValueError) as caught:
        BoLIDLoadReferences.execute(folder, files)
    assert str(caught.value) == message
    with pytest.raises(ValueError):
        BoLIDLoadReferences.fingerprint_inputs(folder, files)
    return message


def unreadable(folder: str = "", files: str = "") -> str:
    """Names and places are right, so only reading finds out."""
    assert BoLIDLoadReferences.validate_inputs(folder, files) is True
    with pytest.raises(ValueError) as caught:
        BoLIDLoadReferences.execute(folder, files)
    return str(caught.value)


def grey(value: int, size: tuple[int, int] = (4, 4)) -> Image.Image:
    return Image.new("RGB", size, (value,) * 3)


def values(images: list[torch.Tensor]) -> list[int]:
    return [round(image.mean().item() * 255) for image in images]


def as_tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255).unsqueeze(0)


# Which files


@pytest.fixture
def anna(inputs) -> Path:
    folder = inputs / "anna"
    folder.mkdir()
    for number in (10, 2, 1, 33):
        grey(number).save(folder / f"photo {number}.png")
    (folder / "notes.txt").write_text("not a photo")
    (folder / "older.png").mkdir()
    (folder / "._photo 1.png").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")  # which Finder does not show
    return folder


def test_a_folder_is_read_in_natural_order(anna):
    assert values(load("anna")) == [1, 2, 10, 33]
    assert values(load("  anna/ ")) == [1, 2, 10, 33]


def test_every_kind_of_photo_in_a_folder_is_read(inputs):
    for number, name in enumerate(("a.png", "b.JPG", "c.jpeg", "d.WebP", "e.bmp", "f.tif", "g.TIFF", "h.gif")):
        grey(20 * number).save(inputs / name, **({"lossless": True} if name.endswith("P") else {}))
    assert values(load(".")) == [20 * number for number in range(8)]


def test_files_are_read_in_the_order_in_which_they_are_named(anna):
    assert values(load(files="anna/photo 10.png\n\n  anna/photo 1.png \r\nanna/photo 10.png\n")) == [10, 1, 10]


def test_files_inside_a_folder(anna):
    assert values(load("anna", "photo 33.png\nphoto 2.png")) == [33, 2]


def test_the_order_of_odd_names_is_settled(inputs):
    """Superscripts are digits that are no numbers, and case alone must not leave the order to the file system."""
    names = ["B.png", "a.png", "b.png", "x²5.png", "²5.png", "01.png", "1.png", "٣.png"]
    for number, name in enumerate(names):
        grey(number).save(inputs / name)
    order = [names[value] for value in values(load("."))]
    assert sorted(order) == sorted(names)
    assert order.index("a.png") < order.index("B.png") < order.index("b.png")
    assert order.index("01.png") < order.index("1.png") < order.index("٣.png")


def test_different_sizes_stay_different_sizes(inputs, photographs):
    for name in ("astronaut", "bus", "tom_hanks"):
        photographs[name].save(inputs / f"{name}.png")
    astronaut, bus, tom_hanks = load(files="astronaut.png\nbus.png\ntom_hanks.png")
    assert (astronaut.shape, bus.shape, tom_hanks.shape) == ((1, 512, 512, 3), (1, 1080, 810, 3), (1, 112, 112, 3))
    assert torch.equal(bus, as_tensor(photographs["bus"]))


@pytest.mark.parametrize(("folder", "files"), [("", ""), ("  ", " \n\t\n")])
def test_nothing_named(inputs, folder, files):
    assert "'folder'" in refused(folder, files) and "'files'" in refused(folder, files)


def test_an_empty_folder_and_one_that_is_not_there(anna, inputs):
    (inputs / "empty").mkdir()
    (inputs / "empty" / "notes.txt").write_text("")
    assert "has no photo" in refused("empty") and ".jpg" in refused("empty")
    assert "no folder 'ana'" in refused("ana") and str(inputs) in refused("ana")
    assert "no folder 'anna/photo 1.png'" in refused("anna/photo 1.png")


def test_a_photo_that_pillow_cannot_read_is_named_and_not_left_out(anna):
    (anna / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(ValueError, match=r"1 of 5 photos cannot be read.*\n.*IMG_1\.HEIC"):
        load("anna")


def test_missing_files_are_listed(anna):
    message = refused(files="anna/photo 1.png\nanna/photo 3.png\nanna/notes\nanna/older.png\nanna")
    assert message.startswith("Not found in ")
    assert all(name in message for name in ("anna/photo 3.png", "anna/notes", "anna/older.png"))
    assert "photo 1" not in message


@pytest.mark.parametrize("name", ["a\0b.png", "x" * 5000 + ".png", "loop/1.png"])
@pytest.mark.parametrize("where", ["folder", "files"])
def test_names_that_no_file_can_have(name, where, inputs):
    (inputs / "loop").symlink_to(inputs / "loop")
    message = refused(**{where: name})
    assert name[:50] in message or repr(name)[1:-1] in message
    assert len(message) < 600 + len(name)


# Only the input folder


@pytest.fixture
def outside(inputs) -> Path:
    """A folder beside the input folder, whose name starts like it, and links that lead there."""
    folder = inputs.with_name("input-other")
    folder.mkdir()
    grey(5).save(folder / "1.png")
    (inputs / "sub").mkdir()
    (inputs / "link").symlink_to(folder)
    (inputs / "sub" / "1.png").symlink_to(folder / "1.png")
    (inputs / "parent").symlink_to("..")
    return folder


FOLDERS_OUTSIDE = [
    "..",
    "../input-other",
    "sub/../../input-other",
    "link",
    "parent/input-other",
    "{root}/input-other",
    "/",
]
FILES_OUTSIDE = [
    "../secret.png",
    "sub/../../secret.png",
    "../input-other/1.png",
    "link/1.png",
    "sub/1.png",
    "parent/secret.png",
    "{root}/secret.png",
    "/etc/passwd",
    "../not there.png",
]


@pytest.mark.parametrize("folder", FOLDERS_OUTSIDE)
def test_no_folder_outside(folder, outside, inputs):
    assert "outside ComfyUI's input folder" in refused(folder.format(root=inputs.parent))


@pytest.mark.parametrize("name", FILES_OUTSIDE)
def test_no_file_outside(name, outside, inputs):
    assert "outside ComfyUI's input folder" in refused(files=name.format(root=inputs.parent))
    grey(1).save(inputs / "fine.png")
    assert "outside ComfyUI's input folder" in refused(files="fine.png\n" + name.format(root=inputs.parent))


@pytest.mark.parametrize(
    ("folder", "files"), [("sub", "../../secret.png"), ("sub", "1.png"), ("link", "1.png"), ("..", "secret.png")]
)
def test_no_file_outside_by_way_of_a_folder(folder, files, outside):
    assert "outside ComfyUI's input folder" in refused(folder, files)


def test_a_folder_with_a_link_that_leads_outside(outside, inputs):
    grey(9).save(inputs / "sub" / "2.png")
    assert "'sub/1.png' lies outside" in refused("sub")


def test_links_inside_are_followed(anna, inputs):
    (inputs / "also anna").symlink_to(anna)
    assert values(load("also anna")) == [1, 2, 10, 33]
    (inputs / "favourite.png").symlink_to(anna / "photo 10.png")
    assert values(load(files="favourite.png")) == [10]
    assert values(load(files="anna/../anna/photo 2.png")) == [2]
    assert values(load(files=str(anna / "photo 2.png"))) == [2]


def test_an_input_folder_that_is_a_link_itself(anna, inputs, monkeypatch, tmp_path):
    (tmp_path / "linked").symlink_to(inputs)
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path / "linked"))
    assert values(load("anna")) == [1, 2, 10, 33]


# What is in the files


def test_bad_photos_are_listed_together_by_name(anna, photographs, inputs):
    photographs["astronaut"].save(inputs / "whole.jpg")
    photographs["astronaut"].save(inputs / "whole.png")
    for name in ("whole.jpg", "whole.png"):
        content = (inputs / name).read_bytes()
        (anna / f"cut {name}").write_bytes(content[: len(content) // 2])
    (anna / "text.jpg").write_text("<html>404</html>")
    (anna / "empty.png").touch()
    message = unreadable("anna")
    assert message.startswith("4 of 8 photos cannot be read")
    assert all(f"\n{name}: " in message for name in ("cut whole.jpg", "cut whole.png", "text.jpg", "empty.png"))
    assert "truncated" in message
    assert "photo 1" not in message and str(inputs) not in message
    assert len(message.splitlines()) == 5


def test_one_pixel(inputs):
    Image.new("RGB", (1, 1), (255, 0, 51)).save(inputs / "1.png")
    assert load(files="1.png")[0].flatten().tolist() == pytest.approx([1, 0, 0.2])


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1)])
def test_a_line_of_pixels_keeps_its_one_pixel(size, inputs):
    grey(100, size).save(inputs / "1.png")
    (image,) = load(files="1.png")
    assert sorted(image.shape[1:3]) == [1, MAX_SIDE] and values([image]) == [100]


@pytest.mark.parametrize("extension", ["jpg", "png"])
def test_a_huge_photo(extension, inputs):
    """108 megapixels: not refused, not read at full size into floats (1.3 GB)."""
    huge = Image.new("RGB", (12000, 9000), (200, 100, 50))
    huge.paste((0, 0, 0), (0, 0, 6000, 9000))
    huge.save(inputs / f"huge.{extension}", **({"compress_level": 1} if extension == "png" else {}))
    del huge
    started = time.monotonic()
    tracemalloc.start()
    (image,) = load(files=f"huge.{extension}")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert image.shape == (1, 1536, 2048, 3)
    assert time.monotonic() - started < 30
    assert peak < 300e6  # what numpy allocates; Pillow's own pixels are not traced
    torch.testing.assert_close(image[0, 700, 1500], torch.tensor([200.0, 100, 50]) / 255, atol=0.02, rtol=0)
    assert image[0, 700, 500].max() < 0.02


def test_a_photo_of_the_largest_side_is_not_resampled(inputs):
    noise = np.random.default_rng(0).integers(0, 256, (3, MAX_SIDE, 3), np.uint8)
    Image.fromarray(noise).save(inputs / "1.png")
    assert torch.equal(load(files="1.png")[0], as_tensor(Image.fromarray(noise)))


def test_reducing_averages(inputs):
    stripes = np.zeros((8, 2 * MAX_SIDE, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(inputs / "1.png")
    (image,) = load(files="1.png")
    assert image.shape == (1, 4, MAX_SIDE, 3)
    assert (image[0, :, 8:-8] - 0.5).abs().max() < 0.1


def test_greyscale(inputs, photographs):
    picture = photographs["astronaut"].convert("L")
    picture.save(inputs / "1.png")
    (image,) = load(files="1.png")
    assert torch.equal(image, as_tensor(picture))
    assert torch.equal(image[..., 0], image[..., 2])


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_16_bit_greyscale(extension, inputs):
    ramp = np.linspace(0, 65535, 4096).astype(np.uint16).reshape(64, 64)
    Image.fromarray(ramp).save(inputs / f"1.{extension}")
    expected = torch.from_numpy(ramp.astype(np.float32) / 65535)
    torch.testing.assert_close(load(files=f"1.{extension}")[0][0, ..., 1], expected, atol=1.01 / 255, rtol=0)
    Image.fromarray(np.tile(ramp, (1, 40))).save(inputs / f"wide.{extension}")
    assert load(files=f"wide.{extension}")[0].shape == (1, 51, MAX_SIDE, 3)


def test_floating_point_pixels_are_refused_instead_of_read_as_black(inputs):
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(inputs / "1.tif")
    assert "1.tif: its pixels are floating-point numbers" in unreadable(files="1.tif")


def test_transparent_parts_are_white(inputs):
    picture = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    picture.putpixel((1, 0), (255, 0, 0, 255))
    picture.putpixel((2, 0), (0, 0, 255, 128))
    picture.save(inputs / "1.png")
    assert load(files="1.png")[0][0, 0].tolist() == [
        pytest.approx([1, 1, 1]),
        pytest.approx([1, 0, 0]),
        pytest.approx([127 / 255, 127 / 255, 1], abs=0.005),
    ]


def test_greyscale_with_alpha(inputs):
    Image.new("LA", (2, 2), (0, 0)).save(inputs / "1.png")
    assert load(files="1.png")[0].min() == 1


@pytest.mark.parametrize("extension", ["png", "gif"])
def test_a_palette_with_transparency(extension, inputs):
    picture = Image.new("P", (2, 1))
    picture.putpalette([0, 0, 0, 255, 0, 0])
    picture.putpixel((1, 0), 1)
    picture.save(inputs / f"1.{extension}", transparency=0)
    assert load(files=f"1.{extension}")[0][0, 0].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_a_colour_that_stands_for_transparent(inputs):
    picture = Image.new("RGB", (2, 1), (10, 20, 30))
    picture.putpixel((1, 0), (255, 0, 0))
    picture.save(inputs / "1.png", transparency=(10, 20, 30))
    assert load(files="1.png")[0][0, 0].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_cmyk(inputs, photographs):
    photographs["astronaut"].convert("CMYK").save(inputs / "1.jpg", quality=95)
    (image,) = load(files="1.jpg")
    assert (image - as_tensor(photographs["astronaut"])).abs().mean() < 0.01


@pytest.mark.parametrize("extension", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_upright(orientation, extension, inputs, photographs):
    upright = photographs["grace_hopper"].resize((128, 150))
    turned = upright.transpose(UNDO[orientation]) if orientation in UNDO else upright
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    turned.save(inputs / f"1.{extension}", exif=exif, quality=95)
    (image,) = load(files=f"1.{extension}")
    assert image.shape == (1, 150, 128, 3)
    assert (image - as_tensor(upright)).abs().mean() < 0.03
    # The test itself: a picture turned in any other way is far from it.
    others = [upright.transpose(method).resize((128, 150)) for method in UNDO.values()]
    assert min((image - as_tensor(other)).abs().mean() for other in others) > 0.1


def test_large_photos_are_turned_too(inputs):
    picture = Image.new("RGB", (6000, 3000))
    picture.paste((255, 255, 255), (0, 0, 6000, 1500))
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    picture.save(inputs / "1.jpg", exif=exif)
    (image,) = load(files="1.jpg")
    assert image.shape == (1, MAX_SIDE, MAX_SIDE // 2, 3)
    assert image[0, 1000, 900].min() > 0.95 and image[0, 1000, 100].max() < 0.05
    assert np.asarray(ImageOps.exif_transpose(Image.open(inputs / "1.jpg")))[3000, 2700].min() > 240


def test_the_first_frame_of_an_animation(inputs, photographs):
    first = photographs["carphone_0"]
    first.save(inputs / "1.gif", save_all=True, append_images=[photographs["carphone_4"], grey(0, first.size)])
    (image,) = load(files="1.gif")
    assert image.shape == (1, 144, 176, 3)
    assert (image - as_tensor(first)).abs().mean() < 0.03 < (image - as_tensor(photographs["carphone_4"])).abs().mean()


def test_a_decompression_bomb_is_named(inputs):
    Image.new("1", (20000, 20000)).save(inputs / "bomb.png")
    message = unreadable(files="bomb.png")
    assert "\nbomb.png: Image size (400000000 pixels) exceeds limit" in message
    assert (inputs / "bomb.png").stat().st_size < 1e6


# Caching


def test_the_fingerprint_follows_the_files(anna, inputs):
    def fingerprint(folder: str = "anna", files: str = "") -> str:
        first = BoLIDLoadReferences.fingerprint_inputs(folder, files)
        assert first == BoLIDLoadReferences.fingerprint_inputs(folder, files)
        return first

    seen = [fingerprint(), fingerprint(files="photo 1.png")]
    grey(77).save(anna / "photo 1.png")
    os.utime(anna / "photo 1.png", ns=(1, 1))
    seen += [fingerprint(), fingerprint(files="photo 1.png")]
    os.utime(anna / "photo 1.png", ns=(1, 2))
    seen.append(fingerprint())
    grey(78, (500, 500)).save(anna / "photo 1.png")
    os.utime(anna / "photo 1.png", ns=(1, 2))
    seen.append(fingerprint())
    grey(3).save(anna / "photo 3.png")
    seen.append(fingerprint())
    (anna / "photo 33.png").rename(anna / "photo 34.png")
    seen.append(fingerprint())
    assert len(set(seen)) == len(seen)
    assert fingerprint(files="photo 1.png\nphoto 2.png") != fingerprint(files="photo 2.png\nphoto 1.png")
    before = fingerprint()
    (anna / "notes.txt").write_text("changed")
    assert fingerprint() == before


def test_linked_inputs_are_not_judged_before_the_graph_runs(inputs):
    assert BoLIDLoadReferences.validate_inputs(None, "../secret.png") is True
    assert BoLIDLoadReferences.validate_inputs("..", None) is True
    BoLIDLoadReferences.fingerprint_inputs(None, "")
    with pytest.raises(ValueError, match="outside"):
        BoLIDLoadReferences.execute("..", "")


# In the graph


def test_progress_and_interrupting(anna, monkeypatch):
    seen = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda *given, **named: seen.append(given[:2]))
    load("anna")
    assert seen[0] == (1, 4) and seen[-1] == (4, 4)

    def interrupt(value, *rest, **named):
        seen.append(value)
        comfy.model_management.interrupt_current_processing()

    seen.clear()
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", interrupt)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        BoLIDLoadReferences.execute("anna", "")
    assert seen == [1]


def test_the_preview_shows_every_photo(inputs, photographs):
    photographs["bus"].save(inputs / "1.png")
    grey(200, (3000, 1)).save(inputs / "2.png")
    output = BoLIDLoadReferences.execute("", "1.png\n2.png")
    previews = output.ui.as_dict()["images"]
    assert len(previews) == 2
    first = Path(folder_paths.get_temp_directory(), previews[0]["subfolder"], previews[0]["filename"])
    with Image.open(first) as shown:
        assert shown.size == (256, 256)
        assert np.asarray(shown)[:, :20].max() == 0  # the portrait format leaves room at the sides
        assert np.asarray(shown)[:, 40:-40].mean() > 60
