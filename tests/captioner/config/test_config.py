"""Settings come from defaults, TOML and --set; unknown names and wrong types are refused."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from captioner.config import (
    FEW,
    Config,
    DataConfig,
    TrainConfig,
    config_from_dict,
    load_config,
    load_second_config,
    merged,
    parse_settings,
    read_toml,
)
from captioner.errors import CaptionerError


def toml(directory: Path, text: str) -> Path:
    path = directory / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return path


def load(file: Path, *assignments: str, base: Config | None = None) -> Config:
    """Reads settings as `captioner train --config FILE --set ...` does."""
    return load_config(merged(read_toml(file), parse_settings(assignments)), base=base, source=str(file))


def test_without_settings_the_defaults_apply():
    assert load_config() == Config()


def test_a_toml_file_changes_only_the_settings_that_it_names(tmp_path):
    file = toml(tmp_path, '[data]\nfit = "crop"\n[train]\nlr = 2e-4\nepochs = 3\n[search]\nbeam_size = 5\n')
    default = Config()
    assert load(file) == Config(
        data=replace(default.data, fit="crop"),
        train=replace(default.train, lr=2e-4, epochs=3),
        search=replace(default.search, beam_size=5),
    )


@pytest.mark.parametrize(
    ("setting", "section", "key", "value"),
    [
        ("train.epochs=3", "train", "epochs", 3),
        ("train.lr=1e-4", "train", "lr", 1e-4),
        ("train.lr=1", "train", "lr", 1.0),
        (" train.lr = 0.5 ", "train", "lr", 0.5),
        ("train.seed=0x10", "train", "seed", 16),
        ("data.fit=crop", "data", "fit", "crop"),
        ('data.fit="crop"', "data", "fit", "crop"),
        ("model.encoder=timm/convnext_atto", "model", "encoder", "timm/convnext_atto"),
        ("model.encoder_weights=/a=b/ç d.pth", "model", "encoder_weights", "/a=b/ç d.pth"),
        ("search.length_penalty=0", "search", "length_penalty", 0.0),
        ("search.temperature=1", "search", "temperature", 1.0),
        ("search.suppress=['dog', 'a']", "search", "suppress", ("dog", "a")),
    ],
)
def test_set_takes_numbers_and_text_with_or_without_quotes(setting, section, key, value):
    read = getattr(getattr(load_config(parse_settings([setting])), section), key)
    assert read == value
    assert type(read) is type(value)


def test_set_overrides_the_file_and_a_later_set_an_earlier_one(tmp_path):
    file = toml(tmp_path, "[train]\nepochs = 3\nbatch_size = 7\n")
    train = load(file, "train.epochs=4", "train.epochs=5", "data.min_count=1").train
    assert (train.epochs, train.batch_size, train.lr) == (5, 7, TrainConfig().lr)


def test_the_file_overrides_the_base_and_the_base_the_defaults(tmp_path):
    base = Config(data=DataConfig(min_count=2), train=TrainConfig(epochs=30, batch_size=9, lr=0.5))
    train = load(toml(tmp_path, "[train]\nepochs = 3\n"), "train.lr=0.25", base=base).train
    assert train == replace(base.train, epochs=3, lr=0.25)
    assert load_config(base=base) == base


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("train.epoch=3", "'train.epoch'"),
        ("training.epochs=3", "'training'"),
        ("train.lr.x=3", "'train.lr.x'"),
        ("search.beam=3", "'search.beam'"),
    ],
)
def test_an_unknown_key_is_refused_by_name_with_the_known_keys(setting, named):
    with pytest.raises(
        CaptionerError, match=rf"^In the configuration \(the options given\): unknown key {named}; the known keys are "
    ):
        load_config(parse_settings([setting]))


def test_an_unknown_key_in_a_file_is_refused_with_the_files_name(tmp_path):
    with pytest.raises(
        CaptionerError, match=r"settings\.toml\): unknown key 'model\.unit'; the known keys are encoder,"
    ):
        load(toml(tmp_path, "[model]\nunit = 3\n"))


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("train.epochs=3.5", r"train\.epochs is 3\.5; it must be a whole number"),
        ("train.epochs=many", r"train\.epochs is 'many'; it must be a whole number"),
        ("train.epochs=true", r"train\.epochs is True; it must be a whole number"),
        ("train.epochs=", r"train\.epochs is ''; it must be a whole number"),
        ("train.lr=false", r"train\.lr is False; it must be a finite number"),
        ("train.lr=inf", r"train\.lr is inf; it must be a finite number"),
        ("train.lr=nan", r"train\.lr is nan; it must be a finite number"),
        ("model.encoder=18", r"model\.encoder is 18; it must be text"),
        ("data.fit=stretch", r"data\.fit is 'stretch'; it must be one of squash, crop"),
        ("train.precision=fp8", r"train\.precision is 'fp8'; it must be one of fp32, bf16, fp16"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_with_what_it_must_be(setting, why):
    with pytest.raises(CaptionerError, match=rf"^In the configuration \(the options given\): {why}\.$"):
        load_config(parse_settings([setting]))


@pytest.mark.parametrize(
    "setting",
    [
        "data.image_size=0",
        "data.min_count=0",
        "data.max_length=0",
        "model.units=0",
        "model.layers=0",
        "model.projection=-1",
        "model.dropout=1.5",
        "train.epochs=0",
        "train.batch_size=0",
        "train.lr=0",
        "train.lr=-1",
        "train.warm_up=1.1",
        "train.seed=-1",
        "train.weight_decay=-1",
        "train.clip_norm=-1",
        "train.label_smoothing=2",
        "train.attention_penalty=-0.1",
        "train.average=1.01",
        "search.beam_size=0",
    ],
)
def test_a_value_out_of_range_is_refused_with_the_range(setting):
    name, _, value = setting.partition(".")[2].partition("=")
    allowed = r"(be between|be a whole number from) .*\.$"
    with pytest.raises(CaptionerError, match=rf"`?{name}`? is {value}(\.0)?; it must {allowed}"):
        load_config(parse_settings([setting]))


@pytest.mark.parametrize("setting", ["train.epochs", "epochs=3", "=3", ".epochs=3", "train.=3", ""])
def test_a_malformed_setting_is_refused_with_an_example(setting):
    with pytest.raises(CaptionerError, match=r"is not of the form section\.key=value, such as train\.lr=0\.001\.$"):
        load_config(parse_settings([setting]))


def test_a_section_that_is_not_a_table_is_refused(tmp_path):
    with pytest.raises(CaptionerError, match="train must be a table of keys and values"):
        load(toml(tmp_path, "train = 3\n"))
    with pytest.raises(CaptionerError, match="train must be a table of keys and values"):
        load(toml(tmp_path, "train = 3\n"), "train.lr=1")


def test_a_file_that_is_unreadable_or_not_toml_is_refused_by_name(tmp_path):
    with pytest.raises(CaptionerError, match=r"^The configuration .*nowhere\.toml cannot be read: No such file"):
        load(tmp_path / "nowhere.toml")
    with pytest.raises(CaptionerError, match=r"^The configuration .* cannot be read: Is a directory"):
        load(tmp_path)
    for content in (b"train: {lr: 3}", b"[train\n", b"\xff\xfe[train]"):
        (tmp_path / "bad.toml").write_bytes(content)
        with pytest.raises(CaptionerError, match=r"^The configuration .*bad\.toml is not TOML: "):
            load(tmp_path / "bad.toml")


def test_a_configuration_is_restored_from_its_dictionary():
    config = load_config(parse_settings(["train.lr=0.5", "model.layers=2", "search.beam_size=1"]))
    assert config_from_dict(asdict(config), "a test") == config


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            ["model.decoder=rnetvi", "model.projection=512"],
            r"model\.projection \(512\) and model\.embedding \(256\) must be equal; leave out model\.projection\.",
        ),
        (
            ["model.project=none", "model.decoder=rnetvi"],
            r"project=none needs a layer for the LSTM's initial state; set initial_state=learned\.",
        ),
        (
            ["model.initial_state=weighted", "model.decoder=rnetvhc"],
            r"initial_state=weighted needs regions; the decoder rnetvhc takes one vector\.",
        ),
        (
            ["model.attention_layers=2", "model.decoder=hard-attention"],
            r"attention_layers=2 needs decoder=soft-attention, not hard-attention\.",
        ),
        (
            ["model.output=linear"],
            r"With output=linear, .* embedding \(256\) and units \(512\) must be equal; or set tie_words=false\.",
        ),
        (
            ["model.decoder=rnetvh", "model.initial_state=projection", "model.projection=300"],
            r"projection \(300\) and units \(512\) must be equal\.",
        ),
        (["data.splits=[80, 0, 20]"], "The splits 80 0 20 are invalid: train and dev must be above 0"),
        (["data.splits=[80, 30, -10]"], "test 0 or more"),
        (["train.batch_size=2", "train.accumulate=3"], r"accumulate is 3; it must not exceed batch_size \(2\)"),
    ],
)
def test_incompatible_settings_are_refused(settings, sentence):
    with pytest.raises(CaptionerError, match=sentence):
        load_config(parse_settings(settings))


def test_carnets_name_for_soft_attention_is_the_same_decoder():
    config = load_config(parse_settings(["model.decoder=rnetvhcattention"]))
    assert config == load_config(parse_settings(["model.decoder=soft-attention"]))
    assert config.model.attends


@pytest.mark.parametrize(
    ("settings", "projection"),
    [
        ([], 512),
        (["model.decoder=rnetvi"], 256),
        (["model.decoder=rnetvi", "model.embedding=300"], 300),
        (["model.decoder=rnetvi", "model.embedding=64", "model.projection=64"], 64),
        (["model.decoder=rnetvh", "model.embedding=300"], 512),
    ],
)
def test_the_default_projection_fits_the_decoder(settings, projection):
    assert load_config(parse_settings(settings)).model.projection == projection


def test_a_chosen_tokenizer_replaces_only_the_automatic_choice():
    assert Config().with_tokenizer("bpe") == load_config({"data": {"tokenizer": "bpe"}})
    given = load_config({"data": {"tokenizer": "word"}})
    assert given.with_tokenizer("bpe") == given


def test_few_photos_have_their_own_defaults_unless_settings_are_given():
    first = load_config(parse_settings(["model.fine_tune=5", "data.views=5"]))
    config = load_second_config({}, first, few=True)
    assert all(getattr(getattr(config, part), name) == FEW[part][name] for part in FEW for name in FEW[part])
    told = load_second_config(parse_settings(["data.views=3", "model.fine_tune=4"]), first, few=True)
    assert (told.model.fine_tune, told.data.views, told.train.epochs) == (4, 3, FEW["train"]["epochs"])
