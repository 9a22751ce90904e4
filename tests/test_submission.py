import base64
import csv
import io
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from core.errors import OperationError, UserError
from submission.check import baselines, in_sample_order, score, validate
from submission.submission_csv import HEADER, SubmissionWriter, decode_alpha, encode_alpha, read_hosted

SHAPE = (6, 8)


def write(path, alphas: dict):
    with SubmissionWriter(path) as writer:
        for name, alpha in alphas.items():
            writer.write(name, alpha)
    return path


def write_text(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])
    return path


def png(array: np.ndarray, **options) -> str:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png", **options)
    return base64.b64encode(buffer.getvalue()).decode()


@given(arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20))))
def test_every_level_survives_the_round_trip(levels):
    np.testing.assert_array_equal(decode_alpha(encode_alpha(levels / np.float32(255))), levels)


def test_values_are_rounded_clipped_and_never_stretched():
    alpha = np.array([[0.5, 0.4999, -1, 2, 0.8, 126.5 / 255]])
    np.testing.assert_array_equal(decode_alpha(encode_alpha(alpha)), [[128, 127, 0, 255, 204, 127]])
    with pytest.raises(OperationError, match="not finite"):
        encode_alpha(np.array([[np.nan]]))


@given(st.text(max_size=60))
def test_any_text_is_decoded_or_refused_in_one_line(text):
    with pytest.raises(UserError) as error:
        decode_alpha(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text, words", [
    (png(np.zeros((*SHAPE, 3), np.uint8)), "8 bit, RGB"),
    (png(np.zeros(SHAPE, np.uint16)), "16 bit, grey"),
    (encode_alpha(np.random.default_rng(0).random((50, 50)))[:1200], "damaged"),
    ("*" * 40, "not base64"),
    (base64.b64encode(b"\xff\xd8\xff" * 20).decode(), "not a PNG"),
])
def test_what_is_no_8_bit_grey_png_is_named(tmp_path, text, words):
    path = write_text(tmp_path / "s.csv", [("1", encode_alpha(np.zeros(SHAPE))), ("2", text)])
    with pytest.raises(UserError, match=words) as error:
        validate(path, ["1", "2"], SHAPE)
    assert "line 3 (2)" in str(error.value)


def test_a_valid_submission_keeps_names_as_text(tmp_path):
    path = write(tmp_path / "s.csv", {"001": np.zeros(SHAPE), "2,b": np.ones(SHAPE)})
    assert validate(path, ["2,b", "001"], SHAPE) == 2
    assert path.read_text().splitlines()[:2] == ["filename,image_utf", f"001,{encode_alpha(np.zeros(SHAPE))}"]


@pytest.mark.parametrize("rows, words", [
    (["1", "1"], "1 is there twice"),
    (["1", "3"], "3 is not a test image"),
    (["1"], "1 of 2 test images are missing"),
])
def test_wrong_names_are_refused(tmp_path, rows, words):
    path = write_text(tmp_path / "s.csv", [(name, encode_alpha(np.zeros(SHAPE))) for name in rows])
    with pytest.raises(UserError, match=words):
        validate(path, ["1", "2"], SHAPE)


def test_wrong_size_header_and_columns_are_refused(tmp_path):
    path = write(tmp_path / "s.csv", {"1": np.zeros((5, 5))})
    with pytest.raises(UserError, match="is 5×5 instead of 8×6"):
        validate(path, ["1"], {"1": SHAPE})
    (tmp_path / "h.csv").write_text("id,alpha\n")
    with pytest.raises(UserError, match="first line must be filename,image_utf"):
        validate(tmp_path / "h.csv", ["1"], SHAPE)
    path = write_text(tmp_path / "c.csv", [("1", "a", "b")])
    with pytest.raises(UserError, match="3 columns"):
        validate(path, ["1"], SHAPE)


def test_nothing_is_left_of_a_failed_write(tmp_path):
    with pytest.raises(UserError, match="two test images are named 1"), SubmissionWriter(tmp_path / "s.csv") as writer:
        writer.write("1", np.zeros(SHAPE))
        writer.write("1", np.zeros(SHAPE))
    assert list(tmp_path.iterdir()) == []


def test_score_is_the_mse_whatever_the_order(tmp_path):
    rng = np.random.default_rng(0)
    trues = {str(i): rng.integers(0, 256, SHAPE) / 255 for i in range(5)}
    preds = {name: rng.integers(0, 256, SHAPE) / 255 for name in reversed(trues)}
    solution, path = write(tmp_path / "t.csv", trues), write(tmp_path / "p.csv", preds)
    expected = np.mean([np.mean((preds[name] - trues[name]) ** 2) for name in trues])
    assert score(path, solution) == pytest.approx(expected, rel=1e-6)
    assert score(solution, solution) == 0
    everything = np.stack(list(trues.values()))
    assert baselines(solution) == pytest.approx({"zero": np.mean(everything**2), "constant": everything.var()})


