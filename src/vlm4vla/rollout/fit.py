"""Whether a policy can be evaluated on a benchmark at all; asked before any process is started."""

from vlm4vla.rollout.batching import ActingPolicy
from vlm4vla.rollout.names import BUILTINS
from vlm4vla.schemas import EvalConfig
from vlm4vla.types import Benchmark, camera_and_age, refuse


def check_policy(config: EvalConfig, policy: ActingPolicy | None, bench: Benchmark) -> None:
    """UserError unless actions, chunk, cameras and state of the policy are those of the benchmark.

    A server (``policy`` null) is checked by the workers, when they have read its metadata.
    """
    if policy is None:
        if config.policy not in BUILTINS and not config.policy.startswith(("ws://", "wss://")):
            raise refuse(
                f"The policy {config.policy!r} was not loaded",
                given=config.policy,
                possible=["ws://HOST:PORT", *BUILTINS],
                todo="Give one of these, or a policy folder through `vlm4vla eval`.",
            )
        return
    differences = policy.action_spec.differences(bench.action_spec)
    if differences:
        raise refuse(
            f"The policy's actions mean something else than those of {bench.id}: {'; '.join(differences)}",
            possible=f"a policy of {bench.action_spec}",
            todo="Train on demonstrations of this benchmark; no conversion between the two is known.",
        )
    if config.execute > policy.chunk:
        raise refuse(
            f"execute is {config.execute}",
            possible=f"1 to {policy.chunk}, the policy's chunk",
            todo="Execute at most the steps that the policy predicts.",
        )
    cameras = [camera.name for camera in bench.cameras]
    for camera in policy.cameras:
        if camera_and_age(camera)[0] not in cameras:
            raise refuse(
                f"The policy looks through camera {camera!r}, which {bench.id} lacks",
                given=camera,
                possible=cameras,
                todo="Evaluate it on the benchmark whose cameras it was trained with.",
            )
    if policy.state_names and policy.state_names != bench.state_names:
        raise refuse(
            f"The policy reads the state ({', '.join(policy.state_names)})",
            possible=f"({', '.join(bench.state_names)}), that of {bench.id}",
            todo="Evaluate it on the benchmark it was trained for.",
        )
