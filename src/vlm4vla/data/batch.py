"""Samples: one frame, what was seen before it, and the chunk of actions from it on.

Everything is a function of numbers: the order of (seed, place), see ``order.py``; augmentation and noise of a sample of
(seed, epoch, index). So the state of the loader is one integer, the step, whatever the number of loader processes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vlm4vla.data.augment import draw
from vlm4vla.data.mixture import Mixture
from vlm4vla.data.order import Order
from vlm4vla.schemas import AugmentConfig
from vlm4vla.types import Image, Vector, camera_and_age, refuse, view_names

_AUGMENT, _NOISE = 2, 4  # first words of the seeds; order.py takes others


@dataclass(frozen=True, eq=False)
class Sample:
    """One frame and the H actions from it on.

    ``images`` (H, W, 3) uint8 after augmentation, by the names of ``types.view_names``; ``state`` (S,) float32 or None;
    ``actions`` (H, A) float32 in raw units; ``mask`` (H,) bool: False, and zero actions, for steps after the end of the
    episode; ``noise`` (0 to 2**63 - 1): seed of what the head draws for it, if anything.
    """

    images: Mapping[str, Image]
    instruction: str
    state: Vector | None
    actions: npt.NDArray[np.float32]
    mask: npt.NDArray[np.bool_]
    noise: int = 0


class Samples:
    """Map-style data set over all frames of a mixture; keys are (index, epoch), as ``order.BatchSampler`` yields them.

    ``window`` is the number of pictures per camera: that of the frame and of those before it, the first frame of the
    episode repeated at its start. Cameras are augmented independently of each other, the pictures of one camera alike.
    """

    def __init__(
        self,
        mixture: Mixture,
        chunk: int,
        cameras: tuple[str, ...],
        augment: AugmentConfig,
        seed: int,
        window: int = 1,
    ) -> None:
        known = [c.name for c in mixture.cameras]
        for name in cameras:
            if name not in known:
                raise refuse(
                    f"The store has no camera {name!r}", given=name, possible=known, todo="Name one of these cameras."
                )
        assert chunk > 0 and cameras and window > 0, "a sample has at least one action and one camera"
        self.mixture, self.chunk, self.cameras = mixture, chunk, cameras
        self.augment, self.seed, self.window = augment, seed, window

    def __len__(self) -> int:
        return len(self.mixture)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        return self.sample(*key)

    def order(self) -> Order:
        """The order in which a run with this seed sees the samples."""
        return self.mixture.order(self.seed)

    def sample(self, index: int, epoch: int) -> Sample:
        """Frame ``index`` with the augmentation of ``epoch``; its actions are those of the next H frames."""
        store, i = self.mixture.find(index)
        episode = store.episode_of(i)
        generator = np.random.default_rng([_AUGMENT, self.seed, epoch, index])
        changes = {camera: draw(self.augment, generator) for camera in self.cameras}
        images: dict[str, Image] = {}
        for view in view_names(self.cameras, self.window):
            camera, age = camera_and_age(view)
            images[view] = changes[camera](store.image(max(i - age, episode.start), camera))
        valid = min(self.chunk, episode.stop - i)
        actions = np.zeros((self.chunk, store.action_spec.size), np.float32)
        actions[:valid] = store.actions[i : i + valid]
        noise = np.random.SeedSequence([_NOISE, self.seed, epoch, index]).generate_state(1, np.uint64)[0]
        return Sample(
            images=images,
            instruction=episode.instruction,
            state=store.states[i].copy() if store.states is not None else None,
            actions=actions,
            mask=np.arange(self.chunk) < valid,
            noise=int(noise >> 1),
        )
