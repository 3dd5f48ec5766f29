"""What a policy sees in training and when it acts: crops at one scale, histories in order, mixtures by weight."""

import json
from pathlib import Path

import numpy as np
import pytest
from synthetic_run import SyntheticReader, train_config

from vlm4vla import config as configs
from vlm4vla.data import build
from vlm4vla.data.augment import center_crop, crop
from vlm4vla.data.mixture import Mixture
from vlm4vla.policy import Policy
from vlm4vla.policy_folder import CARD, META
from vlm4vla.schemas import MixtureSource, TrainConfig
from vlm4vla.train import run
from vlm4vla.types import Observation, UserError

AREA = 0.64  # sides of 0.8


class OtherReader(SyntheticReader):
    def digest(self) -> str:
        return "other"

    def episode(self, index: int):
        return super().episode(index + 10)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("other") / "store"
    build.build(OtherReader(), out, image_size=96, encoding="png")
    return out


def changed(store: Path, out: Path, policy: dict[str, object], **settings: object):
    plain = train_config(store, out).policy.model_dump()
    return train_config(store, out, policy={**plain, **policy}, **settings)


def seen(policy: Policy, inputs: dict[str, np.ndarray]) -> np.ndarray:
    return np.stack(policy.backbone.processor.seen(inputs))


def checks(size: int) -> np.ndarray:
    """Smooth stripes, so that a wrong scale or place is a large difference, and rounding is a small one."""
    rows, columns = np.mgrid[:size, :size] / size
    return np.stack([128 + 100 * np.sin(9 * rows), 128 + 100 * np.sin(9 * columns), 255 * rows], -1).astype(np.uint8)


def test_a_policy_trained_on_crops_acts_on_the_centre_at_the_same_scale(store: Path, tmp_path: Path) -> None:
    """Reference defect 13: it trained on 90 % of the area and acted on all of it."""
    config = train_config(store, tmp_path / "run", steps=2, data={"store": store, "augment": {"crop": AREA}})
    record = run.train(config)
    assert record.facts["center_crop"] == AREA
    policy = Policy.from_pretrained(config.out / "policy")
    assert policy.facts.center_crop == AREA
    assert "middle 64% of their area" in (config.out / "policy" / CARD).read_text()
    image = checks(96)
    acting = seen(policy, policy.preparer.observe(Observation({"front": image}, "push")))[0]
    assert np.array_equal(acting, center_crop(image, AREA))
    assert np.abs(acting.astype(int) - image).max() > 40  # the whole picture looks otherwise
    # training changes nothing but the window's place: the centre of one window is at the same scale in the other
    plain = seen(policy, policy.preparer.prepare({"front": crop(image, AREA, 0.0, 0.0)}, "push", None))[0].astype(int)
    moved = round(0.5 * 0.2 / 0.8 * 96)  # half the play of the window, in pixels of the cropped picture
    assert np.abs(plain[moved:, moved:] - acting[:-moved, :-moved]).max() <= 3
    # a training sample is not cropped a second time
    sample = run.objective_of(config, Mixture.open(config.data.sources))[0].items.samples.sample(3, 0)
    assert np.array_equal(seen(policy, policy.preparer.example(sample))[0], sample.images["front"])
    assert not np.array_equal(
        policy.act([Observation({"front": image}, "push")]),
        policy.act([Observation({"front": center_crop(image, AREA)}, "push")]),
    )


def test_larger_pictures_come_to_the_view_before_the_crop(store: Path, tmp_path: Path) -> None:
    config = train_config(store, tmp_path / "run", steps=2, data={"store": store, "augment": {"crop": AREA}})
    _, policy = run.objective_of(config, Mixture.open(config.data.sources))
    large = checks(200)
    acting = seen(policy, policy.preparer.observe(Observation({"front": large}, "push")))[0]
    assert np.array_equal(acting, center_crop(policy.backbone.processor.resize(large), AREA))
    with pytest.raises(UserError, match="float64"):
        policy.act([Observation({"front": large.astype(float)}, "push")])


def test_without_a_crop_the_whole_picture_is_seen(store: Path, tmp_path: Path) -> None:
    record = run.train(train_config(store, tmp_path / "run", steps=2))
    assert record.facts["center_crop"] is None
    policy = Policy.from_pretrained(tmp_path / "run" / "policy")
    assert json.loads((tmp_path / "run" / "policy" / META).read_text())["facts"]["center_crop"] is None
    image = checks(96)
    assert np.array_equal(seen(policy, policy.preparer.observe(Observation({"front": image}, "push")))[0], image)


def test_a_history_reaches_the_prompt_oldest_first(store: Path, tmp_path: Path) -> None:
    config = changed(store, tmp_path / "run", {"window": 3}, steps=2)
    record = run.train(config)
    assert record.facts["pictures_per_camera"] == 3 and len(record.facts["image_pixels"]) == 3
    policy = Policy.from_pretrained(config.out / "policy")
    assert policy.cameras == ("front@-2", "front@-1", "front")
    pictures = [np.full((96, 96, 3), level, np.uint8) for level in (50, 100, 150)]
    images = dict(zip(policy.cameras, pictures, strict=True))
    shown = seen(policy, policy.preparer.observe(Observation(images, "push")))
    assert [int(image[0, 0, 0]) for image in shown] == [50, 100, 150]
    one = Policy.create(train_config(store, tmp_path).policy, policy.facts, 0)
    image_tokens = record.facts["image_tokens"] // 3
    assert policy.count_tokens("push") - one.count_tokens("push") >= 2 * image_tokens
    with pytest.raises(UserError, match="'front@-2' is missing"):
        policy.act([Observation({"front": pictures[0]}, "push")])


def test_a_mixture_trains_and_its_weights_are_part_of_the_run(store: Path, other: Path, tmp_path: Path) -> None:
    def config(weight: float):
        sources = [{"store": store, "weight": 1.0}, {"store": other, "weight": weight}]
        return train_config(store, tmp_path / "run", data={"mixture": sources, "augment": {"shift": 4}}, steps=3)

    record = run.train(config(3.0))
    assert list(record.facts["shares"].values()) == [0.25, 0.75]
    mixture = Mixture.open(config(3.0).data.sources)
    assert record.inputs["store"] == mixture.digest
    policy = Policy.from_pretrained(tmp_path / "run" / "policy")
    assert policy.facts.provenance["shares"] == record.facts["shares"]
    assert policy.facts.state_mean == mixture.state_statistics().mean
    with pytest.raises(UserError, match="nothing is overwritten"):
        run.train(config(2.0))


def test_where_stores_lie_is_no_part_of_the_identity(store: Path, other: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.symlink_to(other)
    hashes = set()
    for path in (other, moved):
        sources = [{"store": store, "weight": 1}, {"store": path, "weight": 1}]
        config = train_config(store, tmp_path / "run", data={"mixture": sources})
        hashes.add(run.identity(config, Mixture.open(config.data.sources).digest))
    assert len(hashes) == 1
    alone = train_config(store, tmp_path / "run", data={"store": store})
    assert alone.data.sources == (MixtureSource(store=store, weight=1.0),)


@pytest.mark.parametrize("data", [{}, {"store": "a", "mixture": [{"store": "b", "weight": 1}]}, {"mixture": []}])
def test_one_store_or_a_mixture(data: dict[str, object], tmp_path: Path) -> None:
    plain = configs.to_dict(train_config(tmp_path, tmp_path))
    with pytest.raises(UserError, match="give either store"):
        configs.validate(TrainConfig, {**plain, "data": data}, "a test")
