import re
from pathlib import Path
from typing import get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import call, one_error_line
from core.config import (
    DEFAULTS,
    Config,
    as_overrides,
    dump_config,
    flat,
    in_epoch,
    load_config,
    predict_size,
    select_metric,
)
from core.errors import UserError
from core.values import kind_of, known_keys
from submit import main as submit_main
from train import main as train_main


def fault(*overrides) -> str:
    with pytest.raises(UserError) as error:
        load_config(DEFAULTS, overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_key_has_a_line_and_a_comment_in_config_yaml():
    lines = DEFAULTS.read_text(encoding="utf-8").splitlines()
    for key in known_keys(Config):
        name = key.rsplit(".", 1)[-1]
        assert any(re.match(rf" *{name}:(?= |$)(.*#|$)", line) for line in lines), key


def test_overrides_parse_yaml_and_lists():
    cfg = load_config(DEFAULTS, ["train.epochs=3", "augment.scale=[0.7,1]", "train.lr=1e-3", "data.size=null"])
    assert (cfg.train.epochs, cfg.augment.scale, cfg.train.lr, cfg.data.size) == (3, (0.7, 1.0), 1e-3, None)


TYPED = ["outputs/run #2", "#3", "007", "12:30", "2024-05-01", "yes", "1e3", "[x]", "a: b", "*x", "x: &y", '"quoted"',
         "😀", " blank ", "a=b", "-1", "Null", "~x/../..", "!!int 3"]


@pytest.mark.parametrize("text", TYPED)
def test_texts_and_paths_are_taken_literally_and_survive_saving_and_overriding(tmp_path, text):
    cfg = load_config(DEFAULTS, [f"kaggle.message={text}", f"infer.png_dir=./{text}"])
    assert cfg.kaggle.message == text
    assert cfg.infer.png_dir == (Path.cwd() / text if text[0] == "~" else Path(text))
    (tmp_path / "saved.yaml").write_text(dump_config(cfg), encoding="utf-8")
    assert load_config(tmp_path / "saved.yaml") == cfg
    assert load_config(DEFAULTS, as_overrides(flat(cfg.model_dump(mode="json")))) == cfg


def test_a_path_need_not_be_valid_text(tmp_path):
    cfg = load_config(DEFAULTS, ["train.out_dir=latin\udce9"])
    (tmp_path / "saved.yaml").write_text(dump_config(cfg), encoding="utf-8")
    assert load_config(tmp_path / "saved.yaml") == cfg and cfg.train.out_dir == Path("latin\udce9")


def test_null_and_an_empty_value_mean_none_if_a_setting_may_be_null():
    for text in ("null", ""):
        cfg = load_config(DEFAULTS, [f"kaggle.message={text}", f"infer.images={text}", f"model.weights={text}"])
        assert (cfg.kaggle.message, cfg.infer.images, cfg.model.weights) == (None, cfg.data.test_dir, None)
        assert "should be a path" in fault(f"train.out_dir={text}")


def test_numbers_and_dates_in_a_file_stay_text_if_the_setting_is_text(tmp_path):
    (tmp_path / "c.yaml").write_text("train:\n  out_dir: 2024-05-01\n  epochs: 0x10\n"
                                     "infer: {png_dir: 007, images: null}\n"
                                     "kaggle:\n  message: yes  # a remark\n  competition: 007\n")
    cfg = load_config(tmp_path / "c.yaml")
    assert (cfg.train.out_dir, cfg.train.epochs, cfg.infer.png_dir) == (Path("2024-05-01"), 16, Path("007"))
    assert (cfg.kaggle.message, cfg.kaggle.competition, cfg.infer.images) == ("yes", "007", cfg.data.test_dir)
    assert load_config(DEFAULTS, ["train={out_dir: 12:30, epochs: 3}"]).train.out_dir == Path("12:30")


def test_every_path_setting_expands_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = [key for key in known_keys(Config) if kind_of(key) is Path or Path in map(_plain, get_args(kind_of(key)))]
    assert len(paths) >= 15
    for key in paths:
        section, name = key.split(".")
        assert getattr(getattr(load_config(DEFAULTS, [f"{key}=~/x y"]), section), name) == tmp_path / "x y", key
    (tmp_path / "c.yaml").write_text("data: {root: ~/pairs}")
    assert load_config(tmp_path / "c.yaml").data.train_csv == tmp_path / "pairs/splits/train.csv"
    assert "no such user" in fault("train.out_dir=~nobody-of-this-name/x")


def _plain(kind):
    return get_args(kind)[0] if get_args(kind) else kind


@pytest.mark.parametrize("text", ["competition, magick", " Competition,MAGICK ,", "competition magick",
                                  ",competition,,magick"])
def test_sources_may_be_typed_in_several_ways(text):
    assert load_config(DEFAULTS, [f"data.source={text}"]).data.source == "competition,magick"


@pytest.mark.parametrize("text, words", [
    ("magick, coco", "unknown source 'coco'; choose from competition, magick, rgba, csv, synthetic"),
    ("csv,CSV", "named twice"), (" , ", "names no source; choose from")])
def test_wrong_sources_are_refused_with_the_known_ones(text, words):
    assert words in fault(f"data.source={text}")


def test_in_another_folder_the_repositorys_config_is_used_and_announced(tmp_path):
    arguments = [submit_main, "score", "data.solution_csv=no.csv"]
    result = call(*arguments, cwd=tmp_path)
    assert f"config  {DEFAULTS}" in result.stdout and "no.csv: no such CSV" in one_error_line(result, 2)
    assert "c.yaml: no such config file" in one_error_line(call(*arguments, "--config", "c.yaml", cwd=tmp_path), 2)
    (tmp_path / "config.yaml").write_text("data: {solution_csv: mine.csv}")
    result = call(*arguments[:2], cwd=tmp_path)
    assert not result.stdout and "mine.csv" in one_error_line(result, 2)


@pytest.mark.parametrize("override, words", [
    ("train.epoch=3", "did you mean train.epochs"),
    ("trian.epochs=3", "did you mean train.epochs"),
    ("train.out_dri=a: #b", "did you mean train.out_dir"),
    ("train.epochs=0", "train.epochs=0: should be greater than or equal to 1"),
    ("train.epochs=many", "train.epochs=many: should be a valid integer"),
    ("train.lr=true", "train.lr=True"),
    ("train.lr=.nan", "finite"),
    ("train.amp=fp8", "'auto', 'bf16', 'fp16' or 'fp32'"),
    ("augment.scale=0.5", "augment.scale=0.5: should be a list [low, high]"),
    ("augment.scale=[1,0.5]", "lower bound comes first"),
    ("augment.scale=[0.5,9]", "less than or equal to 4"),
    ("model=u2net", "model=u2net: should be a mapping"),
    ("train.__class__=1", "unknown config key train.__class__"),
    ("train.epochs", "key=value"),
    ("train.epochs=[", "not valid YAML"),
])
def test_a_wrong_override_names_key_value_and_what_is_allowed(override, words):
    assert words in fault(override)


@settings(deadline=None)
@given(st.sampled_from(known_keys(Config)),
       st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
                 st.lists(st.integers(), max_size=3), st.dictionaries(st.text(max_size=5), st.integers(), max_size=2)))
