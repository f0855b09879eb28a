"""BoLIDAdapterLoader and BoLIDAdapterApply: folders, and every mistake has one message and costs nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import folder_paths
import pytest
import torch

from bolid.models.references import Embeds
from bolid.nodes.adapters import BoLIDAdapterApply, BoLIDAdapterLoader, _family
from bolid.nodes.model_folders import adapter_names, register_model_folders

from ..support.adapter_files import write_bin, write_safetensors, write_truncated
from ..support.scenes import (
    ENCODER_WIDTH,
    applied,
    body,
    bolid_adapter,
    cared_for,
    features,
    loaded_adapter,
    model_of,
    sampled,
    state_dict_of,
)

# Folders


@pytest.fixture
def models_dir(tmp_path, monkeypatch) -> Path:
    """An empty models folder, in which only this pack has registered anything."""
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", {})
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    register_model_folders()
    return tmp_path


def put(folder: Path, name: str, layout: str = "base") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = write_bin if path.suffix == ".bin" else write_safetensors
    return writer(path, state_dict_of(layout, "sd15"))


def options() -> list[str]:
    return BoLIDAdapterLoader.define_schema().inputs[0].options


@pytest.mark.parametrize("exist", [False, True])
def test_empty_folders_are_named(exist, models_dir):
    if exist:
        (models_dir / "bolid").mkdir()
        (models_dir / "ipadapter").mkdir()
    assert options() == []
    message = BoLIDAdapterLoader.validate_inputs("ip-adapter_sd15.safetensors")
    assert str(models_dir / "bolid") in message and str(models_dir / "ipadapter") in message
    assert "'ip-adapter_sd15.safetensors'" in message and "hold no adapter yet" in message
    assert "not found" in BoLIDAdapterLoader.validate_inputs("")
    with pytest.raises(FileNotFoundError) as caught:
        BoLIDAdapterLoader.execute("ip-adapter_sd15.safetensors")
    assert str(caught.value) == message


def test_files_of_both_folders_are_offered(models_dir):
    put(models_dir / "ipadapter", "ip-adapter_sd15.bin")
    put(models_dir / "ipadapter", "sub/plus.safetensors", "plus")
    put(models_dir / "bolid", "mine.safetensors", "faceid")
    (models_dir / "bolid" / "readme.md").write_text("not a model")
    assert sorted(options()) == ["ip-adapter_sd15.bin", "mine.safetensors", "sub/plus.safetensors"]
    kinds = {"ip-adapter_sd15.bin": "base", "sub/plus.safetensors": "plus", "mine.safetensors": "faceid"}
    for name, kind in kinds.items():
        assert BoLIDAdapterLoader.validate_inputs(name) is True
        (adapter,) = BoLIDAdapterLoader.execute(name).result
        assert adapter.adapter.layout.kind == kind
        assert adapter.name == Path(name).name
        assert isinstance(adapter.patcher, comfy.model_patcher.ModelPatcher)
    message = BoLIDAdapterLoader.validate_inputs("missing.safetensors")
    assert "Available are: " in message and "ip-adapter_sd15.bin" in message


def test_a_name_in_both_folders_is_offered_once_and_bolid_comes_first(models_dir):
    put(models_dir / "ipadapter", "same.safetensors", "base")
    put(models_dir / "bolid", "same.safetensors", "plus")
    assert options() == ["same.safetensors"]
    (adapter,) = BoLIDAdapterLoader.execute("same.safetensors").result
    assert adapter.adapter.layout.kind == "plus"


def test_a_name_that_leads_out_of_the_folders(models_dir):
    put(models_dir, "outside.safetensors")
    (models_dir / "bolid").mkdir()
    for name in ("../outside.safetensors", str(models_dir / "outside.safetensors")):
        assert "was not found" in BoLIDAdapterLoader.validate_inputs(name)


def test_a_linked_name_is_judged_when_it_is_known(models_dir):
    assert BoLIDAdapterLoader.validate_inputs(None) is True


@pytest.mark.parametrize("extensions", [{".bin"}, [".bin"], set()])
def test_folders_that_another_pack_registered_are_kept(extensions, tmp_path, monkeypatch):
    theirs = tmp_path / "elsewhere"
    put(theirs, "theirs.bin")
    put(tmp_path / "ipadapter", "ours.safetensors")
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", {"ipadapter": ([str(theirs)], extensions)})
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    for _ in range(2):  # twice does no harm
        register_model_folders()
    assert folder_paths.get_folder_paths("ipadapter") == [str(theirs), str(tmp_path / "ipadapter")]
    assert folder_paths.get_folder_paths("bolid") == [str(tmp_path / "bolid")]
    assert sorted(adapter_names()) == ["ours.safetensors", "theirs.bin"]
    assert ".safetensors" in folder_paths.folder_names_and_paths["ipadapter"][1]
    assert set(extensions) <= set(folder_paths.folder_names_and_paths["ipadapter"][1])
    (adapter,) = BoLIDAdapterLoader.execute("theirs.bin").result
    assert adapter.adapter.layout.kind == "base"


def test_registering_does_not_change_the_hosts_own_extensions(models_dir):
    before = set(folder_paths.supported_pt_extensions)
    folder_paths.folder_names_and_paths["ipadapter"] = ([], folder_paths.supported_pt_extensions)
    register_model_folders()
    folder_paths.folder_names_and_paths["ipadapter"][1].add(".odd")
    assert folder_paths.supported_pt_extensions == before


def test_a_damaged_file_is_named(models_dir):
    (models_dir / "bolid").mkdir()
    write_truncated(models_dir / "bolid" / "half.safetensors", state_dict_of("base", "sd15"))
    assert BoLIDAdapterLoader.validate_inputs("half.safetensors") is True
    with pytest.raises(ValueError, match="^half.safetensors is not a readable safetensors file.*incomplete download"):
        BoLIDAdapterLoader.execute("half.safetensors")


def test_the_version_of_faceid_plus(models_dir):
    put(models_dir / "bolid", "face.safetensors", "faceid_plus")
    shortcuts = [
        BoLIDAdapterLoader.execute("face.safetensors", *version).result[0].adapter.image_proj.shortcut
        for version in ((), ("v2",), ("v1",))
    ]
    assert shortcuts == [True, True, False]


# Mistakes in applying


@pytest.fixture(scope="module")
def plain() -> dict[str, torch.Tensor]:
    return {family: sampled(model_of(family), family) for family in ("sd15", "sdxl")}


def assert_untouched(family: str, expected: torch.Tensor) -> None:
    model = model_of(family)
    assert torch.equal(sampled(model, family), expected)
    assert model.wrappers == {} and model.patches == {} and model.callbacks == {} and model.attachments == {}
    assert model.model_options == {"transformer_options": {}}


@pytest.fixture
def loses_nothing(plain):
    """After the mistake the upstream MODEL samples as before, bit for bit, and nothing is left on it."""
    yield
    assert_untouched("sd15", plain["sd15"])


def mistake(layout: str = "base", family: str = "sd15", model: str = "sd15", embeds=None, **arguments) -> str:
    adapter = loaded_adapter(layout, family)
    with pytest.raises(ValueError) as caught:
        applied(model_of(model), adapter, embeds, **arguments)
    assert 30 < len(str(caught.value)) < 500
    return str(caught.value)


@pytest.mark.usefixtures("loses_nothing")
class TestMistakes:
    def test_nothing_connected(self):
        with pytest.raises(ValueError, match="connect the embeds of PoolingAggregator or SelfAttnAggregator to 'face'"):
            BoLIDAdapterApply.execute(model_of("sd15"), loaded_adapter("base"), 1.0, 0.0, 1.0)

    @pytest.mark.parametrize("name", ["face_weight", "start_percent", "end_percent", "lora_strength"])
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    def test_numbers_that_are_not_finite(self, name, value):
        assert f"{name} must be a finite number, got {value}" in mistake(**{name: value})

    def test_start_after_end(self):
        message = mistake(start_percent=0.8, end_percent=0.2)
        assert "start_percent (0.8) is after end_percent (0.2)" in message

    @pytest.mark.parametrize(("family", "model"), [("sdxl", "sd15"), ("sd15", "sdxl")])
    @pytest.mark.parametrize("layout", ["base", "faceid"])
    def test_an_adapter_for_another_model(self, layout, family, model, plain):
        layers = {"sd15": 16, "sdxl": 70}
        message = mistake(layout, family, model)
        assert message.startswith(f"{layout}.safetensors was made for ")
        first, second = message.split("but the connected model is")
        assert f"{layers[family]} cross-attention layers" in first
        assert f"{layers[model]} cross-attention layers" in second and "BoLIDAdapterLoader" in second
        assert_untouched(model, plain[model])

    @pytest.mark.parametrize(
        ("layout", "name"), [("base", "image_embeds"), ("plus", "hidden_states"), ("full_face", "hidden_states")]
    )
    def test_the_wrong_image_encoder(self, layout, name):
        given = features()
        given[name] = torch.zeros(*given[name].shape[:-1], 1664 if name == "hidden_states" else 1280)
        message = mistake(layout, embeds=Embeds(**given))
        assert f"of width {ENCODER_WIDTH}" in message and "CLIP ViT-bigG/14" in message
        assert "Load CLIP Vision" in message

    @pytest.mark.parametrize("layout", ["base", "plus", "full_face", "faceid_plus"])
    def test_no_image_encoder(self, layout):
        message = mistake(layout, embeds=Embeds(face_embeds=features()["face_embeds"]))
        assert "made without an image encoder" in message and "clip_vision of MultiRefImageEncoder" in message

    @pytest.mark.parametrize("layout", ["faceid", "faceid_portrait", "faceid_plus"])
    def test_no_face_embeddings(self, layout):
        given = features() | {"face_embeds": None}
        message = mistake(layout, embeds=Embeds(**given))
        assert "BoLIDFaceAnalysisLoader" in message and "face_analysis of MultiRefImageEncoder" in message

    @pytest.mark.parametrize("layout", ["faceid", "faceid_plus"])
    def test_face_embeddings_of_another_width(self, layout):
        message = mistake(layout, embeds=Embeds(**features() | {"face_embeds": torch.ones(1, 128)}))
        assert "face embeddings of width 24" in message and "have 128" in message and "buffalo_l" in message

    def test_a_model_that_is_no_unet(self):
        class Transformer(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.diffusion_model = torch.nn.Linear(2, 2)

        device = comfy.model_management.get_torch_device()
        other = comfy.model_patcher.ModelPatcher(Transformer(), load_device=device, offload_device=device)
        with pytest.raises(ValueError, match="connected model is a Linear. Load an SD1.5 or SDXL checkpoint"):
            applied(other, loaded_adapter("base"))
        assert other.wrappers == {} and other.patches == {}

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"layer_weights": "3=1"}, "expected pairs of layer number and factor"),
            ({"layer_weights": "16:1"}, "names layer 16, but this model has layers 0 to 15"),
            ({"weight_type": "ease"}, "Unknown weight_type 'ease'"),
            ({"weight_schedule": "linear"}, "Unknown weight_schedule 'linear'; choose one of constant, ramp up,"),
            ({"body_weight_schedule": ""}, "Unknown body_weight_schedule ''; choose one of constant, ramp up,"),
        ],
    )
    def test_layer_weights_and_schedules(self, arguments, message):
        assert message in mistake(**arguments)

    def test_negative_photos_alone(self):
        adapter = cared_for(bolid_adapter())
        with pytest.raises(ValueError, match="^face_negative is connected, but 'face' is not.*disconnect"):
            applied(model_of("sd15"), adapter, face=None, body=body(), face_negative=Embeds(**features()))

    @pytest.mark.parametrize(
        ("layout", "missing", "message"),
        [
            ("plus", "image encoder", "face_negative: This adapter needs .*made without an image encoder"),
            ("faceid", "face", "face_negative: This adapter is a FaceID adapter and needs face embeddings"),
        ],
    )
    def test_negative_photos_that_the_adapter_cannot_read(self, layout, missing, message):
        given = features()
        faceless = Embeds(**given | {"face_embeds": None})
        negative = Embeds(face_embeds=given["face_embeds"]) if missing == "image encoder" else faceless
        with pytest.raises(ValueError, match=f"^{message}"):
            applied(model_of("sd15"), loaded_adapter(layout), face_negative=negative)
        wrong = Embeds(**given | {"hidden_states": torch.zeros(1, 5, 1664), "face_embeds": torch.ones(1, 128)})
        with pytest.raises(ValueError, match="^face_negative: This adapter needs .*(1664|128)"):
            applied(model_of("sd15"), loaded_adapter(layout), face_negative=wrong)

    def test_the_same_graph_works_once_it_is_mended(self, plain):
        mistake(start_percent=0.8, end_percent=0.2)
        mended = applied(model_of("sd15"), loaded_adapter("base"), start_percent=0.2, end_percent=0.8)
        assert not torch.equal(sampled(mended), plain["sd15"])


def test_a_mistake_is_found_before_anything_is_loaded(monkeypatch):
    """Apply is graph time: no weight moves, nothing is encoded."""
    adapter = loaded_adapter("plus")

    def refuse(*arguments, **named):
        raise AssertionError("a model was loaded at graph time")

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", refuse)
    monkeypatch.setattr(type(adapter.adapter), "face_tokens", refuse)
    applied(model_of("sd15"), adapter)
    wrong = dataclasses.replace(Embeds(**features()), hidden_states=torch.zeros(1, 5, 7))
    with pytest.raises(ValueError, match="width 7"):
        applied(model_of("sd15"), adapter, wrong)


@pytest.mark.parametrize(
    ("layers", "width", "name"), [(16, 768, "SD1.5"), (16, 1024, "SD2"), (70, 2048, "SDXL"), (33, 2048, "another")]
)
def test_families_have_the_names_that_people_use(layers, width, name):
    assert _family(layers, width).startswith(name)


# What the weights do (their effect on pictures: tests/hosts)


@pytest.mark.parametrize(
    "arguments", [{"face_weight": 0.0}, {"layer_weights": "0:0"}, {"start_percent": 0.5, "end_percent": 0.5}]
)
def test_settings_under_which_nothing_acts(arguments, plain):
    model = applied(model_of("sd15"), loaded_adapter("base"), **arguments)
    difference = (sampled(model) - plain["sd15"]).abs().max()
    if "start_percent" in arguments:
        # One moment: at most one of the steps lies in it.
        whole = (sampled(applied(model_of("sd15"), loaded_adapter("base"))) - plain["sd15"]).abs().max()
        assert difference < whole
    else:
        assert difference == 0


def test_lora_strength_reaches_the_model_only_with_a_weight():
    model, adapter = model_of("sd15"), loaded_adapter("faceid")
    assert len(applied(model, adapter).patches) == 16 * 2 * 4
    assert applied(model, adapter, lora_strength=0.0).patches == {}
    assert applied(model, adapter, face_weight=0.0).patches == {}
    assert applied(model, loaded_adapter("faceid_portrait")).patches == {}


# Body


def test_a_body_needs_an_adapter_with_a_body_branch():
    with pytest.raises(ValueError, match=r"base\.safetensors has no body branch.*disconnect 'body'"):
        applied(model_of("sd15"), loaded_adapter("base"), body=body())


def test_a_body_of_another_encoder_is_refused():
    person = body()
    wide = dataclasses.replace(person, hidden_states=torch.zeros(2, 5, ENCODER_WIDTH + 8))
    with pytest.raises(ValueError, match=rf"width {ENCODER_WIDTH}\).*the body's image features"):
        applied(model_of("sd15"), cared_for(bolid_adapter()), body=wide)


def test_nothing_connected_names_both_inputs():
    with pytest.raises(ValueError, match="'face'.*'body'"):
        applied(model_of("sd15"), cared_for(bolid_adapter()), face=None)


@pytest.mark.parametrize("name", ["body_weight", "body_start_percent", "body_end_percent"])
def test_numbers_of_the_body_are_finite(name):
    with pytest.raises(ValueError, match=f"{name} must be a finite number"):
        applied(model_of("sd15"), cared_for(bolid_adapter()), body=body(), **{name: float("nan")})


def test_the_bodys_schedule_and_layers_are_named_in_messages():
    adapter = cared_for(bolid_adapter())
    with pytest.raises(ValueError, match="body_start_percent .* is after body_end_percent .* body_weight"):
        applied(model_of("sd15"), adapter, body=body(), body_start_percent=0.6, body_end_percent=0.4)
    with pytest.raises(ValueError, match="^body_layer_weights has '3'"):
        applied(model_of("sd15"), adapter, body=body(), body_layer_weights="3")
    with pytest.raises(ValueError, match="^body_layer_weights names layer 99"):
        applied(model_of("sd15"), adapter, body=body(), body_layer_weights="99:1")