def test_score_refuses_sets_that_do_not_match(tmp_path):
    solution = write(tmp_path / "t.csv", {"1": np.zeros(SHAPE), "2": np.zeros(SHAPE)})
    with pytest.raises(UserError, match="has no row 2"):
        score(write(tmp_path / "p.csv", {"1": np.zeros(SHAPE)}), solution)
    with pytest.raises(UserError, match="is 5×5"):
        score(write(tmp_path / "q.csv", {"1": np.zeros(SHAPE), "2": np.zeros((5, 5))}), solution)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_any_bytes_as_submission_are_refused_in_one_line(tmp_path, data):
    (tmp_path / "s.csv").write_bytes(data)
    with pytest.raises(UserError) as error:
        validate(tmp_path / "s.csv", ["1"], SHAPE)
    assert "\n" not in str(error.value)


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    noise = np.random.default_rng(0).random((256, 256))

    def peak(count: int) -> int:
        tracemalloc.start()
        path = write(tmp_path / f"{count}.csv", {str(i): noise for i in range(count)})
        validate(path, [str(i) for i in range(count)], (256, 256))
        score(path, path)
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    few, many = peak(4), peak(40)
    assert (tmp_path / "40.csv").stat().st_size > 2_000_000
    assert many < few * 1.2 + 100_000


@pytest.mark.parametrize("header, row", [
    ("filename,image_utf,Usage", "{name},{text},Public"), ("id,image_utf,Usage", "{name},{text},Private"),
    ("Usage;image_utf;filename", "Private;{text};{name}"), ("Id\timage_utf", "{name}.png\t{text}"),
    ("filename,image_utf", "test/{name}.jpg,{text}")])
def test_a_solution_may_be_written_as_hosts_do(tmp_path, header, row):
    alphas = {"001": np.full(SHAPE, 0.2), "2.b": np.ones(SHAPE)}
    path = write(tmp_path / "p.csv", {name: np.zeros(SHAPE) for name in alphas})
    lines = [header, *(row.format(name=name, text=encode_alpha(alpha)) for name, alpha in alphas.items())]
    (tmp_path / "t.csv").write_bytes(("\ufeff" + "\r\n".join(lines) + "\r\n\r\n  \r\n").encode())
    assert score(path, tmp_path / "t.csv") == pytest.approx((0.2**2 + 1) / 2)
    assert baselines(tmp_path / "t.csv")["zero"] == pytest.approx((0.2**2 + 1) / 2)


def test_a_solution_without_alphas_is_named(tmp_path):
    path = write(tmp_path / "p.csv", {"1": np.zeros(SHAPE)})
    (tmp_path / "t.csv").write_text("id,Usage\n1,Public\n")
    with pytest.raises(UserError, match=r"t\.csv.*has no image_utf"):
        score(path, tmp_path / "t.csv")


def test_what_is_submitted_stays_strict_but_for_blank_lines(tmp_path):
    path = write(tmp_path / "p.csv", {"1": np.zeros(SHAPE)})
    whole = path.read_text()
    path.write_bytes(b"\xef\xbb\xbf" + (whole.replace("\n", "\r\n") + "\r\n\r\n").encode())
    assert validate(path, ["1"], SHAPE) == validate(path, ["1"], None) == 1
    path.write_text(whole.replace(",", ";"))
    with pytest.raises(UserError, match="first line must be filename,image_utf"):
        validate(path, ["1"], SHAPE)


@pytest.mark.parametrize("listed, order", [
    ("b a", "b.png a.jpg"), ("b.png a.png", "b.png a.jpg"), ("test/b.png test/a.jpg", "b.png a.jpg"),
    ("test\\b.png test\\a.jpg", "b.png a.jpg")])
def test_the_sample_submission_orders_the_images(tmp_path, listed, order, capsys):
    for name in ("a.jpg", "b.png"):
        Image.new("L", (8, 8)).save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes(b"")
    sample = tmp_path / "sample.csv"
    sample.write_text("filename,image_utf\n" + "".join(f"{name},\n" for name in listed.split()))
    paths = sorted(tmp_path.glob("*.[jp]*"))
    assert [path.name for path in in_sample_order(paths, sample)] == order.split()
    assert ("without extension" in capsys.readouterr().out) == ("." in listed)


@pytest.mark.parametrize("listed, words", [
    ("a a b", "a is listed twice"), ("a c d e f", "c, d, e and 1 more: listed, but no image; b: not listed"),
    ("a.png a.jpg b.png", "a.jpg, a.png, b.png: listed, but no image"), ("", "a, b: not listed")])
def test_a_sample_submission_of_other_images_is_told_by_their_names(tmp_path, listed, words):
    for name in ("a.png", "b.png"):
        Image.new("L", (8, 8)).save(tmp_path / name)
    (tmp_path / "s.csv").write_text("filename,image_utf\n" + "".join(f"{name},\n" for name in listed.split()))
    with pytest.raises(UserError, match="names differ from those in") as error:
        in_sample_order([tmp_path / "a.png", tmp_path / "b.png"], tmp_path / "s.csv")
    assert f"({words}" in str(error.value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_any_bytes_as_sample_are_read_or_refused_in_one_line(tmp_path, data):
    (tmp_path / "s.csv").write_bytes(data)
    try:
        list(read_hosted(tmp_path / "s.csv"))
    except UserError as error:
        assert "\n" not in str(error)