def test_any_value_for_any_key_is_accepted_or_refused_in_one_line(key, value):
    try:
        cfg = load_config(DEFAULTS, [f"{key}={yaml.safe_dump(value)}"])
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(cfg, Config)


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_as_config_file_is_accepted_or_refused_in_one_line(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("config") / "c.yaml"
    path.write_text(text, encoding="utf-8")
    try:
        load_config(path)
    except UserError as error:
        assert "\n" not in str(error)


def test_a_partial_file_takes_the_rest_from_config_yaml(tmp_path):
    (tmp_path / "mine.yaml").write_text("train: {epochs: 5}")
    cfg = load_config(tmp_path / "mine.yaml")
    assert cfg.train.epochs == 5
    assert cfg.train.batch_size == load_config(DEFAULTS).train.batch_size


def test_a_config_file_cannot_run_code(tmp_path):
    (tmp_path / "evil.yaml").write_text(f"seed: !!python/object/apply:os.system ['touch {tmp_path}/ran']")
    with pytest.raises(UserError, match="not valid YAML"):
        load_config(tmp_path / "evil.yaml")
    assert not (tmp_path / "ran").exists()


def test_defaults_follow_from_one_another():
    cfg = load_config(DEFAULTS, ["data.root=/d", "train.out_dir=/run", "model.variant=u2net", "data.size=512"])
    assert str(cfg.infer.images) == str(cfg.data.test_dir) == "/d/test_dataset/orig_1024"
    assert (str(cfg.infer.weights), str(cfg.infer.submission)) == ("/run/best.pth", "/run/submission.csv")
    assert str(cfg.model.weights) == "weights/u2net.pth"
    assert predict_size(cfg) == 512
    assert load_config(DEFAULTS, ["model.weights=null"]).model.weights is None


def test_the_selection_metric_follows_the_training_target():
    assert select_metric(load_config(DEFAULTS)) == "val_mse_dense"
    assert select_metric(load_config(DEFAULTS, ["augment.xray_p=0"])) == "val_mse"


def test_a_network_from_scratch_has_another_recipe():
    tuned, new = load_config(DEFAULTS).train, load_config(DEFAULTS, ["model.weights=null"]).train
    assert (tuned.lr, tuned.warmup, tuned.schedule) == (5e-5, 0, "plateau")
    assert (new.lr, new.warmup, new.schedule) == (1e-3, 0.05, "cosine")
    assert load_config(DEFAULTS, ["model.weights=null", "train.lr=1e-4"]).train.lr == 1e-4


def test_the_final_phase_has_its_own_crop_and_loss():
    cfg = load_config(DEFAULTS, ["train.epochs=5", "train.final_epochs=2", "train.final_loss=mse",
                                 "augment.final_crop=768"])
    assert [in_epoch(cfg, epoch).augment.crop for epoch in range(5)] == [320, 320, 320, 768, 768]
    assert in_epoch(cfg, 2).loss == cfg.loss
    assert in_epoch(cfg, 3).loss.base == 1 and in_epoch(cfg, 3).loss.sides == in_epoch(cfg, 3).loss.edge == 0


def test_the_saved_config_reads_back_the_same(tmp_path):
    cfg = load_config(DEFAULTS, ["train.epochs=7"])
    (tmp_path / "saved.yaml").write_text(dump_config(cfg))
    assert load_config(tmp_path / "saved.yaml") == cfg


@pytest.mark.parametrize("argument, words", [
    ("train.epoch=3", "did you mean train.epochs"), ("--no-such", "--no-such"), ("--config=no.yaml", "no.yaml")])
def test_the_command_line_ends_with_2_and_one_line(argument, words):
    code, _, err = call(train_main, argument)
    assert code == 2 and words in err.splitlines()[-1] and err.count("error:") == 1


@pytest.mark.parametrize("setting, value", [
    ("kaggle.competition=https://www.kaggle.com/competitions/dense-matting/overview?x=1", "dense-matting"),
    ("kaggle.competition=www.kaggle.com/c/dense-matting/", "dense-matting"),
    ("kaggle.competition=https://kaggle.com/competitions/dense-matting", "dense-matting"),
    ("kaggle.competition=dense-matting", "dense-matting"),
    ("kaggle.kernel=https://www.kaggle.com/code/Me/dense-matting/edit", "Me/dense-matting"),
    ("kaggle.kernel=https://www.kaggle.com/Me/dense-matting?scriptVersionId=7", "Me/dense-matting"),
    ("kaggle.dataset=https://www.kaggle.com/datasets/me/my-weights", "my-weights"),
    ("kernel.owner=https://www.kaggle.com/Me", "Me")])
def test_the_url_of_a_kaggle_page_is_reduced_to_the_name_in_it(setting, value):
    section, key = setting.partition("=")[0].split(".")
    assert getattr(getattr(load_config(DEFAULTS, [setting]), section), key) == value


@pytest.mark.parametrize("text", ["https://www.kaggle.com/competitions", "https://example.org/c/dense-matting"])
def test_the_url_of_another_page_is_refused(text):
    with pytest.raises(UserError, match=r"kaggle\.competition="):
        load_config(DEFAULTS, [f"kaggle.competition={text}"])


def test_a_final_phase_on_mse_switches_every_other_term_off():
    cfg = load_config(DEFAULTS, ["train.epochs=2", "train.final_epochs=1", "train.final_loss=mse"])
    assert {name for name, weight in in_epoch(cfg, 1).loss.model_dump().items() if weight} == {"base"}
    assert in_epoch(cfg, 0).loss == cfg.loss
